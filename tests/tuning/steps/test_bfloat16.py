"""In bf16 the step by hand rounds no more than the stock model's autograd does: neither whole nor in its parts.

On a processor without products of bf16 it computes in fp32 and rounds nothing.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from toolkit.models import widening
from toolkit.rendering.prompt import TrainingSequence
from toolkit.tuning.adapter import new_adapter
from toolkit.tuning.flat import FlatWeights
from toolkit.tuning.settings import TuneSettings
from toolkit.tuning.steps.elements import norm_of
from toolkit.tuning.steps.fused import FAMILIES, in_order
from toolkit.tuning.steps.loss import FrozenHeadLoss, collate
from toolkit.tuning.steps.step import ByHand

PASSES = 16
NO_FURTHER, SLACK = 1.2, 1e-4
Rows = list[TrainingSequence]
Found = tuple[torch.Tensor, torch.Tensor]
"""The loss of each token, and a gradient."""


def rows_of(seed: int) -> Rows:
    """Rows that begin alike, the end of each supervised."""
    draw = random.Random(seed)
    before = [draw.randrange(4, 300) for _ in range(10)]
    ids = [(*before, *(draw.randrange(4, 300) for _ in range(draw.randint(8, 30)))) for _ in range(8)]
    return [TrainingSequence(one, (False,) * 14 + (True,) * (len(one) - 14)) for one in ids]


def adapted(module: Any) -> tuple[Any, FlatWeights]:
    """The module under an adapter whose B is not 0, and the adapter's weights."""
    view = new_adapter(module, TuneSettings(rank=4), seed=0).get_base_model()
    generator = torch.Generator().manual_seed(1)
    for name, parameter in view.named_parameters():
        if "lora_" in name:  # A too, which is drawn in the base's dtype
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    return view, FlatWeights(in_order(view))


def by_hand(module: Any, passes: Sequence[Rows]) -> list[Found]:
    view, weights = adapted(module)
    step, found = ByHand(view, weights), []
    for rows in passes:
        weights.gradient.zero_()
        total, losses = step(rows, 1.0), step.token_losses(rows)
        assert float(total) == pytest.approx(float(losses.sum()), rel=1e-5)
        found.append((losses, weights.gradient.clone()))
    return found


def stock(module: Any, passes: Sequence[Rows]) -> list[Found]:
    """The model's own logits and torch's cross-entropy: nothing of the step's."""
    view, weights = adapted(module)
    found = []
    for rows in passes:
        weights.gradient.zero_()
        batch = collate(rows, "cpu")
        logits = view(input_ids=batch.ids).logits[batch.rows, batch.columns]
        losses = functional.cross_entropy(logits.float(), batch.targets, reduction="none")
        losses.sum().backward()
        found.append((losses.detach(), weights.gradient.clone()))
    return found


def apart(found: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor]) -> float:
    """Root of the mean square of the distances, each relative to what is wanted."""
    shares = [float((one - other).norm() / other.norm()) for one, other in zip(found, wanted, strict=True)]
    return float((sum(share**2 for share in shares) / len(shares)) ** 0.5)


def no_further(ours: Sequence[torch.Tensor], theirs: Sequence[torch.Tensor], exact: Sequence[torch.Tensor]) -> None:
    assert 1e-5 < apart(theirs, exact) < 0.2, "nothing is rounded, or nothing is left"
    assert apart(ours, exact) <= NO_FURTHER * apart(theirs, exact) + SLACK


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_losses_and_gradient_are_as_near_to_those_of_fp32(
    make_module: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    monkeypatch.setattr(widening, "multiplies_bf16", lambda: True)
    passes = [rows_of(seed) for seed in range(PASSES)]
    rounded = make_module(family, fresh=True, initializer_range=0.15).bfloat16()
    widened = make_module(family, fresh=True, initializer_range=0.15).bfloat16().float()
    found = [by_hand(rounded, passes), stock(rounded, passes), stock(widened, passes)]
    for kind in range(2):
        no_further(*([one[kind] for one in way] for way in found))


@pytest.mark.parametrize("changes", [{}, {"attention_bias": True, "mlp_bias": True}], ids=str)
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_without_products_of_bf16_they_are_those_of_fp32(
    make_module: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, family: str, changes: dict[str, Any]
) -> None:
    monkeypatch.setattr(widening, "multiplies_bf16", lambda: False)
    monkeypatch.setattr(widening, "PIECE", 500)  # less than a tiny model's weight
    passes = [rows_of(seed) for seed in range(4)]
    narrow = make_module(family, fresh=True, initializer_range=0.15, **changes).bfloat16()
    wide = make_module(family, fresh=True, initializer_range=0.15, **changes).bfloat16().float()
    found, wanted = by_hand(narrow, passes), stock(wide, passes)
    assert {one.dtype for name, one in narrow.named_parameters() if "lora_" not in name} == {torch.bfloat16}
    for kind in range(2):
        assert apart([one[kind] for one in found], [one[kind] for one in wanted]) < 2e-5


def randoms(*sizes: tuple[int, ...]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(size, generator=generator).bfloat16() for size in sizes]


@pytest.mark.parametrize("biased", [False, True])
def test_the_heads_loss_and_gradient_are_as_near(biased: bool) -> None:
    hidden, weight, bias = randoms((300, 24), (500, 24), (500,))
    given, targets = (hidden, weight, bias if biased else None), torch.arange(300)

    def plain(hidden: torch.Tensor, weight: torch.Tensor, bias: Any, targets: torch.Tensor) -> torch.Tensor:
        logits = functional.linear(hidden, weight, bias)
        widest = torch.promote_types(logits.dtype, torch.float32)
        return functional.cross_entropy(logits.to(widest), targets, reduction="none")

    def through(losses_of: Callable[..., torch.Tensor], dtype: torch.dtype) -> Found:
        states, *head = (None if one is None else one.to(dtype, copy=True) for one in given)
        losses = losses_of(states.requires_grad_(), *head, targets)
        losses.sum().backward()
        return losses.detach(), states.grad

    ways = (FrozenHeadLoss.apply, torch.bfloat16), (plain, torch.bfloat16), (plain, torch.float64)
    found = [through(*way) for way in ways]
    for kind in range(2):
        no_further(*([way[kind].double()] for way in found))


def test_a_norm_and_its_gradient_are_as_near() -> None:
    x, weight, upstream = randoms((200, 64), (64,), (200, 64))

    def plain(dtype: torch.dtype) -> Found:
        norm = LlamaRMSNorm(64, eps=1e-5).to(dtype)
        norm.weight.data = weight.to(dtype)
        start = x.to(dtype, copy=True).requires_grad_()
        y = norm(start)
        y.backward(upstream.to(dtype))
        return y.detach(), start.grad

    norm = LlamaRMSNorm(64, eps=1e-5)
    norm.weight = torch.nn.Parameter(weight, requires_grad=False)
    ours, factor = norm_of(norm), torch.empty(200, 1)
    found = [(ours.forward(x, factor), ours.backward(upstream, x, factor)), plain(torch.bfloat16), plain(torch.float64)]
    for kind in range(2):
        no_further(*([way[kind].double()] for way in found))
