"""What tests share: a byte-level tokeniser, tiny random models of several families, small tasks, benches.

Nothing is fetched; torch and transformers are imported by the fixtures that need them.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models wait for threads far longer than they compute

import pytest

from toolkit.errors import DataError
from toolkit.evaluation import metrics_for
from toolkit.inference.model import Sampling
from toolkit.meter import Meter
from toolkit.rendering.renderer import Renderer
from toolkit.rendering.template import Template
from toolkit.retrieval import HashingEncoder
from toolkit.store import Store
from toolkit.strategies.adapter import Adapter, Answerer
from toolkit.strategies.bench import Bench
from toolkit.strategies.fitting import Fitted, fit
from toolkit.strategies.strategy import NamedAdapter, Strategy
from toolkit.strategies.system import Conditions
from toolkit.tasks.contract import ChoiceContract, TextContract
from toolkit.tasks.example import Example, Span
from toolkit.tasks.task import Task

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<s>")
MERGES = (
    ("Ġ", "t"),
    ("Ġt", "h"),
    ("e", "r"),
    ("i", "n"),
    ("Ċ", "Ċ"),
    ("in", "g"),
    ("u", "s"),
    ("us", "er"),
    ("1", "2"),
)
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LABELS = ("card arrival", "card", "refund", "top up")


@pytest.fixture(autouse=True)
def _products_as_before() -> Iterator[None]:
    """`tune_cpu` switches how this process multiplies: no test may inherit that from another."""
    yield
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch.backends.mkldnn, "matmul"):
        torch.backends.mkldnn.matmul.fp32_precision = "none"


@pytest.fixture(scope="session")
def make_tokenizer() -> Callable[..., Any]:
    """A byte-level BPE tokeniser; `adds_bos` puts `<s>` in front of what is tokenised with special tokens."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    def make(chat_template: str | None = CHATML, adds_bos: bool = False) -> Any:
        words = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(merge) for merge in MERGES)]
        inner = Tokenizer(models.BPE({word: place for place, word in enumerate(words)}, list(MERGES)))
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        inner.decoder = decoders.ByteLevel()
        if adds_bos:
            inner.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 3)])
        named = {"bos_token": "<s>"} if adds_bos else {}
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=inner, eos_token="<|im_end|>", pad_token="<|im_end|>", **named
        )
        tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL)})
        tokenizer.add_tokens([AddedToken("<think>", special=False)])
        tokenizer.chat_template = chat_template
        return tokenizer

    return make


@pytest.fixture(scope="session")
def tokenizer(make_tokenizer: Callable[..., Any]) -> Any:
    return make_tokenizer()


@pytest.fixture(scope="session")
def renderer(tokenizer: Any) -> Renderer:
    return Renderer(tokenizer)


@pytest.fixture(scope="session")
def make_module() -> Callable[..., Any]:
    """A random causal language model of a family, fp32, eval mode. Initialised widely, so that attention matters."""
    import torch
    import transformers as tf

    shared = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    ends = {"bos_token_id": 3, "eos_token_id": 2, "pad_token_id": 2, "initializer_range": 0.4}
    usual = {**shared, **heads, **ends, "max_position_embeddings": 512}
    families: dict[str, tuple[Any, dict[str, Any]]] = {
        "llama": (tf.LlamaConfig, {**usual, "tie_word_embeddings": True}),
        "qwen2": (tf.Qwen2Config, usual),
        "qwen3": (tf.Qwen3Config, usual),
        "mistral": (tf.MistralConfig, {**usual, "sliding_window": None}),
        "smollm3": (tf.SmolLM3Config, usual),
        "gemma": (tf.GemmaConfig, usual),
        "gemma2": (tf.Gemma2Config, {**usual, "query_pre_attn_scalar": 8, "final_logit_softcapping": 3.0}),
        "gemma3_text": (tf.Gemma3TextConfig, {**usual, "query_pre_attn_scalar": 8}),
        "gpt2": (
            tf.GPT2Config,
            {"vocab_size": 300, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512, **ends},
        ),
        "opt": (tf.OPTConfig, {**usual, "ffn_dim": 48, "word_embed_proj_dim": 32, "dropout": 0.0}),
        "falcon": (
            tf.FalconConfig,
            {**shared, "num_attention_heads": 4, "max_position_embeddings": 512, "ffn_hidden_size": 48, **ends},
        ),
        "mamba": (tf.MambaConfig, {**shared, "state_size": 4, "num_hidden_layers": 2, **ends}),
        "gpt_neox": (tf.GPTNeoXConfig, {**shared, "num_attention_heads": 4, "max_position_embeddings": 512, **ends}),
    }
    made: dict[str, Any] = {}

    def make(family: str, fresh: bool = False, attention: str = "sdpa", **changes: Any) -> Any:
        attention = "eager" if family == "gemma2" else attention  # its soft cap is not in sdpa
        name = f"{family}/{attention}/{sorted(changes.items())}"
        if fresh or name not in made:
            settings, values = families[family]
            with torch.random.fork_rng():
                torch.manual_seed(0)
                config = settings(**{**values, **changes})
                module = tf.AutoModelForCausalLM.from_config(config, attn_implementation=attention).float().eval()
            module.requires_grad_(False)
            if fresh:
                return module
            made[name] = module
        return made[name]

    return make


@pytest.fixture(scope="session")
def save_adapter() -> Callable[..., Path]:
    """PEFT alone, as another trainer: an adapter for a module, which changes its answers, saved in a folder."""
    import torch
    from peft import LoraConfig, get_peft_model

    from toolkit.models.weights import shared_copy

    def save(module: Any, folder: Path, **settings: Any) -> Path:
        config = LoraConfig(**{"task_type": "CAUSAL_LM", "r": 4, "target_modules": "all-linear", **settings})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers by an old name
            adapted = get_peft_model(shared_copy(module), config)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name, parameter in adapted.named_parameters():
                if "lora_B" in name:
                    parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
        adapted.save_pretrained(str(folder))
        return folder

    return save


@pytest.fixture
def tiny_model(make_module: Callable[..., Any], renderer: Renderer) -> Any:
    """A LocalModel over a tiny Llama."""
    from toolkit.inference import LocalModel

    return LocalModel(make_module("llama"), renderer, "tiny", "tiny-digest", context_tokens=512)


@pytest.fixture
def four_bits(tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """What `dtype: nf4` loads of a module's weights. Skips where bitsandbytes is not installed."""
    pytest.importorskip("bitsandbytes", reason="weights in 4 bits need the extra `qlora` (bitsandbytes)")
    from toolkit.models import load

    monkeypatch.setenv("TOOLKIT_CACHE", str(tmp_path / "cache-of-four-bits"))
    saved = iter(range(100))

    def loaded(module: Any, computing: str = "float32") -> Any:
        monkeypatch.setattr(load, "computing_dtype", lambda chosen, device: computing)  # whatever processor this is
        folder = tmp_path / f"weights-{next(saved)}"
        module.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return load.load_pretrained(folder, "nf4", "cpu")

    return loaded


@pytest.fixture(scope="session")
def template() -> Template:
    return Template.load("answer")


@pytest.fixture
def choice_task() -> Task:
    """Four labels of which one is the beginning of another; groups of two; one question twice under two ids."""
    said = {
        "card arrival": ("where is my new card", "my card has not come yet", "when will the card come"),
        "card": ("which card is mine", "is this card still good", "show me the card number"),
        "refund": ("give me my money back", "I want a refund", "please refund the order"),
        "top up": ("how do I top up", "top up failed again", "add money to my account"),
    }
    rows = [
        Example(f"{label}-{number}", {"message": text}, (label,), group=f"g{number}-{label}")
        for label, texts in said.items()
        for number, text in enumerate(texts)
    ]
    train = (*rows, Example("twin", {"message": "I want a refund"}, ("refund",), group="gt"))
    held = [
        Example(f"{split}-{label}", {"message": f"{split} question: {said[label][0]} or {said[label][1]}"}, (label,))
        for split in ("validation", "test")
        for label in LABELS
    ]
    return Task(
        "tickets", ChoiceContract(LABELS), train, tuple(held[:4]), None, ("accuracy",), None, test=tuple(held[4:])
    )


@pytest.fixture
def text_task(tmp_path: Path) -> Task:
    """Questions over a folder of documents, with gold spans and an unanswerable one."""
    facts = {
        "winch": ("The Hesk winch lifts 900 kilograms.", "What does the Hesk winch lift?", "900 kilograms"),
        "boat": ("The survey boat Mistle sleeps four.", "How many does the boat Mistle sleep?", "four"),
        "gate": ("The gate motor needs oil in March.", "When does the gate motor need oil?", "March"),
        "store": ("The battery store opens at seven.", "When does the battery store open?", "seven"),
        "buoy": ("The lanternfish buoy weighs 40 kilograms.", "What does the buoy weigh?", "40 kilograms"),
        "gauge": ("The tide gauge is read every hour.", "How often is the tide gauge read?", "every hour"),
    }
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    rows = []
    for name, (fact, question, answer) in facts.items():
        (corpus / f"{name}.md").write_text(f"{fact} Nothing else is known of it.\n", encoding="utf-8")
        start = fact.index(answer)
        rows.append(
            Example(
                name, {"question": question}, (answer,), group=name, spans=(Span(name, start, start + len(answer)),)
            )
        )
    unanswerable = Example("nobody", {"question": "Who paints the fence?"}, ())
    contract = TextContract(abstention="I do not know")
    return Task(
        "handbook",
        contract,
        tuple(rows[:3]),
        (rows[3],),
        corpus,
        ("exact_match",),
        None,
        test=(*rows[4:], unanswerable),
    )


@pytest.fixture
def make_bench(tmp_path: Path, template: Template) -> Callable[..., Bench]:
    """A bench for a task and a model, over a store in this test's folder."""

    def make(task: Task, model: Any, **changes: Any) -> Bench:
        answer_by = changes.pop("answer_by", "likelihood" if task.contract.kind == "choice" else "generation")
        over_length = changes.pop("over_length", "stop")
        conditions = Conditions(
            template, task.contract, answer_by, Sampling(8), task.shared_groups is not None, over_length
        )
        values: dict[str, Any] = {
            "task": task.without_test(),
            "model": model,
            "conditions": conditions,
            "environment": {"dtype": "float32"},
            "versions": {"code": "1"},
            "embedder": HashingEncoder,
            "primary": metrics_for(task.metrics, task.contract)[0],
            "store": Store(tmp_path / "store"),
            "meter": Meter(),
        }
        return Bench(**{**values, **changes})

    return make


@pytest.fixture
def strategy_of() -> Callable[..., Strategy]:
    """A strategy from adapters, named by their classes."""

    def make(name: str, *adapters: Adapter) -> Strategy:
        return Strategy(
            name, tuple(NamedAdapter(type(item).__name__.removesuffix("Adapter").lower(), item) for item in adapters)
        )

    return make


@pytest.fixture
def fit_on(tmp_path: Path, strategy_of: Callable[..., Strategy]) -> Callable[..., Fitted]:
    """Fits a stack of adapters on a bench."""

    def fitted(
        bench: Bench,
        *adapters: Adapter,
        seed: int | None = 0,
        folder: str = "system",
        systems: Callable[[str], Answerer] | None = None,
    ) -> Fitted:
        def none(name: str) -> Answerer:
            raise DataError(f"no strategy {name} here")

        return fit(strategy_of("stack", *adapters), seed, bench, tmp_path / folder, systems or none)

    return fitted
