"""Weights in bf16 on a processor that multiplies none: kept as they are, multiplied in fp32.

Without instructions for it torch's products of bf16 take 8 times as long as fp32's, and attention's 27 times (Zen 3).
Widened piece by piece, while a piece is near the processor, they take fp32's time; the model keeps half of fp32's
memory, and its states are those of fp32 with the same weights, for bf16 fits into fp32 exactly.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from toolkit.models.hardware import multiplies_bf16
from toolkit.models.layouts import is_plain, linear_layers

PIECE = 1 << 20
"""Numbers of a weight that are widened at once, 4 MiB of fp32: a quarter of them is slower for many rows, all of them
at once twice as slow for one row."""


def pieces(weight: torch.Tensor, dtype: torch.dtype) -> Iterator[tuple[slice, torch.Tensor]]:
    """A weight [out, in] in `dtype`, with the outputs each piece gives: the weight itself where it is in it already."""
    if weight.dtype == dtype:
        yield slice(None), weight
        return
    rows = max(1, PIECE // weight.shape[1])
    for start in range(0, len(weight), rows):
        yield slice(start, start + rows), weight[start : start + rows].to(dtype)


class Widened(nn.Linear):  # type: ignore[misc]
    """A linear layer in bf16 whose product is in fp32; weight and bias stay the layer's own."""

    computing = torch.float32

    def __init__(self, linear: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """[..., in] -> [..., out], both in fp32."""
        parts = [functional.linear(input, piece) for _, piece in pieces(self.weight, self.computing)]
        found = parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
        return found if self.bias is None else found.add_(self.bias)

    def onto(self, update: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """update [N, out] + what rows [N, in] give."""
        return self.forward(rows).add_(update)


def computing_dtype_of(module: Any) -> torch.dtype:
    """What a model's states and products are best computed in where it lies: its own dtype, or fp32 for bf16."""
    dtype: torch.dtype = module.dtype
    wide = dtype == torch.bfloat16 and module.device.type == "cpu" and not multiplies_bf16()
    return torch.float32 if wide else dtype


def widened(module: Any) -> Any:
    """A plain linear layer in bf16 with its product in fp32; any other module as it is."""
    return Widened(module) if is_plain(module) and module.weight.dtype == torch.bfloat16 else module


def widen(decoder: nn.Module) -> None:
    """Puts `Widened` layers in the place of a decoder's plain ones; not an adapter's, whose inputs PEFT casts itself.

    Args:
        decoder: on a module tree of one's own (`shared_copy`).
    """
    for parent, name, linear in list(linear_layers(decoder)):
        setattr(parent, name, widened(linear))
