"""The trained tensors as one vector: optimiser, clipping and checkpoints deal with one tensor, not hundreds."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch


class FlatWeights:
    """Parameters as views of one fp32 vector [P], their gradients as views of another."""

    def __init__(self, parameters: Sequence[Any], last: Collection[Any] = ()) -> None:
        """The parameters become views, in the order given.

        Args:
            last: those of `parameters` that lie behind all others, so that they can have a learning rate of their own.
        """
        behind = {id(one) for one in last}
        parameters = sorted(parameters, key=lambda one: id(one) in behind)
        self.vector = torch.nn.Parameter(torch.cat([one.detach().reshape(-1) for one in parameters]))
        self.vector.grad = torch.zeros_like(self.vector)
        self._places: dict[int, slice] = {}
        start = 0
        for one in parameters:
            place = slice(start, start + one.numel())
            one.data = self.vector.data[place].view_as(one)
            one.grad = self.vector.grad[place].view_as(one)
            self._places[id(one)] = place
            start = place.stop
        self._cut = start - sum(one.numel() for one in parameters if id(one) in behind)

    def halves(self) -> tuple[torch.nn.Parameter, torch.nn.Parameter]:
        """What does not lie last, and what does: parameters and gradients that share this vector's memory."""
        found = []
        for place in (slice(self._cut), slice(self._cut, None)):
            half = torch.nn.Parameter(self.vector.data[place])
            half.grad = self.gradient[place]
            found.append(half)
        return found[0], found[1]

    def place(self, parameter: Any) -> slice:
        """Where a parameter lies."""
        return self._places[id(parameter)]

    @property
    def gradient(self) -> torch.Tensor:
        gradient = self.vector.grad
        assert gradient is not None
        return gradient
