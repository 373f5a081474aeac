"""A small world on disk: a tiny random model, a tiny embedder, two tasks and recipes over them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from toolkit.runs.run import RunResult, run

CHAT = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
COLOURS = ("amber", "blue", "cream", "drab")
NOUNS = ("lamp", "rope", "gate", "buoy", "chart", "kettle", "ladder", "pump")


@dataclass(frozen=True)
class World:
    """Paths of the world's parts; recipes name everything by path."""

    root: Path
    model: Path
    embedder: Path
    choice_task: Path
    text_task: Path

    def recipe(self, path: Path, strategies: Mapping[str, Any], **changes: Any) -> Path:
        """A recipe file over the text task; `changes` replace or add keys, None leaves one out."""
        keys = {
            "task": str(self.text_task),
            "model": str(self.model),
            "embedder": str(self.embedder),
            "dtype": "bfloat16",
            "decoding": {"max_new_tokens": 3},
            "chunk_examples": 8,
            "timing": {"examples": 2},
            **changes,
            "strategies": strategies,
        }
        lines = [f"{key}: {json.dumps(value)}\n" for key, value in keys.items() if value is not None]
        path.write_text("".join(lines), encoding="utf-8")
        return path


RETRIEVE = {"top_k": 2, "size_tokens": 16, "overlap_tokens": 4}
TUNE = {
    "rank": 2,
    "epochs": 1,
    "effective_batch_size": 8,
    "checkpoint_every": 2,
    "target_modules": ["q_proj", "up_proj"],
}
STRATEGIES = {
    "zero_shot": [],
    "few_shot": [{"prompt": {"shots": 2}}],
    "rag": [{"retrieve": RETRIEVE}],
    "lora": [{"tune": TUNE}],
    "lora_rag": [{"retrieve": RETRIEVE}, {"tune": TUNE}],
    "oracle": [{"oracle": RETRIEVE}],
}


def _artefacts(root: Path) -> dict[str, bytes]:
    """The bytes a killed run must end with: tables, comparison, outputs and systems.

    A part's folder also says how long its fitting took (`cost.json`, and the seal over it): clocks are left out.
    """
    tables = [root / name for name in ("scores.parquet", "usage.parquet", "comparison.json")]
    files = [path for name in ("outputs", "systems") for path in (root / name).rglob("*") if path.is_file()]
    kept = [path for path in (*tables, *files) if path.name not in ("cost.json", "sealed.json")]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in kept}


@pytest.fixture(scope="session")
def artefacts() -> Callable[[Path], dict[str, bytes]]:
    return _artefacts


@pytest.fixture(scope="session")
def all_strategies() -> dict[str, Any]:
    return STRATEGIES


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the user's is read or written."""
    monkeypatch.setenv("TOOLKIT_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def start(world: World, tmp_path: Path) -> Callable[..., RunResult]:
    """Runs strategies in this test's folder; `out` and `store` name folders in it, other words go to `run`."""

    def started(strategies: Mapping[str, Any], out: str = "run", store: str = "store", **words: Any) -> RunResult:
        given = {name: words.pop(name) for name in RUN_WORDS if name in words}
        path = world.recipe(tmp_path / "recipe.yaml", strategies, **words)
        return run(path, out=tmp_path / out, store=tmp_path / store, **given)

    return started


RUN_WORDS = ("overrides", "fresh", "replace", "listener", "load", "trackers")


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[list[Any]]:
    """What each training was given."""
    from toolkit.tuning import train

    seen: list[list[Any]] = []

    def recorded(module: Any, sequences: Any, *args: Any, **options: Any) -> Any:
        seen.append(list(sequences))
        return train(module, sequences, *args, **options)

    monkeypatch.setattr("toolkit.tuning.train", recorded)
    return seen


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Every call of a local model, adapted ones too: what was called and with how many prompts."""
    from toolkit.inference import LocalModel

    calls: list[tuple[str, int]] = []

    def noted(name: str) -> Any:
        plain = getattr(LocalModel, name)

        def call(self: Any, prompts: Any, more: Any) -> Any:
            calls.append((name, len(prompts)))
            return plain(self, prompts, more)

        return call

    for name in ("generate", "score"):
        monkeypatch.setattr(LocalModel, name, noted(name))
    return calls


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    root = tmp_path_factory.mktemp("world")
    tokenizer = _tokenizer(root)
    return World(root, _model(root, tokenizer), _embedder(root), _choice_task(root), _text_task(root))


def _tokenizer(root: Path) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    inner.train_from_iterator([*COLOURS, *NOUNS, "Message: the lamp is amber. Answer with one label"] * 3, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<|im_end|>", bos_token="<|im_start|>", pad_token="<|im_end|>"
    )
    tokenizer.chat_template = CHAT
    return tokenizer


def _model(root: Path, tokenizer: Any) -> Path:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    folder = root / "tiny-model"
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _embedder(root: Path) -> Path:
    import torch
    from sentence_transformers import SentenceTransformer, models
    from tokenizers import Tokenizer, pre_tokenizers, processors
    from tokenizers import models as token_models
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *COLOURS, *NOUNS, "the", "is", "of", "what", "colour", "."]
    inner = Tokenizer(token_models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=256,
    )
    plain = root / "tiny-bert"
    BertModel(config).save_pretrained(plain)
    tokenizer.save_pretrained(plain)
    transformer = models.Transformer(str(plain), max_seq_length=256)
    pooling = models.Pooling(16)
    folder = root / "tiny-embedder"
    SentenceTransformer(modules=[transformer, pooling], device="cpu").save(str(folder))
    return folder


def _choice_task(root: Path) -> Path:
    folder = root / "colours"
    folder.mkdir()
    labels = ", ".join(COLOURS)
    (folder / "task.yaml").write_text(f"name: colours\nkind: choice\nlabels: [{labels}]\n", encoding="utf-8")
    number = 0
    for split, count in (("train", 24), ("validation", 8), ("test", 24)):
        rows = []
        for _ in range(count):
            colour, noun = COLOURS[number % 4], NOUNS[number % 8]
            text = f"item {number}: the {noun} of row {number * 7} is {colour}"
            rows.append({"id": f"{split}-{number}", "inputs": {"message": text}, "targets": [colour]})
            number += 1
        _write(folder / f"{split}.jsonl", rows)
    return folder


def _text_task(root: Path) -> Path:
    folder = root / "store-room"
    corpus = folder / "corpus"
    corpus.mkdir(parents=True)
    (folder / "task.yaml").write_text(
        "name: store-room\nkind: text\nabstention: not in the list\nshared_groups: one corpus serves every split\n",
        encoding="utf-8",
    )
    rows: dict[str, list[dict[str, object]]] = {"train": [], "validation": [], "test": []}
    for place, noun in enumerate(NOUNS):
        sentences = [f"The {noun} number {n} is {COLOURS[(place + n) % 4]}." for n in range(6)]
        text = f"# {noun}\n\n" + " ".join(sentences) + "\n"
        (corpus / f"{noun}.md").write_text(text, encoding="utf-8")
        for n, sentence in enumerate(sentences):
            split = ("train", "train", "train", "validation", "test", "test")[n]
            colour = COLOURS[(place + n) % 4]
            start = text.index(sentence) + sentence.index(colour)
            span = {"document": noun, "start": start, "end": start + len(colour)}
            question = f"what colour is {noun} number {n}"
            rows[split].append(
                {
                    "id": f"{noun}-{n}",
                    "inputs": {"question": question},
                    "targets": [colour],
                    "group": noun,
                    "spans": [span],
                    "slices": ["early" if n < 3 else "late"],
                }
            )
        rows["test"].append({"id": f"{noun}-x", "inputs": {"question": f"who made the {noun}"}, "targets": []})
        rows["train"].append({"id": f"{noun}-y", "inputs": {"question": f"who sold the {noun}"}, "targets": []})
    for split, examples in rows.items():
        _write(folder / f"{split}.jsonl", examples)
    return folder


def _write(path: Path, rows: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
