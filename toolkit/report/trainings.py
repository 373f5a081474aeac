"""Trainings: how each strategy's weights were trained, as the run folder tells. What it does not tell is None."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.report.read import Record, RunFiles
from toolkit.seeds import seed_name
from toolkit.tracking import read_training
from toolkit.tracking.values import FORECAST

StepFigures = Mapping[int, Mapping[str, float]]
"""What was told of each step while it was trained, by step (from 1) and name."""


@dataclass(frozen=True)
class Training:
    """One strategy's training with one seed.

    Attributes:
        learn: `answers`, `preferences`, `corpus` or `chats`.
        settings: as they were set, `auto` included.
        losses: of each step.
        looks: at validation, each as (steps before it, value).
        kept_step: after how many steps the state was what answers.
        trainable_parameters, total_parameters: the adapter's are in both.
        how: what computed the steps, and why nothing faster, in the engine's words; empty where it is unknown.
        processes: that shared each step; None for one alone.
        steps_an_epoch: where it follows from what the run folder holds.
        seconds: of all its steps, without looks at validation; None unless this run trained every one of them.
        fit_seconds: of the whole fit, as first measured.
        peak_bytes: the process's or the device's, up to the last step.
        forecast: `seconds` and `memory_bytes` that were expected before the first step.
    """

    strategy: str
    seed: int | None
    learn: str
    settings: Record
    losses: tuple[float, ...]
    looks: tuple[tuple[int, float], ...]
    kept_step: int | None
    supervised_tokens: int | None
    seen_tokens: int | None
    learning_rate: float | None
    trainable_parameters: int | None
    total_parameters: int | None
    rank: int | None
    notices: tuple[str, ...]
    how: str
    processes: int | None
    steps_an_epoch: int | None
    seconds: float | None
    fit_seconds: float | None
    peak_bytes: int | None
    forecast: Record

    @property
    def steps(self) -> int:
        """That were taken."""
        return len(self.losses)


def trainings(run: RunFiles) -> list[Training]:
    """All that left a `training.json` with losses in it, in the report's order of strategies, then by seed."""
    told = read_training(run.root / "training.jsonl")
    found = []
    for name in run.ranked:
        for seed in run.strategies[name]["seeds"]:
            place = f"{name}/{seed_name(seed)}"
            for path in sorted((run.root / "systems" / place).glob("[!.]*/training.json")):
                record = _object(path)
                if _losses(record):
                    found.append(_training(run, name, seed, path.parent, record, told.get(place, {})))
    return found


def unrecorded(run: RunFiles, found: list[Training]) -> list[str]:
    """Strategies that were tuned here, as the manifest says, and yet left no record of it."""
    tuned = {
        name
        for name, facts in run.manifest.get("strategies", {}).items()
        if any("tune" in adapter for adapter in facts.get("adapters", []))
    }
    return [name for name in run.ranked if name in tuned - {training.strategy for training in found}]


def _training(run: RunFiles, name: str, seed: int | None, folder: Path, record: Record, told: StepFigures) -> Training:
    settings, losses = _mapping(record.get("settings")), _losses(record)
    learn = str(_mapping(_object(folder / "part.json").get("settings")).get("learn", "answers"))
    of_steps = [told.get(step, {}) for step in range(1, len(losses) + 1)]
    first = told.get(1, {})
    seconds = [values["train/seconds"] for values in of_steps if "train/seconds" in values]
    peaks = [values["train/memory_bytes"] for values in of_steps if "train/memory_bytes" in values]
    return Training(
        strategy=name,
        seed=seed,
        learn=learn,
        settings=settings,
        losses=losses,
        looks=_looks(record),
        kept_step=_whole(record, "kept_step"),
        supervised_tokens=_whole(record, "supervised_tokens"),
        seen_tokens=_whole(record, "seen_tokens"),
        learning_rate=_number(record.get("learning_rate")),
        trainable_parameters=_whole(record, "trainable_parameters"),
        total_parameters=_whole(record, "total_parameters"),
        rank=_whole(record if "rank" in record else settings, "rank"),  # old records hold only what was set
        notices=tuple(map(str, record.get("notices") or ())),
        how=str(record.get("step") or ""),
        processes=_whole(record, "processes"),
        steps_an_epoch=_steps_an_epoch(run, settings, learn, len(losses)),
        seconds=math.fsum(seconds) if len(seconds) == len(losses) else None,
        fit_seconds=_number(_object(folder / "cost.json").get("fit_seconds")),
        peak_bytes=round(max(peaks)) if peaks else None,
        forecast={name: first[key] for name in FORECAST if (key := f"forecast/{name}") in first},
    )


def _steps_an_epoch(run: RunFiles, settings: Record, learn: str, steps: int) -> int | None:
    """From the size of train where each of its examples is one sequence, else from a training that ran all epochs."""
    epochs, batch = _whole(settings, "epochs"), _whole(settings, "effective_batch_size")
    if epochs and settings.get("max_steps") is None and settings.get("patience") is None:
        return steps // epochs if steps % epochs == 0 else None
    examples = _whole(_mapping(_mapping(run.manifest.get("task")).get("sizes")), "train")
    if learn != "answers" or not examples or not batch:
        return None
    return -(-examples // batch)


def _losses(record: Record) -> tuple[float, ...]:
    """All of them, or none where one is not a number: steps are counted by their losses."""
    said = record.get("losses")
    losses = [_number(value) for value in said] if isinstance(said, list) else []
    numbers = [loss for loss in losses if loss is not None]
    return tuple(numbers) if len(numbers) == len(losses) else ()


def _looks(record: Record) -> tuple[tuple[int, float], ...]:
    pairs = [look for look in record.get("looks") or () if isinstance(look, list) and len(look) == 2]
    return tuple((int(step), float(value)) for step, value in pairs if _number(value) is not None)


def _object(path: Path) -> Record:
    """Empty where the file is not there or is not what it should be."""
    try:
        return _mapping(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def _mapping(value: Any) -> Record:
    return value if isinstance(value, dict) else {}


def _whole(record: Record, name: str) -> int | None:
    number = _number(record.get(name))
    return None if number is None else int(number)


def _number(value: Any) -> float | None:
    """What is a finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return value
