"""A real training told to a tracker: what the loop reports is what trackers read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from toolkit.rendering.prompt import TrainingSequence
from toolkit.tracking import JsonLines, tracking
from toolkit.tuning import TuneSettings, train


def test_every_step_of_a_training_is_written(make_module: Callable[..., Any], tmp_path: Path) -> None:
    sequences = [TrainingSequence((3, 9, 8, row, 2), (False,) * 3 + (True,) * 2) for row in range(10, 18)]
    settings = TuneSettings(rank=2, epochs=2, effective_batch_size=4)
    path = tmp_path / "training.jsonl"
    with tracking(JsonLines(path), settings=settings.model_dump()) as on_step:
        result = train(make_module("llama"), sequences, settings, tmp_path / "adapter", on_step=on_step)
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    steps = [row for row in rows if "train/loss" in row]
    assert [row["step"] for row in steps] == [1, 2, 3, 4]
    assert [row["train/loss"] for row in steps] == list(result.losses)
    assert sum(row["train/supervised_tokens"] for row in steps) == result.supervised_tokens
    assert all(row["train/learning_rate"] > 0 < row["train/memory_bytes"] for row in steps)
    assert all(row["train/gradient_norm"] > 0 < row["train/seconds"] for row in steps)
