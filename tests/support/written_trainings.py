"""Trainings for the report: as it reads them, and written into a run folder as the tuning engine and a run do."""

from __future__ import annotations

import json
import random
from pathlib import Path

from toolkit.report.trainings import Training
from toolkit.runs.folder import RunFolder
from toolkit.tracking import JsonLines, TrackedRun
from toolkit.tuning.settings import TuneSettings


def falling(steps: int, start: float = 3.0, end: float = 0.5, noise: float = 0.1, seed: int = 0) -> list[float]:
    """Losses that fall in the first half and stay in the second."""
    dice = random.Random(seed)
    return [
        max(0.001, end + (start - end) * max(0.0, 1 - 2 * step / steps) + dice.gauss(0, noise)) for step in range(steps)
    ]


def a_training(**fields) -> Training:
    """A training as the report has it, of which nothing is known but these fields."""
    known = {"strategy": "lora", "seed": 0, "learn": "answers", "settings": {}, "losses": (), "looks": ()}
    known |= {"notices": (), "how": "", "forecast": {}}
    return Training(**(dict.fromkeys(Training.__dataclass_fields__) | known | fields))


def write_training(
    root: Path, strategy: str, losses: list[float], seed: int = 0, learn: str = "answers", place: int = 1, **fields
) -> Path:
    """Writes a finished training, some of its fields as given."""
    settings = TuneSettings(**{"effective_batch_size": 8, **fields.pop("settings", {})})
    record = {
        "settings": settings.model_dump(mode="json"),
        "seed": seed,
        "step": "by hand",
        "steps": len(losses),
        "losses": losses,
        "looks": [],
        "kept_step": len(losses),
        "supervised_tokens": 90 * len(losses),
        "seen_tokens": 1000 * len(losses),
        "learning_rate": 0.001,
        "trainable_parameters": 4_884_480,
        "total_parameters": 139_399_488,
        "rank": 16,
        "notices": [],
        **fields,
    }
    folder = RunFolder(root).system(strategy, seed) / f"{place}-tune"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "training.json").write_text(json.dumps(record))
    (folder / "part.json").write_text(json.dumps({"adapter": "tune", "settings": {"learn": learn}}))
    (folder / "cost.json").write_text(json.dumps({"fit_seconds": 321.0}))
    return folder


def write_steps(
    root: Path, strategy: str, steps: int, seed: int = 0, seconds: float = 0.5, peak: float = 1.5e9
) -> None:
    """What was told of each step while it was trained."""
    lines = JsonLines(RunFolder(root).training)
    lines.start(TrackedRun(strategy, seed))
    for step in range(1, steps + 1):
        lines.log(step, {"train/loss": 1.0, "train/seconds": seconds, "train/memory_bytes": peak * step / steps})
