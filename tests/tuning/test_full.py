from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from toolkit.errors import ModelError
from toolkit.models import adapter_digest, load_adapter, merged
from toolkit.models.weights import tensors_digest
from toolkit.rendering.prompt import TrainingSequence
from toolkit.tuning import TuneSettings, train
from toolkit.tuning.progress import StepReport
from toolkit.tuning.steps.choosing import choose
from toolkit.tuning.steps.loss import collate, token_losses
from toolkit.tuning.trainable import AllWeights

SMALL = TuneSettings(method="full", epochs=2, effective_batch_size=4, learning_rate=1e-3, checkpoint_every=1)
FILE = "tuned_weights.safetensors"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tied", [True, False])
def test_all_weights_learn_and_the_base_is_left_as_it_was(
    llama: Any, tmp_path: Path, dtype: torch.dtype, tied: bool
) -> None:
    base = llama(dtype, tie_word_embeddings=tied)
    digest = tensors_digest(base)
    sequences = [TrainingSequence((7, first, 9, first, 1), (False,) * 3 + (True,) * 2) for first in range(20, 28)]
    result = train(base, sequences, SMALL.model_copy(update={"epochs": 60, "learning_rate": 1e-2}), tmp_path)
    assert result.losses[0] > 3.5
    assert result.losses[-1] < 0.3
    assert tensors_digest(base) == digest
    assert not any(parameter.requires_grad for parameter in base.parameters())
    assert result.rank is None
    assert result.trainable_parameters == result.total_parameters == sum(one.numel() for one in base.parameters())
    view = load_adapter(base, tmp_path)
    assert {one.dtype for one in view.parameters()} == {dtype}
    with torch.inference_mode():
        answers = [int(view(input_ids=torch.tensor([row.token_ids[:3]])).logits[0, -1].argmax()) for row in sequences]
        assert answers == list(range(20, 28))
        within = merged(base, tmp_path)(input_ids=torch.tensor([[7, 20]])).logits
        assert torch.equal(within, view(input_ids=torch.tensor([[7, 20]])).logits)
    assert result.digest == adapter_digest(tmp_path)


def test_the_gradient_is_autograds(llama: Any, rows: Any) -> None:
    base, sequences = llama(initializer_range=0.2), rows(6, shortest=5, longest=20)
    view = AllWeights(base).view.train()
    step, weights, how = choose(view, 0.0, 20)
    assert how == "packed, through autograd: more is trained than low-rank updates of its decoder's layers"
    step(sequences, 0.5)
    found = weights.gradient.clone()
    base.requires_grad_(True)
    (token_losses(base, collate(sequences, "cpu"), False).sum() * 0.5).backward()
    expected = torch.cat([one.grad.reshape(-1) for one in base.parameters()])
    assert (found - expected).norm() < 1e-5 * expected.norm()


def test_a_base_in_bfloat16_is_trained_in_fp32_and_answers_with_its_rounding(llama: Any, rows: Any) -> None:
    """Steps far below what bf16 can hold still add up."""
    view = AllWeights(llama(torch.bfloat16)).view.train()
    step, weights, _ = choose(view, 0.0, 20)
    before = weights.vector.detach().clone()
    with torch.no_grad():
        for _ in range(64):
            weights.vector += 1e-5
            weights.publish()
    moved = weights.vector.detach() - before
    assert torch.allclose(moved, torch.full_like(moved, 64e-5), atol=1e-6)
    flat = torch.cat([one.detach().reshape(-1) for one in view.parameters()])
    assert flat.dtype == torch.bfloat16
    assert torch.equal(flat, weights.vector.detach().bfloat16())
    step(rows(3), 1.0)
    weights.collect()
    assert weights.gradient.norm() > 0
    assert all(one.grad is None for one in view.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_killed_training_goes_on_to_the_same_bytes(llama: Any, rows: Any, tmp_path: Path, dtype: torch.dtype) -> None:
    def kill(report: StepReport) -> None:
        if report.step == 3:
            raise KeyboardInterrupt

    train(llama(dtype), rows(10), SMALL, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(llama(dtype), rows(10), SMALL, tmp_path / "killed", on_step=kill)
    reports: list[StepReport] = []
    train(llama(dtype), rows(10), SMALL, tmp_path / "killed", on_step=reports.append)
    assert reports[0].step == 4
    assert {path.name for path in (tmp_path / "killed").iterdir()} == {FILE, "training.json"}
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (tmp_path / "killed" / path.name).read_bytes(), path.name


def test_settings_of_low_rank_updates_are_refused() -> None:
    for field, value in (("rank", 8), ("alpha", 16), ("dropout", 0.1), ("target_modules", ("q_proj",))):
        with pytest.raises(ValidationError, match=f"has no {field}"):
            TuneSettings(method="full", **{field: value})


SHAPE = SimpleNamespace(model_type="llama", hidden_size=2000)


def test_rates_are_a_tenth_and_one_of_low_rank_updates_gets_a_notice() -> None:
    assert TuneSettings(method="full").resolved_learning_rate(SHAPE, 100) == pytest.approx(5e-5)
    assert TuneSettings(method="full", learning_rate=2e-5).notices() == ()
    (notice,) = TuneSettings(method="full", learning_rate=1e-3).notices()
    assert "looks like a learning rate of low-rank updates" in notice


def test_weights_of_another_model_are_refused(llama: Any, rows: Any, tmp_path: Path) -> None:
    train(llama(), rows(4), SMALL.model_copy(update={"max_steps": 1}), tmp_path)
    with pytest.raises(ModelError, match=r"does not fit the model: .* is \(64, 32\) there and \(70, 32\) here"):
        load_adapter(llama(vocab_size=70), tmp_path)
    with pytest.raises(ModelError, match="tensors differ by name"):
        load_adapter(llama(num_hidden_layers=3), tmp_path)
    tensors = load_file(tmp_path / FILE)
    save_file(dict(list(tensors.items())[1:]), tmp_path / FILE)
    with pytest.raises(ModelError, match="1 tensors differ by name"):
        load_adapter(llama(), tmp_path)
    (tmp_path / FILE).write_bytes(b"{}")
    with pytest.raises(ModelError, match="cannot be read"):
        load_adapter(llama(), tmp_path)
