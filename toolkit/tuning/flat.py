"""The trained tensors as one vector: optimiser, clipping and checkpoints deal with one tensor, not hundreds."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch


class FlatWeights:
    """Parameters as one fp32 vector [P], their gradients as another.

    A parameter in fp32 becomes a view of it, gradient and all. One in another dtype (a base's own, in full fine-tuning)
    keeps its dtype and is the vector's rounding: `collect` brings its gradient here, `publish` what it has become.
    """

    def __init__(self, parameters: Sequence[Any], last: Collection[Any] = ()) -> None:
        """The parameters lie in the order given.

        Args:
            last: those of `parameters` that lie behind all others, so that they can have a learning rate of their own.
        """
        behind = {id(one) for one in last}
        parameters = sorted(parameters, key=lambda one: id(one) in behind)
        widest = [torch.promote_types(one.dtype, torch.float32) for one in parameters]
        self.vector = torch.nn.Parameter(
            torch.cat([one.detach().to(dtype).reshape(-1) for one, dtype in zip(parameters, widest, strict=True)])
        )
        self.vector.grad = torch.zeros_like(self.vector)
        self.shapes = [tuple(one.shape) for one in parameters]
        self._places: dict[int, slice] = {}
        self._rounded: list[tuple[Any, torch.Tensor, torch.Tensor]] = []
        start = 0
        for one in parameters:
            place = slice(start, start + one.numel())
            values, gradient = self.vector.data[place].view_as(one), self.vector.grad[place].view_as(one)
            if one.dtype == self.vector.dtype:
                one.data, one.grad = values, gradient
            else:
                self._rounded.append((one, values, gradient))
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

    def collect(self) -> None:
        """After each pass: gradients that are not views are added to the vector's, and given up."""
        for parameter, _, gradient in self._rounded:
            if parameter.grad is not None:
                gradient += parameter.grad
                parameter.grad = None

    def publish(self) -> None:
        """Once the vector has changed: parameters that are not views of it take its values."""
        with torch.no_grad():
            for parameter, values, _ in self._rounded:
                parameter.copy_(values)

    @property
    def gradient(self) -> torch.Tensor:
        gradient = self.vector.grad
        assert gradient is not None
        return gradient
