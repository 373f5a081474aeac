"""training.jsonl: every call is a line, and the reader knows what a killed training said twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from toolkit.tracking import JsonLines, TrackedRun, read_training


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "training.jsonl"


def said(path: Path, run: TrackedRun, losses: dict[int, float]) -> JsonLines:
    """What a new process says: it knows nothing of an earlier one."""
    tracker = JsonLines(path)
    tracker.start(run)
    for step, loss in losses.items():
        tracker.log(step, {"train/loss": loss})
    return tracker


LORA = TrackedRun("lora", 0)


def test_a_line_says_whose_step_it_is(path: Path) -> None:
    said(path, LORA, {1: 2.5})
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"strategy": "lora", "seed": 0, "step": 1, "train/loss": 2.5}
    ]


def test_figures_of_one_step_are_read_together(path: Path) -> None:
    tracker = said(path, LORA, {1: 2.5, 2: 2.0})
    tracker.log(2, {"validation/token_f1": 0.3})
    tracker.log(3, {"train/loss": 1.5})
    assert read_training(path) == {
        "lora/seed-0": {
            1: {"train/loss": 2.5},
            2: {"train/loss": 2.0, "validation/token_f1": 0.3},
            3: {"train/loss": 1.5},
        }
    }


def test_strategies_and_seeds_are_kept_apart(path: Path) -> None:
    for run in (LORA, TrackedRun("lora", 1), TrackedRun("other", None)):
        said(path, run, {1: 1.0, 2: 0.5})
    assert list(read_training(path)) == ["lora/seed-0", "lora/seed-1", "other/seed-none"]
    assert all(len(steps) == 2 for steps in read_training(path).values())


def test_steps_said_again_after_a_kill_count_once_and_as_said_last(path: Path) -> None:
    said(path, LORA, {1: 4.0, 2: 3.0, 3: 2.9, 4: 2.8})
    said(path, LORA, {3: 2.5, 4: 2.0, 5: 1.5})
    assert read_training(path) == {
        "lora/seed-0": {step: {"train/loss": loss} for step, loss in {1: 4.0, 2: 3.0, 3: 2.5, 4: 2.0, 5: 1.5}.items()}
    }


def test_what_an_abandoned_course_said_further_on_does_not_count(path: Path) -> None:
    said(path, LORA, {1: 4.0, 2: 3.0, 3: 2.9, 4: 2.8})
    said(path, LORA, {1: 9.0, 2: 8.0})
    assert read_training(path)["lora/seed-0"] == {1: {"train/loss": 9.0}, 2: {"train/loss": 8.0}}


def test_a_look_at_a_step_that_was_taken_leaves_what_was_said_of_it(path: Path) -> None:
    """A training that was killed between a checkpoint and the look at it."""
    said(path, LORA, {1: 4.0, 2: 3.0, 3: 2.9})
    lines = JsonLines(path)
    lines.start(LORA)
    lines.log(2, {"validation/f1": 0.5})
    lines.log(3, {"forecast/seconds": 9.0})
    said(path, LORA, {3: 2.5})
    assert read_training(path)["lora/seed-0"] == {
        1: {"train/loss": 4.0},
        2: {"train/loss": 3.0, "validation/f1": 0.5},
        3: {"forecast/seconds": 9.0, "train/loss": 2.5},
    }


def test_a_line_torn_by_a_kill_is_left_out_and_the_next_one_is_whole(path: Path) -> None:
    said(path, LORA, {1: 4.0})
    with path.open("a") as file:
        file.write('{"strategy": "lora", "se')
    said(path, LORA, {2: 3.0})
    assert read_training(path)["lora/seed-0"] == {1: {"train/loss": 4.0}, 2: {"train/loss": 3.0}}


def test_a_file_that_is_not_there_says_nothing(path: Path) -> None:
    assert read_training(path) == {}
