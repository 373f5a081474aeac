"""The shipped recipes on a tiny random model, and a place to plant violations in them."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from toolkit.errors import ToolkitError
from toolkit.inference import LocalModel
from toolkit.meter import Meter
from toolkit.recipe import Recipe, load_recipe
from toolkit.resources import shipped
from toolkit.runs.prepare import ModelLoader, load_local
from toolkit.runs.run import RunResult, run
from toolkit.strategies.adapter import Adapter
from toolkit.strategies.strategy import installed_adapters

CHAT = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
Rows = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True)
class TinyModels:
    """Folders of random weights: two bf16 models that read the shipped datasets, and an embedder."""

    root: Path
    model: Path
    other: Path
    embedder: Path

    def with_context(self, tokens: int) -> Path:
        """The model with another context length."""
        folder = self.root / f"tiny-{tokens}"
        if not folder.exists():
            shutil.copytree(self.model, folder)
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": tokens}))
        return folder


class Shipped:
    """Runs shipped recipes on the tiny models; what a test says comes last and wins."""

    def __init__(self, models: TinyModels, root: Path) -> None:
        self.models, self.root = models, root
        self.runs = 0

    def recipe(self, name: str, *overrides: str) -> Recipe:
        base = (f"model={self.models.model}", f"embedder={self.models.embedder}", "limit=4")
        small = ("decoding.max_new_tokens=3", "timing.examples=0")
        return load_recipe(name, [*base, *small, *overrides])

    def run(self, name: str, *overrides: str, load: ModelLoader | None = None, store: str = "store") -> RunResult:
        """A run in a folder of its own; runs with the same `store` share their Store."""
        self.runs += 1
        out = self.root / f"run-{self.runs}"
        return run(self.recipe(name, *overrides), out=out, load=load, store=self.root / store)

    def refusal(self, name: str, *overrides: str, load: ModelLoader | None = None) -> ToolkitError:
        """What a run that must not come to its end is refused with."""
        with pytest.raises(ToolkitError) as caught:
            self.run(name, *overrides, load=load)
        return caught.value

    @property
    def last(self) -> Path:
        """The folder of the latest run."""
        return self.root / f"run-{self.runs}"

    def loader(self, name: str, dtype: str = "bfloat16") -> LocalModel:
        model = load_local(name, self.recipe("quickstart", f"dtype={dtype}"), Meter())
        assert isinstance(model, LocalModel)
        return model

    def task(self, name: str, edit: Callable[[Rows], None], shared_groups: bool = True) -> Path:
        """A copy of a shipped dataset whose rows `edit` changes in place."""
        folder = self.root / f"{name}-edited"
        shutil.copytree(shipped("datasets") / name, folder)
        rows: Rows = {}
        for split in ("train", "validation", "test"):
            lines = (folder / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
            rows[split] = [json.loads(line) for line in lines]
        edit(rows)
        for split, items in rows.items():
            text = "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items)
            (folder / f"{split}.jsonl").write_text(text, encoding="utf-8")
        if not shared_groups:
            about = folder / "task.yaml"
            text, dropped = re.subn(r"(?m)^shared_groups:.*\n", "", about.read_text(encoding="utf-8"))
            assert dropped == 1
            about.write_text(text, encoding="utf-8")
        return folder


def outputs_of(folder: Path, strategy: str) -> list[dict[str, Any]]:
    (path,) = sorted((folder / "outputs" / strategy).glob("*.jsonl"))
    return [json.loads(line)["output"] for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="session")
def outputs() -> Callable[[Path, str], list[dict[str, Any]]]:
    """A strategy's outputs as its only seed's file holds them."""
    return outputs_of


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> TinyModels:
    root = tmp_path_factory.mktemp("tiny")
    folders = [shipped("datasets") / name for name in ("handbook", "tickets")]
    texts = [path.read_text(encoding="utf-8") for folder in folders for path in sorted(folder.rglob("*.*"))]
    tokenizer = _tokenizer(texts)
    return TinyModels(
        root,
        _model(root / "tiny-model", tokenizer, seed=0),
        _model(root / "other-model", tokenizer, seed=7),
        _embedder(root, texts),
    )


@pytest.fixture
def tiny_shipped(tiny_models: TinyModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shipped:
    """The shipped recipes, with a cache of their own and without the report's charts."""
    monkeypatch.setenv("TOOLKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("toolkit.report.write_report", lambda folder: None)
    return Shipped(tiny_models, tmp_path)


@pytest.fixture
def plant(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Installs adapters beside the shipped ones, as an entry point would."""

    def planted(**adapters: type[Adapter]) -> None:
        there: Mapping[str, type[Adapter]] = {**installed_adapters(), **adapters}
        monkeypatch.setattr("toolkit.strategies.strategy.installed_adapters", lambda: there)

    return planted


@dataclass(frozen=True)
class WholeRun:
    """A run of every strategy of a recipe, and the base model it left behind."""

    folder: Path
    comparison: Mapping[str, Any]
    recipe: Recipe
    overrides: Sequence[str]
    base: LocalModel
    before: Mapping[str, Any]


def tuned(recipe: Recipe) -> list[str]:
    """The strategies with weights of their own."""
    stacks = {strategy.name: [adapter.kind for adapter in strategy.adapters] for strategy in recipe.strategies}
    return [name for name, kinds in stacks.items() if "tune" in kinds]


def _fewer(rows: Rows) -> None:
    rows["train"][:] = rows["train"][::5]
    rows["validation"][:] = rows["validation"][::2]


@pytest.fixture(scope="session")
def observe() -> Callable[[LocalModel], dict[str, Any]]:
    return observed


def observed(model: LocalModel) -> dict[str, Any]:
    """Everything of a base that point 7 wants unchanged, seen from outside the toolkit, and what it answers."""
    import torch

    module = model.module
    with torch.inference_mode():
        logits = module(input_ids=torch.arange(3, 60)[None]).logits.clone()
    return {
        "tensors": {name: tensor.detach().clone() for name, tensor in module.state_dict(keep_vars=True).items()},
        "storage": {name: tensor.data_ptr() for name, tensor in module.state_dict(keep_vars=True).items()},
        "modules": [(name, type(item).__qualname__, item.training) for name, item in module.named_modules()],
        "gradients": [(name, item.requires_grad, item.grad is None) for name, item in module.named_parameters()],
        "attention": module.config._attn_implementation,
        "logits": logits,
    }


@pytest.fixture(scope="session")
def whole_runs(
    tiny_models: TinyModels, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], WholeRun]]:
    """Handbook and tickets with all their strategies, run once for all tests; nobody may write there.

    Tuning takes two steps only, and of the tickets a fifth is trained on: all else is as it ships.
    """
    root = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOOLKIT_CACHE", str(root / "cache"))

        @cache
        def whole(name: str) -> WholeRun:
            here = Shipped(tiny_models, root / name)
            bases: list[tuple[LocalModel, dict[str, Any]]] = []
            overrides = [f"strategies.{strategy}.tune.max_steps=2" for strategy in tuned(here.recipe(name))]
            if name == "tickets":
                overrides.append(f"task={here.task(name, _fewer)}")

            def load(model: str) -> LocalModel:
                loaded = here.loader(model)
                bases.append((loaded, observed(loaded)))
                return loaded

            result = here.run(name, *overrides, load=load)
            ((base, before),) = bases
            recipe = here.recipe(name, *overrides)
            return WholeRun(result.folder, result.comparison, recipe, overrides, base, before)

        yield whole


def _tokenizer(texts: Sequence[str]) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=1500, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    inner.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|im_end|>", pad_token="<|im_end|>")
    tokenizer.chat_template = CHAT
    return tokenizer


def _model(folder: Path, tokenizer: Any, seed: int) -> Path:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=4096,
            tie_word_embeddings=True,
            initializer_range=0.3,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.eos_token_id,
        )
        LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _embedder(root: Path, texts: Sequence[str]) -> Path:
    import torch
    from sentence_transformers import SentenceTransformer, models
    from tokenizers import Tokenizer, pre_tokenizers, processors
    from tokenizers import models as token_models
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *sorted({word for text in texts for word in re.findall(r"\w+", text)})]
    inner = Tokenizer(token_models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    with torch.random.fork_rng():
        torch.manual_seed(1)
        config = BertConfig(
            vocab_size=len(words),
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=256,
        )
        BertModel(config).save_pretrained(root / "tiny-bert")
    tokenizer.save_pretrained(root / "tiny-bert")
    transformer = models.Transformer(str(root / "tiny-bert"), max_seq_length=256)
    folder = root / "tiny-embedder"
    SentenceTransformer(modules=[transformer, models.Pooling(16)], device="cpu").save(str(folder))
    return folder
