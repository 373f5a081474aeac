"""Frozen linear layers with low-rank updates, forward and backward, those that read the same tensor together.

Weights in bf16 are widened piece by piece where the states are in fp32 (`toolkit.models.widening`).

Letters: N tokens, r rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from toolkit.models.widening import pieces


@dataclass(frozen=True)
class Update:
    """One linear layer's low-rank update: A [r, in] and scale * B [out, r] in the states' dtype, and fp32 gradients."""

    down: torch.Tensor
    up: torch.Tensor
    down_gradient: torch.Tensor
    up_gradient: torch.Tensor
    scale: float


@dataclass(frozen=True)
class Linear:
    """A frozen linear layer with its update, if it has one."""

    weight: torch.Tensor
    bias: torch.Tensor | None
    update: Update | None

    @property
    def outputs(self) -> int:
        return len(self.weight)

    def forward(self, x: torch.Tensor, place: torch.Tensor | None) -> torch.Tensor:
        """x [N, in] -> [N, out] without the update."""
        found = x.new_empty(len(x), self.outputs) if place is None else place
        for outputs, weight in pieces(self.weight, x.dtype):
            if self.bias is None:
                torch.mm(x, weight.t(), out=found[:, outputs])
            else:
                torch.addmm(self.bias[outputs].to(x.dtype), x, weight.t(), out=found[:, outputs])
        return found

    def onto(self, update: torch.Tensor, x: torch.Tensor, place: torch.Tensor | None) -> torch.Tensor:
        """update [N, out] + what x [N, in] gives, rounded once, as in `OneRoundingLinear`."""
        found = torch.empty_like(update) if place is None else place
        for outputs, weight in pieces(self.weight, x.dtype):
            torch.addmm(update[:, outputs], x, weight.t(), out=found[:, outputs])
        return found if self.bias is None else found.add_(self.bias)

    def backward(self, gradient: torch.Tensor, found: torch.Tensor | None) -> torch.Tensor:
        """The gradient of the outputs [N, out] -> that of x [N, in], on top of what is found already."""
        for outputs, weight in pieces(self.weight, gradient.dtype):
            part = gradient[:, outputs]
            found = part @ weight if found is None else torch.addmm(found, part, weight)
        assert found is not None
        return found


class Group:
    """Linear layers that read the same tensor."""

    def __init__(self, linears: Sequence[Linear]) -> None:
        self.linears = linears
        self._updates = [linear.update for linear in linears if linear.update is not None]
        self._downs = _stacked([update.down for update in self._updates])
        self._down_gradients = _stacked([update.down_gradient for update in self._updates])

    @property
    def rank(self) -> int:
        """Of all updates together."""
        return sum(len(update.down) for update in self._updates)

    def project(self, x: torch.Tensor, small: torch.Tensor) -> None:
        """Fills `small` [N, sum of r] with x A^T of all updates, which backward wants."""
        if self._updates:
            torch.mm(x, self._downs.t(), out=small)

    def forward(
        self, x: torch.Tensor, small: torch.Tensor, places: Sequence[torch.Tensor | None]
    ) -> list[torch.Tensor]:
        """x [N, in] -> each layer's outputs [N, out], written to its place where it has one; `small` is filled."""
        self.project(x, small)
        outputs, at = [], 0
        for linear, place in zip(self.linears, places, strict=True):
            if linear.update is None:
                outputs.append(linear.forward(x, place))
                continue
            rank = len(linear.update.down)
            outputs.append(linear.onto(small[:, at : at + rank] @ linear.update.up.t(), x, place))
            at += rank
        return outputs

    def backward(
        self, gradients: Sequence[torch.Tensor], x: torch.Tensor, small: torch.Tensor, wanted: bool = True
    ) -> torch.Tensor | None:
        """Adds to the updates' gradients and gives that of x [N, in], where it is wanted."""
        downwards, at = [], 0
        for linear, gradient in zip(self.linears, gradients, strict=True):
            update = linear.update
            if update is None:
                continue
            rank = len(update.down)
            update.up_gradient.add_(gradient.t() @ small[:, at : at + rank], alpha=update.scale)
            downwards.append(gradient @ update.up)
            at += rank
        found = None
        if downwards:
            down = downwards[0] if len(downwards) == 1 else torch.cat(downwards, dim=1)
            products = down.t() @ x
            if self._down_gradients is not None:
                self._down_gradients.add_(products)
            if wanted:
                found = down @ self._downs
        if not wanted:
            return None
        for linear, gradient in zip(self.linears, gradients, strict=True):
            found = linear.backward(gradient, found)
        return found


def _stacked(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Tensors [r, in] that lie one behind the other in memory as one: a view, no copy.

    Raises:
        ValueError: they do not.
    """
    if not parts:
        return torch.empty(0)
    first, rows, end = parts[0], 0, parts[0].storage_offset()
    for part in parts:
        if (
            part.storage_offset() != end
            or part.data_ptr() != first.data_ptr() + rows * first.stride(0) * part.element_size()
        ):
            raise ValueError("tensors that share a product do not lie together")
        rows, end = rows + len(part), end + part.numel()
    return first.as_strided((rows, first.shape[1]), (first.shape[1], 1))
