"""The trained tensors as one vector: optimiser, clipping and checkpoints deal with one tensor, not hundreds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


class FlatWeights:
    """Parameters as views of one fp32 vector [P], their gradients as views of another."""

    def __init__(self, parameters: Sequence[Any]) -> None:
        """The parameters become views, in the order given."""
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

    def place(self, parameter: Any) -> slice:
        """Where a parameter lies."""
        return self._places[id(parameter)]

    @property
    def gradient(self) -> torch.Tensor:
        gradient = self.vector.grad
        assert gradient is not None
        return gradient
