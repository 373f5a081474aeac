"""Layers that are run again backwards: of each only what entered it is kept.

torch's own way leaves what a layer saves the second time in the heap, between what passes, where with DoRA it took four
times the room (glibc, 16 rows of 256 tokens, bfloat16). This one has it where `SavedTensors` has all else.
Gradients go through what enters a layer by position, and through nothing else, so it is proven on a short row first.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch

from toolkit.tuning.steps.saved import SavedTensors, probe_row

PROVEN_TOKENS = 8
Losses = Callable[[Any], torch.Tensor]


def run_layers_again(module: Any, saved: SavedTensors, losses: Losses) -> bool:
    """Has transformers call layers by `_Layer`, where the gradient of a row is the same bits; says whether it is.

    Gradients are left at 0, and no global chance is used up.

    Args:
        module: in training mode, and recomputing its layers in torch's own way, as it does afterwards where this fails.
        losses: of the supervised tokens of a pass, with their graph.
    """
    layers = [one for one in module.modules() if hasattr(one, "_gradient_checkpointing_func")]
    stock = [one._gradient_checkpointing_func for one in layers]
    wanted, found = _gradient(module, saved, losses), None
    _call_by(layers, [_caller(saved)] * len(layers))
    with suppress(RuntimeError, TypeError):  # layers that share a graph, or answer with more than tensors
        found = _gradient(module, saved, losses)
    if found != wanted:
        _call_by(layers, stock)
    return found == wanted


def _call_by(layers: list[Any], callers: list[Any]) -> None:
    for layer, caller in zip(layers, callers, strict=True):
        layer._gradient_checkpointing_func = caller


def _caller(saved: SavedTensors) -> Callable[..., Any]:
    anchor = torch.empty(0, requires_grad=True)  # what enters the first layer may need no gradient

    def call(layer: Callable[..., Any], *inputs: Any) -> Any:
        return _Layer.apply(layer, saved, anchor, *inputs)

    return call


class _Layer(torch.autograd.Function):  # type: ignore[misc]
    """One layer, without a graph until it is asked for a gradient."""

    @staticmethod
    def forward(ctx: Any, layer: Callable[..., Any], saved: SavedTensors, _: torch.Tensor, *inputs: Any) -> Any:
        ctx.layer, ctx.saved, ctx.chance = layer, saved, torch.get_rng_state()
        ctx.save_for_backward(*(one for one in inputs if isinstance(one, torch.Tensor)))
        ctx.others = [None if isinstance(one, torch.Tensor) else (one,) for one in inputs]
        return layer(*inputs)

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> Any:
        tensors, needed = iter(ctx.saved_tensors), ctx.needs_input_grad[3:]
        inputs = [
            next(tensors).detach().requires_grad_(need) if other is None else other[0]
            for other, need in zip(ctx.others, needed, strict=True)
        ]
        with torch.random.fork_rng(devices=[]), torch.enable_grad(), ctx.saved.again():
            torch.set_rng_state(ctx.chance)
            made = ctx.layer(*inputs)
        pairs = zip(made if isinstance(made, tuple) else (made,), slopes, strict=True)
        known = [(one, slope) for one, slope in pairs if slope is not None and one.requires_grad]
        if known:  # else nothing is trained in this layer or before it
            torch.autograd.backward(*zip(*known, strict=True))
        return None, None, None, *(one.grad if need else None for one, need in zip(inputs, needed, strict=True))


def _gradient(module: Any, saved: SavedTensors, losses: Losses) -> list[float]:
    """Norms of what each trained tensor gets from a row: as many numbers as there are tensors."""
    trained = [one for one in module.parameters() if one.requires_grad]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        with saved.keeping(0):
            found = losses([probe_row(module, PROVEN_TOKENS, PROVEN_TOKENS // 2)])
        try:
            found.sum().backward()
            return [0.0 if one.grad is None else one.grad.norm().item() for one in trained]
        finally:
            for one in trained:
                if one.grad is not None:
                    one.grad.zero_()
