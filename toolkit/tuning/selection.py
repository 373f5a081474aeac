"""Which of a training's states is kept: the last, or the one that does best on validation, step 0 included.

A look saves the state, has it scored by whoever trains, and keeps it where it is the best so far. The looks that were
taken are part of a checkpoint, so a killed training takes none twice.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from toolkit.errors import ModelError
from toolkit.tuning.adapter import write_atomically
from toolkit.tuning.settings import TuneSettings

FOLDER = "states"

Validate = Callable[[Path], float]
"""A folder as `Trainable.save` leaves it -> the metric on validation; more is better."""


@dataclass(frozen=True)
class Look:
    """One look at validation: after so many of all steps, what was found, and whether it is the best so far."""

    step: int
    steps: int
    value: float
    best: bool


class Selection:
    """The looks of one training.

    Args:
        work: where the states lie while they may still be chosen.
        save: writes the state as it is now into a folder.
        validate: None where only the last state counts.
    """

    def __init__(
        self,
        work: Path,
        settings: TuneSettings,
        steps: int,
        save: Callable[[Path], None],
        validate: Validate | None,
        on_look: Callable[[Look], None],
    ) -> None:
        if settings.validate_every and validate is None:
            raise ModelError(
                "validate_every: there is nothing to validate with; give `train` a `validate`, or leave it 0"
            )
        self._folder, self._settings, self._steps = work / FOLDER, settings, steps
        self._save, self._on_look = save, on_look
        self._validate = validate if settings.validate_every else None
        self.looks: list[tuple[int, float]] = []

    def has(self, looks: Sequence[tuple[int, float]]) -> bool:
        """Whether the state is still there that looks of a checkpoint have chosen."""
        best = _best(looks)
        return best is None or (self._folder / str(best)).is_dir()

    def look(self, done: int) -> bool:
        """After so many steps: a look where one is due and was not taken before; says whether it was taken."""
        if self._validate is None or (self.looks and self.looks[-1][0] >= done):
            return False
        if done % self._settings.validate_every and done != self._steps:
            return False
        place = self._folder / str(done)
        shutil.rmtree(place, ignore_errors=True)
        self._save(place)
        self.looks.append((done, self._validate(place)))
        self._on_look(Look(done, self._steps, self.looks[-1][1], self.best == done))
        return True

    def prune(self) -> None:
        """Forgets all states but the best; only once a checkpoint holds the looks that chose it."""
        for place in self._folder.glob("*"):
            if place.name != str(self.best):
                shutil.rmtree(place)

    @property
    def best(self) -> int | None:
        """The step whose state did best; of equals the earliest. None before the first look."""
        return _best(self.looks)

    @property
    def stops(self) -> bool:
        """Whether the last looks have brought nothing better for as long as the settings have patience."""
        patience, best = self._settings.patience, self.best
        if patience is None or best is None:
            return False
        return sum(step > best for step, _ in self.looks) >= patience

    def deliver(self, folder: Path) -> None:
        """Leaves the chosen state in a folder."""
        if self.best is None:
            self._save(folder)
            return
        for path in sorted((self._folder / str(self.best)).iterdir()):
            write_atomically(folder / path.name, partial(shutil.copyfile, path))

    def remove(self) -> None:
        """Once the training is written down as finished."""
        shutil.rmtree(self._folder, ignore_errors=True)


def _best(looks: Sequence[tuple[int, float]]) -> int | None:
    return None if not looks else max(looks, key=lambda look: (look[1], -look[0]))[0]


def numbers_only(validate: Validate | None) -> Validate | None:
    """A state whose metric is no number could not be told from the best one."""
    if validate is None:
        return None

    def checked(place: Path) -> float:
        value = float(validate(place))  # numpy's and torch's numbers too: a checkpoint holds it
        if math.isnan(value):
            raise ModelError(f"validate: the metric after {place.name} steps is no number")
        return value

    return checked
