"""What autograd keeps lies in a block of its own: nothing changes by it, and nothing else is kept in the heap."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from allocations import most_allocated

from toolkit.rendering.prompt import TrainingSequence
from toolkit.tuning.adapter import new_adapter
from toolkit.tuning.settings import TuneSettings
from toolkit.tuning.steps.choosing import choose
from toolkit.tuning.steps.saved import SavedTensors

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "packed": ("llama", {"dropout": 0.1}),
    "soft caps": ("gemma2", {}),
    "DoRA": ("qwen3", {"method": "dora"}),
    "padded": ("gpt_neox", {}),
    "another dtype": ("llama", {"dropout": 0.1}),
}


def rows(count: int = 4) -> list[TrainingSequence]:
    draw = random.Random(1)
    lengths = [draw.randint(8, 40) for _ in range(count)]
    return [
        TrainingSequence(tuple(draw.randrange(4, 300) for _ in range(n)), (False,) * (n - 4) + (True,) * 4)
        for n in lengths
    ]


def gradient(make_module: Callable[..., Any], kind: str, passes: int = 2) -> torch.Tensor:
    family, changes = KINDS[kind]
    dtype = torch.bfloat16 if kind == "another dtype" else torch.float32
    settings = TuneSettings(rank=4, **changes)
    view = new_adapter(make_module(family, fresh=True).to(dtype), settings, seed=0).get_base_model().train()
    step, weights, _ = choose(view, settings.dropout, longest_tokens=40)
    torch.manual_seed(5)
    for count in range(1, passes + 1):
        step(rows(2 * count), 0.25)
        weights.collect()
    return weights.gradient


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_the_same_to_the_bit(
    make_module: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    found = gradient(make_module, kind)
    monkeypatch.setattr(SavedTensors, "keeping", lambda *_: nullcontext())
    assert float(found.norm()) > 0
    assert torch.equal(found, gradient(make_module, kind))


class Two(torch.nn.Module):
    """Two products with a gate between, on a device as a model says it."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = torch.nn.Linear(64, 256), torch.nn.Linear(256, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.nn.functional.silu(self.first(x)).square()).square().sum()


def test_what_is_saved_takes_no_memory_of_its_own() -> None:
    module = Two()
    x = torch.randn(512, 64)
    saved, size = SavedTensors(module), 4 * 512 * (64 + 256 + 256 + 256 + 64)
    held: list[torch.Tensor] = []

    def forward(where: Any) -> None:
        with where:
            held[:] = [module(x)]

    forward(saved.keeping(size))
    plain = most_allocated(lambda: forward(nullcontext()))
    assert plain > 0.9 * size - 4 * 512 * 64  # x was there before
    assert most_allocated(lambda: forward(saved.keeping(size))) < plain - 0.3 * size


def test_without_room_tensors_stay_where_they_are() -> None:
    module, x = Two(), torch.randn(4096, 64)
    wanted = module(x)
    wanted.backward()
    expected = [one.grad.clone() for one in module.parameters()]
    module.zero_grad()
    with SavedTensors(module).keeping(0):
        found = module(x)
    found.backward()
    assert all(torch.equal(one.grad, grad) for one, grad in zip(module.parameters(), expected, strict=True))


def test_a_tensor_that_changes_after_it_was_saved_is_saved_as_it_was() -> None:
    module = Two()
    x = torch.ones(3, requires_grad=True)
    with SavedTensors(module).keeping(1000):
        y = x * 2
        z = y.square()  # saves y
        y.add_(1)  # another content in the same memory
        w = y.square()  # saves y again
    (z.sum() + w.sum()).backward()
    assert x.grad is not None
    assert torch.equal(x.grad, torch.full((3,), 2 * 2 * 2.0 + 2 * 3 * 2.0))
