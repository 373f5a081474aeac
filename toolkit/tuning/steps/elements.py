"""What a decoder layer of the Llama kind has beside its linear layers, forwards and backwards: norms and rotations.

Letters: N packed tokens, D hidden, d head size.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch


class Norm(NamedTuple):
    """Root mean square normalisation with a weight."""

    weight: torch.Tensor
    epsilon: float

    def forward(self, x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
        """x [..., D] normalised, rounded where the stock model rounds; `factor` [..., 1], at least fp32, is filled."""
        torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=factor.dtype, out=factor)
        factor.square_().mul_(1 / x.shape[-1]).add_(self.epsilon).rsqrt_()
        return self.again(x, factor)

    def again(self, x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
        return (x * factor).to(x.dtype).mul_(self.weight)

    def backward(self, gradient: torch.Tensor, x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
        scaled, normal = (gradient * self.weight).to(factor.dtype), x * factor
        along = (scaled * normal).mean(-1, keepdim=True)
        return scaled.addcmul_(normal, along, value=-1).mul_(factor).to(x.dtype)


class Turn(NamedTuple):
    """Rotary positions: cosine and sine [N, 1, d / 2]."""

    cosine: torch.Tensor
    sine: torch.Tensor

    def forward(self, x: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
        """Fills `found`."""
        return self._turned(x, 1, found)

    def backward(self, gradient: torch.Tensor) -> torch.Tensor:
        found = torch.empty(gradient.shape, dtype=gradient.dtype, device=gradient.device)
        return self._turned(gradient, -1, found)

    def _turned(self, x: torch.Tensor, way: int, found: torch.Tensor) -> torch.Tensor:
        half = x.shape[-1] // 2
        first, second = x[..., :half], x[..., half:]
        torch.mul(first, self.cosine, out=found[..., :half]).addcmul_(second, self.sine, value=-way)
        torch.mul(second, self.cosine, out=found[..., half:]).addcmul_(first, self.sine, value=way)
        return found

    def at(self, places: torch.Tensor) -> Turn:
        return Turn(self.cosine[places], self.sine[places])


def norm_of(module: Any) -> Norm:
    """A stock norm's weight and epsilon."""
    return Norm(module.weight, float(module.variance_epsilon))


def wide(dtype: torch.dtype) -> torch.dtype:
    """At least fp32."""
    return torch.promote_types(dtype, torch.float32)
