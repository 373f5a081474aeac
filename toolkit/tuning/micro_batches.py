"""A step's gradient, pass by pass; where the memory does not suffice the passes are halved, never the step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from toolkit.tuning.batches import Rows, passes
from toolkit.tuning.flat import FlatWeights
from toolkit.tuning.objective import Objective
from toolkit.tuning.settings import TuneSettings
from toolkit.tuning.steps.step import Step

Found = TypeVar("Found")


class MicroBatches:
    """Cuts steps into passes of at most so many tokens, or so many rows.

    Attributes:
        most_tokens, most_rows: of a pass, as they are now; `most_rows` None leaves it to the tokens.
        halvings: how often the memory did not suffice.
    """

    def __init__(self, step: Step, weights: FlatWeights, objective: Objective, settings: TuneSettings) -> None:
        self._step, self._weights, self._objective = step, weights, objective
        self.most_tokens = settings.micro_batch_tokens
        self.most_rows = None if settings.micro_batch_size == "auto" else settings.micro_batch_size
        self.halvings = 0

    def accumulate(self, rows: Rows, step: Rows | None = None) -> float:
        """Sets the gradient of a step's loss, the mean over what its rows count, and gives that loss.

        Args:
            rows: those that this process computes; what they contribute to both is set and given.
            step: all rows of the step; `rows` where None.

        Raises:
            torch.OutOfMemoryError: not even one row fits.
        """
        counted = sum(self._objective.weights[row] for row in (rows if step is None else step))
        return self.within_memory(rows, lambda cut: self._accumulated(cut, counted))

    def within_memory(self, rows: Rows, compute: Callable[[Sequence[Rows]], Found]) -> Found:
        """Computes something of rows by passes, and again by smaller ones as long as the memory does not suffice.

        Raises:
            torch.OutOfMemoryError: not even one row fits.
        """
        while True:
            cut = self.cut(rows)
            try:
                return compute(cut)
            except torch.OutOfMemoryError:
                if max(map(len, cut)) == 1:
                    raise
                self._halve([some for some in cut if len(some) > 1])  # a row of its own cannot be cut
                self._step.give_back()
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()

    def cut(self, rows: Rows) -> list[Rows]:
        """A step's passes."""
        if not rows:
            return []
        return passes(rows, self._objective.lengths, self.most_tokens, self.most_rows, self._tokens)

    def _accumulated(self, cut: Sequence[Rows], counted: int) -> float:
        self._weights.collect()  # what a pass that ran out of memory left
        self._weights.gradient.zero_()
        losses = []
        for rows in cut:
            losses.append(self._step(self._objective.sequences(rows), 1 / counted, self._objective.of_tokens(rows)))
            self._weights.collect()
        return sum(map(float, losses)) / counted

    def _halve(self, cut: Sequence[Rows]) -> None:
        self.halvings += 1
        if self.most_rows is not None:
            self.most_rows = max(map(len, cut)) // 2
        else:
            self.most_tokens = max(self._tokens(rows) for rows in cut) // 2

    def _tokens(self, rows: Rows) -> int:
        return self._step.tokens(self._objective.sequences(rows))
