from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from toolkit.errors import DataError
from toolkit.models import load_adapter
from toolkit.models.weights import tensors_digest
from toolkit.rendering.prompt import Preference, TrainingSequence
from toolkit.tuning import TuneSettings, train
from toolkit.tuning.adapter import new_adapter
from toolkit.tuning.micro_batches import MicroBatches
from toolkit.tuning.objective import DirectPreference
from toolkit.tuning.progress import StepReport
from toolkit.tuning.steps.choosing import choose

SMALL = TuneSettings(rank=4, epochs=2, effective_batch_size=4, learning_rate=1e-2, checkpoint_every=1)


def answered(prompt: tuple[int, ...], answer: tuple[int, ...]) -> TrainingSequence:
    return TrainingSequence(prompt + answer, (False,) * len(prompt) + (True,) * len(answer))


def pairs(count: int, longest: int = 9) -> list[Preference]:
    """The chosen answer has another length than the rejected one, and prompts differ in theirs."""
    generator = torch.Generator().manual_seed(4)
    found = []
    for number in range(count):
        size = int(torch.randint(4, longest, (1,), generator=generator))
        prompt = (3, *torch.randint(10, 60, (size,), generator=generator).tolist())
        found.append(Preference(answered(prompt, (number % 5 + 40, 7, 1)), answered(prompt, (number % 3 + 50, 1))))
    return found


def log_likelihood(module: Any, sequence: TrainingSequence) -> torch.Tensor:
    """Of the supervised tokens, by the stock model."""
    ids = torch.tensor([sequence.token_ids])
    found = module(input_ids=ids).logits[0, :-1].float().log_softmax(-1)
    at = [place for place in range(1, len(sequence.token_ids)) if sequence.supervised[place]]
    return sum((found[place - 1, sequence.token_ids[place]] for place in at), torch.zeros(()))


@pytest.mark.parametrize(("dropout_or_noise", "how"), [({}, "by hand"), ({"method": "dora"}, "packed")])
@pytest.mark.parametrize("cut", [{}, {"micro_batch_size": 1}, {"micro_batch_size": 3}])
def test_the_gradient_is_that_of_the_papers_formula(
    llama: Any, dropout_or_noise: dict[str, Any], how: str, cut: dict[str, Any]
) -> None:
    base, some, beta = llama(initializer_range=0.2), pairs(5), 0.3
    settings = TuneSettings(rank=4, **dropout_or_noise, **cut)
    adapted = new_adapter(base, settings, seed=0)
    view = adapted.get_base_model().train()
    step, weights, said = choose(view, 0.0, 40)
    assert said.startswith(how)
    with torch.no_grad():
        weights.vector += 0.05 * torch.sin(torch.arange(len(weights.vector)) * 12.9898)
        reference = [tuple(float(log_likelihood(base, one)) for one in pair) for pair in some]
    objective = DirectPreference(some, beta, reference)
    found = MicroBatches(step, weights, objective, settings).accumulate((4, 0, 2, 1, 3))
    gradient = weights.gradient.clone()

    weights.gradient.zero_()
    view.set_attn_implementation("eager")  # packed passes have an attention of their own
    losses = []
    for pair, (chosen, rejected) in zip(some, reference, strict=True):
        margin = (log_likelihood(view, pair.chosen) - chosen) - (log_likelihood(view, pair.rejected) - rejected)
        losses.append(-torch.nn.functional.logsigmoid(beta * margin))
    expected = torch.stack(losses).mean()
    expected.backward()
    assert found == pytest.approx(float(expected), rel=1e-5)
    assert weights.gradient.norm() > 1e-2
    assert (gradient - weights.gradient).norm() < 1e-4 * weights.gradient.norm()


@pytest.mark.parametrize("fields", [{}, {"dropout": 0.2}, {"method": "pissa"}, {"method": "full", "rank": 16}], ids=str)
def test_the_reference_is_the_base_so_the_first_loss_is_that_of_a_coin(
    llama: Any, tmp_path: Path, fields: dict[str, Any]
) -> None:
    settings = TuneSettings(**{**SMALL.model_dump(), **fields, "max_steps": 1})
    found = train(llama(), pairs(6), settings, tmp_path).losses[0]
    assert found == pytest.approx(math.log(2), abs=5e-2 if "dropout" in fields else 1e-4)


def test_what_is_chosen_becomes_likelier_than_what_is_rejected(llama: Any, tmp_path: Path) -> None:
    base, some = llama(initializer_range=0.2), pairs(8)
    digest = tensors_digest(base)
    result = train(base, some, SMALL.model_copy(update={"epochs": 12}), tmp_path)
    assert result.losses[-1] < 0.3
    assert tensors_digest(base) == digest
    view = load_adapter(base, tmp_path)
    with torch.inference_mode():
        for pair in some:
            now = [float(log_likelihood(view, one)) for one in pair]
            before = [float(log_likelihood(base, one)) for one in pair]
            assert now[0] - before[0] > now[1] - before[1]


def test_beta_is_read_and_the_automatic_rate_is_lower(llama: Any, tmp_path: Path) -> None:
    losses = [
        train(llama(), pairs(6), SMALL.model_copy(update={"dpo_beta": beta}), tmp_path / str(beta)).losses[-1]
        for beta in (0.05, 0.5)
    ]
    assert losses[0] != losses[1]
    settings = TuneSettings()
    shape = SimpleNamespace(model_type="llama", hidden_size=2000)
    rate = settings.resolved_learning_rate(shape, 100)
    assert settings.resolved_learning_rate(shape, 100, preferences=True) == pytest.approx(rate / 20)


def test_a_killed_training_of_preferences_goes_on_to_the_same_bytes(llama: Any, tmp_path: Path) -> None:
    def kill(report: StepReport) -> None:
        if report.step == 2:
            raise KeyboardInterrupt

    train(llama(), pairs(8), SMALL, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(llama(), pairs(8), SMALL, tmp_path / "killed", on_step=kill)
    reports: list[StepReport] = []
    train(llama(), pairs(8), SMALL, tmp_path / "killed", on_step=reports.append)
    assert reports[0].step == 3
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (tmp_path / "killed" / path.name).read_bytes(), path.name


def test_pairs_that_tell_nothing_are_refused(llama: Any, tmp_path: Path) -> None:
    one, other = answered((1, 2, 3), (4, 5)), answered((1, 2, 8), (6, 5))
    with pytest.raises(DataError, match=r"preference 1: the chosen answer is the rejected one"):
        train(llama(), [*pairs(1), Preference(one, one)], SMALL, tmp_path)
    with pytest.raises(DataError, match="row a: its two answers are to different prompts"):
        train(llama(), [Preference(one, other)], SMALL, tmp_path, names=["row a"])
    with pytest.raises(DataError, match="sequences and preferences"):
        train(llama(), [*pairs(1), one], SMALL, tmp_path)
    silent = TrainingSequence((1, 2, 3), (False,) * 3)
    with pytest.raises(DataError, match="preference 0, rejected: none of its 3 tokens is supervised"):
        train(llama(), [Preference(one, silent)], SMALL, tmp_path)
