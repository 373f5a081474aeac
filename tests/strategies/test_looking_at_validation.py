"""Tuning that looks at validation, and tuning on preferences, through fitting."""

from __future__ import annotations

import errno
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from toolkit.inference.local import LocalModel
from toolkit.meter import Meter
from toolkit.strategies.tune import TuneAdapter
from toolkit.tasks.task import Task
from toolkit.tuning.progress import StepReport

LOOKING = {"rank": 2, "effective_batch_size": 4, "max_steps": 4, "validate_every": 2, "checkpoint_every": 0}


def test_each_look_is_a_trial_and_the_best_state_answers(
    text_task: Task, tiny_model: LocalModel, make_bench: Any, fit_on: Any
) -> None:
    fitted = fit_on(make_bench(text_task, tiny_model), TuneAdapter.model_validate(LOOKING))
    facts = fitted.facts[0]["training"]
    steps = [step for step, _ in facts["looks"]]
    assert steps[0] == 0
    assert steps[-1] == facts["steps"] == len(facts["losses"])
    assert fitted.trials == len(steps) >= 3
    best = max(value for _, value in facts["looks"])
    assert facts["kept_step"] == next(step for step, value in facts["looks"] if value == best)


def test_a_killed_fit_counts_no_trial_twice(
    text_task: Task, tiny_model: LocalModel, make_bench: Any, fit_on: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from toolkit.strategies import tune

    bench, adapter = make_bench(text_task, tiny_model), TuneAdapter.model_validate(LOOKING)
    told = tune.asdict

    def kill(report: Any) -> Any:
        if isinstance(report, StepReport) and report.step == 3:
            raise KeyboardInterrupt
        return told(report)

    monkeypatch.setattr(tune, "asdict", kill)
    with pytest.raises(KeyboardInterrupt):
        fit_on(bench, adapter, folder="killed")
    monkeypatch.setattr(tune, "asdict", told)
    again = fit_on(bench, adapter, folder="killed")
    assert again.trials == len(again.facts[0]["training"]["looks"])


def test_a_task_without_validation_cannot_be_looked_at(text_task: Task) -> None:
    (problem,) = TuneAdapter.model_validate(LOOKING).check(replace(text_task, validation=()).without_test())
    assert problem == "validate_every: there is nothing to look at: validation is empty"


def rejecting(task: Task, answer: str) -> Task:
    """Every second example of train rejects an answer."""
    train = tuple(replace(one, rejected=(answer,) if at % 2 else ()) for at, one in enumerate(task.train))
    return replace(task, train=train)


def test_preferences_are_pairs_of_the_answer_and_what_is_rejected(
    text_task: Task, tiny_model: LocalModel, make_bench: Any, fit_on: Any
) -> None:
    heard: list[tuple[str, dict[str, Any]]] = []
    task = rejecting(text_task, "no idea")
    adapter = TuneAdapter.model_validate({"rank": 2, "learn": "preferences", "max_steps": 2, "learning_rate": 1e-3})
    bench = make_bench(task, tiny_model)
    bench.meter._listener = lambda name, fields: heard.append((name, dict(fields)))
    fitted = fit_on(bench, adapter)
    facts = fitted.facts[0]["training"]
    assert facts["losses"][0] == pytest.approx(0.6931, abs=1e-3)
    assert facts["learning_rate"] == 1e-3
    assert not facts["notices"]
    without = len(task.train) - len(task.train) // 2
    notices = [fields["text"] for name, fields in heard if name == "notice"]
    assert f"tune: {without} examples of train reject no answer and are left out" in notices


def test_a_task_that_rejects_nothing_teaches_no_preference(text_task: Task) -> None:
    (problem,) = TuneAdapter(learn="preferences").check(text_task.without_test())
    assert "no example of train has `rejected` answers" in problem


def test_full_fine_tuning_is_a_strategy_like_another(
    text_task: Task, tiny_model: LocalModel, make_bench: Any, fit_on: Any, tmp_path: Path
) -> None:
    adapter = TuneAdapter.model_validate({"method": "full", "max_steps": 2, "learning_rate": 1e-2})
    fitted = fit_on(make_bench(text_task, tiny_model), adapter)
    assert fitted.facts[0]["training"]["rank"] is None
    assert fitted.facts[0]["adapter_bytes"] > 1000
    questions = [example.unlabelled() for example in text_task.validation]
    answered = [output.text for output in fitted.system.answer(questions)]
    base = fit_on(make_bench(text_task, tiny_model), folder="base")
    assert answered != [output.text for output in base.system.answer(questions)]
    assert json.dumps(fitted.facts[0])


def test_what_a_training_will_take_is_told_before_its_first_step(
    text_task: Task, tiny_model: LocalModel, make_bench: Any, fit_on: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toolkit.tuning.forecast.free_memory_bytes", lambda _: 0)
    told: list[tuple[str, Any]] = []
    bench = make_bench(text_task, tiny_model, meter=Meter(lambda name, fields: told.append((name, fields))))
    fit_on(bench, TuneAdapter(rank=2, max_steps=2))
    names = [name for name, _ in told]
    fields = dict(told)["forecast"]
    assert names.index("forecast") < names.index("train")
    assert (fields["steps"], fields["step"], fields["recompute"], fields["short"]) == (2, 1, True, True)
    assert any("GB are free" in one["text"] for name, one in told if name == "notice")


@pytest.mark.parametrize("looks", [0, 2])
def test_a_training_that_ended_is_not_lost_with_a_disk_that_is_full_when_it_is_kept(
    text_task: Task, tiny_model: LocalModel, make_bench: Any, fit_on: Any, monkeypatch: pytest.MonkeyPatch, looks: int
) -> None:
    from toolkit.strategies import tune

    settings = {**LOOKING, "validate_every": looks, "checkpoint_every": 25}
    bench, adapter = make_bench(text_task, tiny_model), TuneAdapter.model_validate(settings)
    told, steps = tune.asdict, list[int]()

    def noted(report: Any) -> Any:
        if isinstance(report, StepReport):
            steps.append(report.step)
        return told(report)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tune, "asdict", noted)
    with monkeypatch.context() as patched:
        patched.setattr(bench.store, "put", full)
        with pytest.raises(OSError, match="No space left"):
            fit_on(bench, adapter, folder="full")
    taken = len(steps)
    assert taken > 2
    fitted = fit_on(bench, adapter, folder="full")
    assert len(steps) == taken
    assert fitted.facts[0]["training"]["steps"] == taken
