"""What a pass keeps lies side by side in one block, as large as it was said to be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from toolkit.rendering.prompt import TrainingSequence
from toolkit.tuning import TuneSettings
from toolkit.tuning.adapter import new_adapter
from toolkit.tuning.flat import FlatWeights
from toolkit.tuning.steps.fused import FusedStep, in_order
from toolkit.tuning.steps.loss import head_shapes
from toolkit.tuning.steps.packing import pack
from toolkit.tuning.steps.room import ALIGNMENT, Room, Shape

FLOATS = Shape((3, 5), torch.float32)


def test_tensors_lie_one_behind_the_other() -> None:
    room = Room("cpu")
    room.open(2 * FLOATS.bytes)
    first, second = room.take([FLOATS, FLOATS])
    first.fill_(1)
    second.fill_(2)
    assert bool((first == 1).all()), "the second was written over it"
    assert second.data_ptr() - first.data_ptr() == FLOATS.bytes == ALIGNMENT
    assert first.shape == (3, 5)


def test_what_is_taken_back_is_given_out_again() -> None:
    room = Room("cpu")
    room.open(2 * FLOATS.bytes)
    (first,) = room.take([FLOATS])
    used = room.used
    (second,) = room.take([FLOATS])
    room.back_to(used)
    assert room.take([FLOATS])[0].data_ptr() == second.data_ptr()
    room.open(FLOATS.bytes)
    assert room.take([FLOATS])[0].data_ptr() == first.data_ptr()


def test_a_full_room_is_an_error() -> None:
    room = Room("cpu")
    room.open(FLOATS.bytes)
    with pytest.raises(ValueError, match="no room"):
        room.take([FLOATS, FLOATS])


def stepped(module: Any, recompute: bool) -> tuple[FusedStep, Any]:
    view = new_adapter(module, TuneSettings(rank=4), seed=0).get_base_model()
    step = FusedStep(view, FlatWeights(in_order(view)), recompute)
    rows = [TrainingSequence(tuple(range(4, 4 + n)), (False,) * (n - 3) + (True,) * 3) for n in (31, 12)]
    return step, pack(rows, step.heads, torch.device("cpu"), share=True)


@pytest.mark.parametrize("family", ["llama", "qwen3"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_pass_takes_the_room_it_was_said_to_need(
    make_module: Callable[..., Any], family: str, dtype: torch.dtype
) -> None:
    step, batch = stepped(make_module(family, fresh=True).to(dtype), recompute=False)
    step(batch, 1.0)
    needed = step.kept_bytes(batch.tokens, len(batch.predicting))
    logits = head_shapes(len(batch.predicting), len(step._head.weight), step.computing)
    assert len(step._room._block) == needed
    assert 0 < step._room.used == needed - sum(shape.bytes for shape in logits)


def test_running_layers_again_needs_the_room_of_one(make_module: Callable[..., Any]) -> None:
    step, batch = stepped(make_module("llama", num_hidden_layers=8), recompute=True)
    whole = step.kept_bytes(batch.tokens, len(batch.predicting), recompute=False)
    assert step.kept_bytes(batch.tokens, len(batch.predicting)) < whole / 3
    step(batch, 1.0)  # for a smaller room would be an error
    assert len(step._room._block) == step.kept_bytes(batch.tokens, len(batch.predicting))
