"""Tuned: where the weights of a fitted strategy lie, and what was written down of them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.models.base import Base
from toolkit.models.whole import holds_all_weights
from toolkit.strategies.strategy import Strategy


@dataclass(frozen=True)
class Tuned:
    """Tuned weights of a strategy in a run.

    Attributes:
        seed: None for a strategy that runs once.
        weights: a PEFT folder, or one of all weights.
        system: the folder of the fitted system, with what the run wrote beside it.
    """

    strategy: Strategy
    seed: int | None
    weights: Path
    system: Path
    base: Base

    def __str__(self) -> str:
        """`lora, seed 0`, or only the strategy's name where it was fitted once."""
        return self.strategy.name + ("" if self.seed is None else f", seed {self.seed}")

    @property
    def whole(self) -> bool:
        """Whether all weights were trained, so that there is no adapter."""
        return holds_all_weights(self.weights)

    @property
    def learnt(self) -> str:
        """What it learnt: `answers`, or what else `learn` says."""
        tuning = [item.settings for item in self.strategy.adapters if item.settings.tunes]
        return str(getattr(tuning[0], "learn", "answers")) if tuning else "answers"

    def report(self, name: str) -> dict[str, Any] | None:
        """A JSON file that the run left of these weights: `training`, `prompt` or `merge`; None where it left none."""
        path = (self.weights if name == "training" else self.system) / f"{name}.json"
        if not path.is_file():
            return None
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found
