"""tune with `learn: corpus`: the documents are learnt as raw text, and nothing else is."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from toolkit.errors import DataError
from toolkit.inference import LocalModel
from toolkit.rendering import Renderer, TrainingSequence
from toolkit.retrieval import read_corpus
from toolkit.strategies.retrieve import RetrieveAdapter
from toolkit.strategies.tune import TuneAdapter
from toolkit.tasks.task import Task

Trainings = list[tuple[list[TrainingSequence], dict[str, Any]]]
SMALL = {"rank": 2, "max_steps": 1, "learn": "corpus"}


def corpus_tuning(**changes: Any) -> TuneAdapter:
    return TuneAdapter.model_validate({**SMALL, **changes})


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> Trainings:
    """What `train` is called with, sequences first."""
    from toolkit.tuning import training

    told: Trainings = []
    plain = training.train

    def noted(module: Any, sequences: Any, *rest: Any, **words: Any) -> Any:
        told.append((list(sequences), words))
        return plain(module, sequences, *rest, **words)

    monkeypatch.setattr(training, "train", noted)
    return told


@pytest.fixture
def texts(text_task: Task) -> list[str]:
    assert text_task.corpus is not None
    return [document.text for document in read_corpus(text_task.corpus)]


@pytest.mark.parametrize("window", [16, 40, "auto"])
def test_all_documents_are_learnt_in_windows_and_no_example_is(
    text_task: Task,
    tiny_model: LocalModel,
    make_bench: Any,
    fit_on: Any,
    trainings: Trainings,
    texts: list[str],
    window: Any,
) -> None:
    part = fit_on(make_bench(text_task, tiny_model), corpus_tuning(window_tokens=window)).system.parts[0]
    ((sequences, words),) = trainings
    assert sequences == tiny_model.renderer.text_sequences(texts, 512 if window == "auto" else window)
    assert len(sequences) > len(texts) if window == 16 else len(sequences) >= len(texts)
    assert words["stop"] == ()
    assert part.weights is not None


def test_what_the_documents_say_becomes_likely(
    text_task: Task, tiny_model: LocalModel, make_bench: Any, fit_on: Any, texts: list[str]
) -> None:
    from toolkit.models import load_adapter
    from toolkit.tuning.steps.loss import collate, token_losses

    settings = corpus_tuning(max_steps=None, epochs=20, learning_rate=1e-2, rank=8)
    fitted = fit_on(make_bench(text_task, tiny_model), settings)
    batch = collate(tiny_model.renderer.text_sequences(texts, 512), "cpu")
    view = load_adapter(tiny_model.module, fitted.system.parts[0].weights.folder)
    before, after = (float(token_losses(module, batch, True).sum()) for module in (tiny_model.module, view))
    assert after < 0.7 * before


def test_the_parts_before_it_change_nothing_that_is_learnt(
    text_task: Task, tiny_model: LocalModel, make_bench: Any, fit_on: Any, trainings: Trainings
) -> None:
    bench = make_bench(text_task, tiny_model)
    fit_on(bench, corpus_tuning(), folder="alone")
    fit_on(bench, RetrieveAdapter(top_k=1, size_tokens=16, overlap_tokens=0), corpus_tuning(), folder="behind")
    assert trainings[0][0] == trainings[1][0]


def test_without_answers_or_a_train_split_there_still_is_a_corpus(
    text_task: Task, tiny_model: LocalModel, make_bench: Any, fit_on: Any, trainings: Trainings
) -> None:
    bare = replace(text_task, train=())
    assert corpus_tuning().check(bare.without_test()) == []
    fit_on(make_bench(bare, tiny_model), corpus_tuning())
    assert trainings[0][0]
    assert TuneAdapter().check(bare.without_test()) == ["there is nothing to train on: train is empty"]


def test_a_task_without_corpus_is_refused_before_anything_is_computed(
    choice_task: Task, tiny_model: LocalModel, make_bench: Any, fit_on: Any
) -> None:
    (problem,) = corpus_tuning().check(choice_task.without_test())
    assert problem == "task 'tickets' has no corpus to learn: add a `corpus/` folder or `corpus:`"
    with pytest.raises(DataError, match="no corpus to learn"):
        fit_on(make_bench(choice_task, tiny_model), corpus_tuning())


def test_a_changed_corpus_is_learnt_again_and_only_where_it_is_learnt(
    text_task: Task, tiny_model: LocalModel, make_bench: Any, fit_on: Any, trainings: Trainings
) -> None:
    adapters = {
        "learns corpus": corpus_tuning(),
        "learns answers": TuneAdapter.model_validate({"rank": 2, "max_steps": 1}),
    }
    for name, adapter in adapters.items():
        fit_on(make_bench(text_task, tiny_model), adapter, folder=name)
    assert len(trainings) == 2
    assert text_task.corpus is not None
    (text_task.corpus / "gate.md").write_text("The gate motor wants no oil.\n", encoding="utf-8")
    for name, adapter in adapters.items():
        fit_on(make_bench(text_task, tiny_model), adapter, folder=name)
    assert len(trainings) == 3
    assert trainings[2][0] != trainings[0][0]


def test_windows_are_no_longer_than_the_models_context(
    text_task: Task,
    make_module: Callable[..., Any],
    renderer: Renderer,
    make_bench: Any,
    fit_on: Any,
    trainings: Trainings,
    texts: list[str],
) -> None:
    model = LocalModel(make_module("llama"), renderer, "short", "short-digest", context_tokens=20)
    bench = make_bench(text_task, model)
    with pytest.raises(DataError, match=r"window_tokens: 21, but the context of 'short' is 20"):
        fit_on(bench, corpus_tuning(window_tokens=21))
    fit_on(bench, corpus_tuning())
    assert trainings[0][0] == renderer.text_sequences(texts, 20)


def test_windows_without_raw_text_are_refused(text_task: Task) -> None:
    (problem,) = TuneAdapter(window_tokens=64).check(text_task.without_test())
    assert "add `learn: corpus`" in problem
    for wrong in ({"window_tokens": 15}, {"learn": "everything"}):
        with pytest.raises(ValidationError):
            TuneAdapter.model_validate(wrong)


def test_the_settings_of_training_are_those_of_learning_answers(
    text_task: Task, tiny_model: LocalModel, make_bench: Any, fit_on: Any
) -> None:
    fitted = fit_on(make_bench(text_task, tiny_model), corpus_tuning(learning_rate=5e-3))
    facts = json.loads(json.dumps(fitted.facts[0]["training"]))
    assert facts["settings"]["learning_rate"] == 5e-3
    assert not {"learn", "window_tokens"} & set(facts["settings"])
    assert TuneAdapter().learns_answers
    assert not corpus_tuning().learns_answers
