"""The shipped adapters, back-ends and encoders pass the checks that users run on theirs; planted faults do not."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from toolkit.inference import LocalModel, Sampling, ScriptedModel
from toolkit.rendering import Draft, Prompt, Renderer, Template
from toolkit.retrieval import HashingEncoder
from toolkit.strategies.adapter import Adapter, FitContext, Part
from toolkit.strategies.controls import OracleAdapter, RandomPassagesAdapter
from toolkit.strategies.neighbours import NearestNeighbourAdapter
from toolkit.strategies.prompt import PromptAdapter
from toolkit.strategies.retrieve import RetrieveAdapter
from toolkit.strategies.trained import TrainedAdapter
from toolkit.strategies.tune import TuneAdapter
from toolkit.tasks.task import Task
from toolkit.testing import check_adapter, check_encoder, check_model

TUNE = {"rank": 2, "max_steps": 2, "learning_rate": 0.01, "checkpoint_every": 0}
FOR_CHOICES = {
    "prompt random": PromptAdapter(shots=2),
    "prompt balanced": PromptAdapter(shots=4, select="balanced"),
    "prompt nearest": PromptAdapter(shots=3, select="nearest"),
    "prompt without shots": PromptAdapter(shots=0, template="answer"),
    "nearest neighbour": NearestNeighbourAdapter(neighbours=3),
    "tune": TuneAdapter.model_validate(TUNE),
    "adapter": TrainedAdapter(path="my-adapter"),
}
FOR_TEXTS = {
    "prompt random": PromptAdapter(shots=2),
    "retrieve": RetrieveAdapter(top_k=2, size_tokens=16, overlap_tokens=0),
    "oracle": OracleAdapter(top_k=2, size_tokens=16, overlap_tokens=0),
    "random passages": RandomPassagesAdapter(top_k=2, size_tokens=16, overlap_tokens=0),
    "tune": TuneAdapter.model_validate(TUNE),
    "tune on the corpus": TuneAdapter.model_validate({**TUNE, "learn": "corpus", "window_tokens": 32}),
}


@pytest.fixture
def _trained_elsewhere(
    save_adapter: Callable[..., Path], tiny_model: LocalModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_adapter(tiny_model.module, tmp_path / "my-adapter")
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("_trained_elsewhere")
@pytest.mark.parametrize("name", FOR_CHOICES)
def test_adapters_on_a_choice_task(choice_task: Task, tiny_model: LocalModel, tmp_path: Path, name: str) -> None:
    check_adapter(FOR_CHOICES[name], choice_task, tiny_model, tmp_path / "check", HashingEncoder())


@pytest.mark.parametrize("name", FOR_TEXTS)
def test_adapters_on_a_text_task(text_task: Task, tiny_model: LocalModel, tmp_path: Path, name: str) -> None:
    check_adapter(FOR_TEXTS[name], text_task, tiny_model, tmp_path / "check", HashingEncoder())


def test_every_installed_adapter_is_checked_here() -> None:
    try:
        import tomllib
    except ModuleNotFoundError:
        pytest.skip("reading pyproject.toml needs Python 3.11")
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    shipped = set()
    for value in project["entry-points"]["toolkit.adapters"].values():
        module, _, name = value.partition(":")
        shipped.add(getattr(importlib.import_module(module), name))
    assert shipped == {type(adapter) for adapter in (*FOR_CHOICES.values(), *FOR_TEXTS.values())}


@pytest.fixture
def prompts(choice_task: Task, template: Template, renderer: Renderer) -> list[Prompt]:
    return [renderer.prompt(Draft(example, template, choice_task.contract)) for example in choice_task.test]


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])
def test_local_models(make_module: Callable[..., Any], renderer: Renderer, prompts: list[Prompt], family: str) -> None:
    check_model(LocalModel(make_module(family), renderer, family, "digest", 512), prompts, ("card", "card arrival"))


def test_scripted_models(renderer: Renderer, prompts: list[Prompt], choice_task: Task, template: Template) -> None:
    check_model(ScriptedModel(lambda prompt: "yes", renderer=renderer), prompts)
    hosted = ScriptedModel(lambda prompt: prompt.messages[-1].content)
    check_model(
        hosted, [hosted.renderer.prompt(Draft(item, template, choice_task.contract)) for item in choice_task.test]
    )


def test_encoders() -> None:
    check_encoder(HashingEncoder())
    check_encoder(HashingEncoder(64))


class Fault(Adapter):
    """Does one thing wrong."""

    kind: str

    def fit(self, context: FitContext) -> Part:
        return FaultyPart(self.kind, context.seed)


class FaultyPart(Part):
    def __init__(self, kind: str, seed: int) -> None:
        self.kind, self.seed, self.calls = kind, seed, 0

    def respond(self, drafts: Sequence[Draft], answer: Any) -> Any:
        outputs = answer(drafts)
        self.calls += 1
        if self.kind == "crashes on nothing" and not drafts:
            raise IndexError("nothing")
        text = {"counts calls": str(self.calls), "uses the seed": str(self.seed)}.get(self.kind, "")
        return [replace(output, text=text or output.text) for output in outputs]


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("counts calls", "answering twice"), ("uses the seed", "`seeded` is False"), ("crashes on nothing", "nothing")],
)
def test_a_faulty_adapter_is_found_out(
    choice_task: Task, tiny_model: LocalModel, tmp_path: Path, kind: str, reason: str
) -> None:
    with pytest.raises((AssertionError, IndexError), match=reason):
        check_adapter(Fault(kind=kind), choice_task, tiny_model, tmp_path)
    check_adapter(Fault(kind="none"), choice_task, tiny_model, tmp_path / "right")


def test_a_part_that_is_not_the_same_after_loading_is_found_out(
    choice_task: Task, tiny_model: LocalModel, tmp_path: Path
) -> None:
    class Forgetful(Fault):
        def load(self, folder: Path, context: FitContext) -> Part:
            return FaultyPart("uses the seed" if "second" in str(folder) else "none", context.seed)

    with pytest.raises(AssertionError, match="loaded answers otherwise"):
        check_adapter(Forgetful(kind="none"), choice_task, tiny_model, tmp_path)


def test_an_adapter_that_writes_into_the_weights_is_found_out(
    choice_task: Task, make_module: Callable[..., Any], renderer: Renderer, tmp_path: Path
) -> None:
    class Writes(Adapter):
        def fit(self, context: FitContext) -> Part:
            next(context.model.module.parameters()).data[0, 0] += 1e-3  # type: ignore[attr-defined]
            return Part()

    model = LocalModel(make_module("llama", fresh=True), renderer, "own", "digest", 512)
    with pytest.raises(AssertionError, match="weights are not what they were"):
        check_adapter(Writes(), choice_task, model, tmp_path)


def test_an_adapter_that_takes_unknown_settings_is_found_out(
    choice_task: Task, tiny_model: LocalModel, tmp_path: Path
) -> None:
    class Lax(Adapter):
        model_config = {"extra": "ignore"}  # noqa: RUF012

    with pytest.raises(AssertionError, match="unknown setting"):
        check_adapter(Lax(), choice_task, tiny_model, tmp_path)


@pytest.mark.parametrize(
    ("method", "wrong", "reason"),
    [
        ("generate", lambda said: said[::-1], "order matters|alone"),
        ("generate", lambda said: said[:-1], "gave 3 answers"),
        (
            "generate",
            lambda said: [replace(one, token_ids=(*one.token_ids, 2)) for one in said],
            "stop token|were allowed",
        ),
        ("generate", lambda said: [replace(one, confidence=2.0) for one in said], "confidence of 2.0"),
        ("generate", lambda said: [replace(one, text="other") for one in said], "text and ids differ"),
        ("score", lambda scores: [row[:-1] for row in scores], "not one score a continuation"),
        ("score", lambda scores: [tuple(-score for score in row) for row in scores], "no log-likelihoods"),
        ("score", lambda scores: [tuple(sorted(row)) for row in scores], "order of prompts or continuations"),
    ],
)
def test_a_faulty_model_is_found_out(
    tiny_model: LocalModel, prompts: list[Prompt], method: str, wrong: Any, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = getattr(tiny_model, method)
    monkeypatch.setattr(tiny_model, method, lambda *given: wrong(real(*given)))
    with pytest.raises(AssertionError, match=reason):
        check_model(tiny_model, prompts, ("card", "card arrival"))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda vectors: vectors * 2, "length 1"),
        (lambda vectors: vectors.astype("float64"), "float32"),
        (lambda vectors: vectors[:, :-1], "float32"),
        (lambda vectors: vectors[::-1] if len(vectors) == 3 else vectors * -1, "alone"),
    ],
)
def test_a_faulty_encoder_is_found_out(change: Any, reason: str) -> None:
    class Faulty(HashingEncoder):
        def encode_passages(self, texts: Sequence[str]) -> Any:
            return change(super().encode_passages(texts))

    with pytest.raises(AssertionError, match=reason):
        check_encoder(Faulty())


def test_sampling_defaults_are_greedy_and_short() -> None:
    assert Sampling().max_new_tokens == 32
