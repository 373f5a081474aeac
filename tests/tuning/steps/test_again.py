"""Layers that are run again backwards give the same bits, or are left to torch's own way."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch

from toolkit.rendering.prompt import TrainingSequence
from toolkit.tuning.adapter import new_adapter
from toolkit.tuning.settings import TuneSettings
from toolkit.tuning.steps.choosing import choose
from toolkit.tuning.steps.saved import SavedTensors

WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "packed, dropout": ("llama", {"dropout": 0.2}),
    "packed, soft caps": ("gemma2", {"dropout": 0.2}),
    "packed, DoRA": ("qwen3", {"method": "dora"}),
    "padded": ("gpt_neox", {"target_modules": "all-linear", "dropout": 0.2}),
    "padded, positions learnt": ("gpt2", {"dropout": 0.2}),
    "one layer trained": (
        "llama",
        {"dropout": 0.2, "target_modules": ("layers.1.self_attn.q_proj", "layers.1.mlp.down_proj")},
    ),
}


def rows(count: int) -> list[TrainingSequence]:
    draw = random.Random(count)
    return [
        TrainingSequence(tuple(draw.randrange(4, 300) for _ in range(n)), (False,) * (n - 4) + (True,) * 4)
        for n in (draw.randint(8, 40) for _ in range(count))
    ]


def stepping(module: Any, changes: dict[str, Any]) -> tuple[Any, Any, Any]:
    settings = TuneSettings(rank=4, **changes)
    view = new_adapter(module, settings, seed=0).get_base_model().train()
    step, weights, _ = choose(view, settings.dropout, longest_tokens=40)
    return view, step, weights


def gradient(step: Any, weights: Any) -> torch.Tensor:
    torch.manual_seed(5)
    for count in (2, 4, 3):
        step(rows(count), 0.25)
        weights.collect()
    return weights.gradient.clone()


def callers(view: Any) -> set[str]:
    found = {vars(one).get("_gradient_checkpointing_func") for one in view.modules()} - {None}
    return {getattr(one, "func", one).__module__ for one in found}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("way", WAYS)
def test_running_layers_again_is_the_same_to_the_bit(
    make_module: Callable[..., Any], way: str, dtype: torch.dtype
) -> None:
    family, changes = WAYS[way]
    _, once, weights = stepping(make_module(family, fresh=True).to(dtype), changes)
    view, again, others = stepping(make_module(family, fresh=True).to(dtype), changes)
    again.recompute()
    assert callers(view) == {"toolkit.tuning.steps.again"}
    assert not bool(others.gradient.any()), "the proof left a gradient"
    found = gradient(again, others)
    assert float(found.norm()) > 0
    assert torch.equal(found, gradient(once, weights))


def test_the_proof_uses_up_no_chance(make_module: Callable[..., Any]) -> None:
    _, step, _ = stepping(make_module("llama", fresh=True), {"dropout": 0.2})
    torch.manual_seed(3)
    step.recompute()
    left = torch.rand(1)
    torch.manual_seed(3)
    assert left == torch.rand(1)


def pass_aside(view: Any) -> None:
    """The second layer reads what the first left beside: a gradient that goes through no input by position."""
    aside: dict[str, torch.Tensor] = {}
    first, second = view.gpt_neox.layers[0].mlp, view.gpt_neox.layers[1].mlp
    first.register_forward_hook(lambda *given: aside.update(states=given[-1]))
    second.register_forward_hook(lambda *given: given[-1] + 0.5 * aside["states"].square())


def test_what_layers_pass_aside_is_left_to_torch(make_module: Callable[..., Any]) -> None:
    found = []
    for recomputes in (False, True):
        module = make_module("gpt_neox", fresh=True)
        view, step, weights = stepping(module, {"target_modules": "all-linear", "dropout": 0.2})
        pass_aside(view)
        if recomputes:
            step.recompute()
            assert callers(view) == {"torch.utils.checkpoint"}
        found.append(gradient(step, weights))
    assert torch.equal(*found)


def test_what_a_layer_saves_the_second_time_lies_in_the_room(
    make_module: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, step, _ = stepping(make_module("llama", fresh=True), {"dropout": 0.2})
    step.recompute()
    refused: list[int] = []
    copied = SavedTensors._copied

    def counting(self: Any, storage: Any) -> Any:
        found = copied(self, storage)
        refused.extend([storage.nbytes()] * (found is None))
        return found

    monkeypatch.setattr(SavedTensors, "_copied", counting)
    step(rows(6), 1.0)
    assert refused == []
