"""Trackers without a run: what `train` tells after each step goes to them."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from recording_tracker import Broken, Recorder

from toolkit.tracking import JsonLines, Result, tracking
from toolkit.tuning import TuneSettings


@dataclass(frozen=True)
class Report:
    """As `train` reports a step."""

    step: int
    steps: int = 2
    loss: float = 2.0
    tokens: int = 100
    supervised_tokens: int = 10
    learning_rate: float = 1e-3
    gradient_norm: float = 0.5
    seconds: float = 0.25
    memory_bytes: int = 10**9


def test_every_report_is_logged_with_all_its_figures() -> None:
    recorder = Recorder()
    with tracking(recorder, name="mine", seed=3) as on_step:
        on_step(Report(1))
        on_step(Report(2, loss=1.5))
    logged = recorder.logged["mine/seed-3"]
    assert [step for step, _ in logged] == [1, 2]
    assert logged[1][1] == {
        "train/loss": 1.5,
        "train/tokens": 100,
        "train/supervised_tokens": 10,
        "train/learning_rate": 1e-3,
        "train/gradient_norm": 0.5,
        "train/seconds": 0.25,
        "train/memory_bytes": 1e9,
        "train/tokens_per_second": 400,
    }
    assert recorder.results == {}


def test_settings_are_shown_flat(tmp_path: Path) -> None:
    recorder = Recorder()
    settings = TuneSettings(rank=4, target_modules=["q_proj"])
    with tracking(recorder, settings=settings.model_dump()):
        pass
    (run,) = recorder.runs
    assert run.settings["rank"] == 4
    assert json.loads(str(run.settings["target_modules"])) == ["q_proj"]
    assert all(isinstance(value, (str, int, float)) for value in run.settings.values())


def test_a_training_that_fails_is_finished_as_stopped() -> None:
    recorder = Recorder()

    def fails() -> None:
        with tracking(recorder) as on_step:
            on_step(Report(1))
            raise ValueError("the loss is nan")

    with pytest.raises(ValueError, match="nan"):
        fails()
    assert recorder.results is None


def test_a_tracker_that_fails_is_warned_of_and_the_training_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "training.jsonl"

    def trained() -> None:
        with tracking(Broken(OSError("gone"), 2), JsonLines(path)) as on_step:
            on_step(Report(1))
            on_step(Report(2))

    with pytest.warns(RuntimeWarning, match=r"Broken failed at step 1 .*left out") as warned:
        trained()
    assert len(warned) == 1
    assert len(path.read_text().splitlines()) == 2


def test_the_tracker_that_the_documentation_shows_is_enough(capsys: pytest.CaptureFixture[str]) -> None:
    spec = importlib.util.spec_from_file_location("printing", Path(__file__).parent / "third_party" / "printing.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    tracker = module.Printing()
    with tracking(tracker, settings={"rank": 8}) as on_step:
        on_step(Report(1))
    tracker.finish({"training/seed-none": Result({"test/f1": 0.5}, {"verdict": "BETTER"})})
    first, second, third = capsys.readouterr().out.splitlines()
    assert first == "training/seed-none {'rank': 8}"
    assert second.startswith("1 train/loss 2, train/learning_rate 0.001, ")
    assert third == "training/seed-none {'test/f1': 0.5} {'verdict': 'BETTER'}"
