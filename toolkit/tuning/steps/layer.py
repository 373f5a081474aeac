"""One decoder layer of the Llama kind for the step by hand: its parts, and what its backward pass starts from.

Letters: N packed tokens, M predicting ones, D hidden, H key-value heads, G query heads on each, d head size, r rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch

from toolkit.tuning.steps.attention import Rules
from toolkit.tuning.steps.elements import Norm, wide
from toolkit.tuning.steps.groups import Group
from toolkit.tuning.steps.room import Shape


@dataclass(frozen=True)
class Layer:
    """A layer's parts, in the order in which they compute."""

    before_attention: Norm
    attention: Group
    query_norm: Norm | None
    key_norm: Norm | None
    out: Group
    before_mlp: Norm
    gates: Group
    down: Group
    rules: Rules


class Kept(NamedTuple):
    """What a layer's backward pass starts from, beside what entered the layer; the last four only with such norms."""

    factor: torch.Tensor
    small: torch.Tensor
    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    answer: torch.Tensor
    small_out: torch.Tensor
    middle: torch.Tensor
    middle_factor: torch.Tensor
    small_gates: torch.Tensor
    gate: torch.Tensor
    up: torch.Tensor
    small_down: torch.Tensor
    plain_query: torch.Tensor | None = None
    plain_key: torch.Tensor | None = None
    query_factor: torch.Tensor | None = None
    key_factor: torch.Tensor | None = None


def kept_shapes(layer: Layer, heads: tuple[int, int], tokens: int, asking: int, dtype: torch.dtype) -> list[Shape]:
    """The shapes of a layer's `Kept`, in its order.

    Args:
        heads: H and G.
        tokens, asking: N, and the tokens whose output matters: M in the last layer, N in the others.
        dtype: of the states.
    """
    query, key, value = (linear.outputs for linear in layer.attention.linears)
    gate, up = (linear.outputs for linear in layer.gates.linears)
    hidden, size = layer.out.linears[0].outputs, value // heads[0]
    kinds, queries = heads[0], heads[0] * heads[1]

    def row(count: int, width: int) -> Shape:
        return Shape((count, width), dtype)

    def by_head(kinds: int) -> Shape:
        return Shape((tokens, kinds, size), dtype)

    def factor(*sizes: int) -> Shape:
        return Shape((*sizes, 1), wide(dtype))

    shapes = [
        *(factor(tokens), row(tokens, layer.attention.rank), by_head(queries), by_head(kinds), by_head(kinds)),
        *(row(asking, query), row(asking, layer.out.rank), row(asking, hidden), factor(asking)),
        *(row(asking, layer.gates.rank), row(asking, gate), row(asking, up), row(asking, layer.down.rank)),
    ]
    if layer.query_norm is not None and layer.key_norm is not None:
        shapes += [row(tokens, query), row(tokens, key), factor(tokens, queries), factor(tokens, kinds)]
    return shapes
