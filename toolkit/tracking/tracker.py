"""Tracker: what anything that records trainings does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from toolkit.seeds import seed_name

Setting = str | int | float | bool


@dataclass(frozen=True)
class TrackedRun:
    """What is recorded as one: a strategy with a seed, or one call of `train`.

    Attributes:
        settings: flat, for a table of parameters; without secrets.
        group: what it belongs to with others: the recipe's name. Empty for one alone.
    """

    strategy: str
    seed: int | None = None
    settings: Mapping[str, Setting] = field(default_factory=dict)
    group: str = ""

    @property
    def name(self) -> str:
        """`lora/seed-0`: also the place of its files in a folder."""
        return f"{self.strategy}/{seed_name(self.seed)}"


@dataclass(frozen=True)
class Result:
    """What came of a tracked run in the end.

    Attributes:
        values: by name, scores on the test set for example.
        tags: by name, verdicts for example.
    """

    values: Mapping[str, float] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)


class Tracker(Protocol):
    """Records trainings. Whatever it raises is told once, and the tracker is left out from then on."""

    def start(self, run: TrackedRun) -> None:
        """A run's turn begins: what is logged from now on is of it, until the next one starts.

        A run that was killed and goes on is started again under the same name.
        """

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Values at a step (from 1): `train/loss`, `validation/token_f1`. Several calls may be of one step.

        A step lower than the last one means that the training went back to it: what was logged from there on no
        longer counts.
        """

    def finish(self, results: Mapping[str, Result] | None) -> None:
        """All runs are over, with what came of each by its name; None where the whole was stopped before its end."""
