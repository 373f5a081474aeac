"""TensorBoard, with the library itself."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from toolkit.errors import RunError
from toolkit.tracking import TensorBoard, TrackedRun


def test_a_missing_library_is_told_with_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(RunError, match=r'pip install "adaptation-toolkit\[tensorboard\]"'):
        TensorBoard(tmp_path)


@pytest.fixture
def installed() -> None:
    pytest.importorskip("tensorboard", reason='TensorBoard is not installed: pip install ".[tensorboard]"')


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard would draw."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder)).Reload()
    return {
        tag: [(event.step, round(event.value, 6)) for event in events.Scalars(tag)] for tag in events.scalars.Keys()
    }


def said(tracker: Any, losses: dict[int, float]) -> None:
    for step, loss in losses.items():
        tracker.log(step, {"train/loss": loss, "train/tokens": 10.0})


@pytest.mark.usefixtures("installed")
def test_figures_are_scalars_in_a_folder_a_strategy_and_seed(tmp_path: Path) -> None:
    tracker = TensorBoard(tmp_path)
    for seed in (0, 1):
        tracker.start(TrackedRun("lora", seed))
        said(tracker, {1: 2.5 + seed, 2: 2.0 + seed})
        tracker.log(2, {"validation/token_f1": 0.25})
    tracker.finish({})
    assert scalars(tmp_path / "lora" / "seed-1") == {
        "train/loss": [(1, 3.5), (2, 3.0)],
        "train/tokens": [(1, 10.0), (2, 10.0)],
        "validation/token_f1": [(2, 0.25)],
    }
    assert scalars(tmp_path / "lora" / "seed-0")["train/loss"] == [(1, 2.5), (2, 2.0)]


@pytest.mark.usefixtures("installed")
def test_a_strategy_without_a_training_leaves_no_folder(tmp_path: Path) -> None:
    tracker = TensorBoard(tmp_path)
    tracker.start(TrackedRun("zero_shot"))
    tracker.finish({})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("same_process", [True, False])
def test_steps_said_again_after_a_kill_are_drawn_once(tmp_path: Path, same_process: bool) -> None:
    first = TensorBoard(tmp_path)
    first.start(TrackedRun("lora", 0))
    said(first, {1: 4.0, 2: 3.0, 3: 2.9, 4: 2.8})
    second = first
    if not same_process:
        first._writer.flush()  # as far as it got: a killed process does not close its file
        second = TensorBoard(tmp_path)
        second.start(TrackedRun("lora", 0))
    said(second, {3: 2.5, 4: 2.0, 5: 1.5})
    second.finish({})
    assert scalars(tmp_path / "lora" / "seed-0")["train/loss"] == [(1, 4.0), (2, 3.0), (3, 2.5), (4, 2.0), (5, 1.5)]


@pytest.mark.usefixtures("installed")
def test_a_training_that_goes_on_with_a_look_keeps_the_step_that_it_looks_at(tmp_path: Path) -> None:
    first, second = TensorBoard(tmp_path), TensorBoard(tmp_path)
    first.start(TrackedRun("lora", 0))
    said(first, {1: 2.5, 2: 2.0})
    first.finish(None)
    second.start(TrackedRun("lora", 0))
    second.log(2, {"validation/token_f1": 0.25})
    said(second, {3: 1.5})
    second.finish({})
    assert scalars(tmp_path / "lora" / "seed-0")["train/loss"] == [(1, 2.5), (2, 2.0), (3, 1.5)]
