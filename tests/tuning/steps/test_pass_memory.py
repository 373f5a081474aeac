"""What a pass is said to keep and to pass is what torch's allocator gives out for it."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from allocations import most_allocated

from toolkit.rendering.prompt import TrainingSequence
from toolkit.tuning.adapter import new_adapter
from toolkit.tuning.settings import TuneSettings
from toolkit.tuning.steps.choosing import choose
from toolkit.tuning.steps.step import ByHand, Packed, Padded, Step

WAYS: dict[str, tuple[str, dict[str, Any], type[Step]]] = {
    "by hand": ("llama", {}, ByHand),
    "packed": ("llama", {"dropout": 0.1}, Packed),
    "packed, DoRA": ("qwen3", {"method": "dora"}, Packed),
    "padded": ("gpt_neox", {"target_modules": "all-linear"}, Padded),
}
WIDE = {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 6}
ROWS = {"short rows": (12, 20), "long rows": (2, 200), "one row": (1, 60)}


def rows_of(count: int, length: int) -> list[TrainingSequence]:
    draw = random.Random(count)
    return [
        TrainingSequence(tuple(draw.randrange(4, 300) for _ in range(length)), (False,) * (length - 4) + (True,) * 4)
        for _ in range(count)
    ]


def stepping(make_module: Callable[..., Any], way: str) -> Step:
    family, changes, kind = WAYS[way]
    module = make_module(family, fresh=True, **WIDE)
    settings = TuneSettings(rank=4, **changes)
    view = new_adapter(module, settings, seed=0).get_base_model().train()
    step, _, how = choose(view, settings.dropout, longest_tokens=200)
    assert isinstance(step, kind), how
    return step


@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("way", WAYS)
def test_a_pass_takes_what_it_was_said_to(
    make_module: Callable[..., Any], way: str, rows: str, recompute: bool
) -> None:
    step, sequences = stepping(make_module, way), rows_of(*ROWS[rows])
    if recompute:
        step.recompute()
    step(sequences, 0.0)  # what is made once, and the room for what is kept
    said = step.memory(sequences, recompute)
    taken = most_allocated(lambda: step(sequences, 0.0))
    assert 0.6 * said.passing < taken < 1.05 * said.passing


@pytest.mark.parametrize("way", WAYS)
def test_recomputing_keeps_less(make_module: Callable[..., Any], way: str) -> None:
    step, sequences = stepping(make_module, way), rows_of(4, 100)
    assert step.memory(sequences, recompute=True).kept < step.memory(sequences, recompute=False).kept / 3
