"""LoRA on a base in 4 bits (QLoRA): the gradient is right, the base is untouched, what cannot be done is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from toolkit.errors import ModelError
from toolkit.models import adapter_digest, load_adapter
from toolkit.models.four_bit import dequantise, parameter_count
from toolkit.models.weights import shared_copy, tensors_digest
from toolkit.rendering.prompt import TrainingSequence
from toolkit.tuning import TuneSettings, train

Load = Callable[..., Any]
SETTINGS = TuneSettings(rank=4, epochs=2, effective_batch_size=4, learning_rate=1e-2, checkpoint_every=0)
HOW = "packed, through autograd: its weights are in 4 bits"


def changed(**settings: Any) -> TuneSettings:
    return SETTINGS.model_copy(update=settings)


def read_only(module: Any) -> Any:
    """A model with one weight that says it is in 4 bits, as bitsandbytes' do; no library is needed to refuse it."""

    class State:
        quant_type, shape = "nf4", torch.Size((2, 2))

    module.get_decoder().layers[0].mlp.up_proj.weight.quant_state = State()
    return module


@pytest.mark.parametrize("computing", ["float32", "bfloat16"])
@pytest.mark.parametrize("method", ["lora", "rslora", "dora", "eva"])
def test_it_learns_and_the_base_keeps_its_codes_and_scales(
    llama: Any, four_bits: Load, tmp_path: Path, computing: str, method: str
) -> None:
    plain = llama(initializer_range=0.2)
    base = four_bits(plain, computing).module
    digest, modules = tensors_digest(base), [(name, type(part)) for name, part in base.named_modules()]
    sequences = [TrainingSequence((7, first, 9, first, 1), (False,) * 3 + (True,) * 2) for first in range(20, 28)]
    result = train(base, sequences, changed(method=method, epochs=40), tmp_path / "adapter")
    assert result.how == HOW
    assert result.losses[0] > 3
    assert result.losses[-1] < 0.3
    assert tensors_digest(base) == digest
    assert [(name, type(part)) for name, part in base.named_modules()] == modules
    assert not any(one.requires_grad or one.grad is not None for one in base.parameters())
    assert result.total_parameters == sum(one.numel() for one in plain.parameters()) + result.trainable_parameters
    view = load_adapter(base, tmp_path / "adapter")
    with torch.inference_mode():
        answers = [int(view(input_ids=torch.tensor([row.token_ids[:3]])).logits[0, -1].argmax()) for row in sequences]
    assert answers == list(range(20, 28))


def test_it_trains_what_the_dequantised_weights_would(llama: Any, rows: Any, four_bits: Load, tmp_path: Path) -> None:
    base = four_bits(llama(initializer_range=0.2)).module
    sequences = rows(12, longest=20)
    quantised = train(base, sequences, SETTINGS, tmp_path / "quantised")
    plain = train(dequantise(shared_copy(base)), sequences, SETTINGS, tmp_path / "plain")
    assert (quantised.how, plain.how) == (HOW, "by hand")
    assert quantised.losses == pytest.approx(plain.losses, abs=1e-4)
    assert quantised.losses[-1] < 0.9 * quantised.losses[0]


def test_the_same_training_gives_the_same_bytes(llama: Any, rows: Any, four_bits: Load, tmp_path: Path) -> None:
    plain, sequences = llama(initializer_range=0.2), rows(8)
    for folder in ("first", "second"):
        train(four_bits(plain).module, sequences, SETTINGS, tmp_path / folder)
    assert adapter_digest(tmp_path / "first") == adapter_digest(tmp_path / "second")


@pytest.mark.parametrize("computing", ["float32", "bfloat16"])
def test_what_answers_is_what_was_trained(
    llama: Any, four_bits: Load, answers_as_trained: Any, tmp_path: Path, computing: str
) -> None:
    """The adapter is in fp32 in both: read back in bf16 it would answer otherwise."""
    base = four_bits(llama(initializer_range=0.2), computing).module
    answers_as_trained(base, SETTINGS, tmp_path)


@pytest.mark.parametrize(
    ("method", "does"),
    [
        ("pissa", "takes the base's weights apart"),
        ("olora", "takes the base's weights apart"),
        ("full", "trains the base's weights themselves"),
    ],
)
def test_methods_that_write_to_the_base_are_refused_with_what_to_do(
    llama: Any, rows: Any, tmp_path: Path, method: str, does: str
) -> None:
    expected = f"method: {method} {does}, .* in 4 bits.*take method lora, rslora or dora, or load .*dtype: bfloat16"
    with pytest.raises(ModelError, match=expected):
        train(read_only(llama()), rows(4), TuneSettings(method=method), tmp_path)
    assert not list(tmp_path.iterdir())
    train(llama(), rows(4), TuneSettings(method=method, max_steps=1), tmp_path)  # elsewhere they serve


def test_parameters_are_counted_not_the_bytes_that_hold_them(llama: Any) -> None:
    module = llama()
    count = sum(one.numel() for one in module.parameters())
    codes = module.get_decoder().layers[0].mlp.up_proj.weight
    assert parameter_count(read_only(module)) == count - codes.numel() + 4
