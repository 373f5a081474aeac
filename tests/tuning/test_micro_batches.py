from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from toolkit.rendering.prompt import TrainingSequence
from toolkit.tuning import TuneSettings, train
from toolkit.tuning.adapter import new_adapter
from toolkit.tuning.micro_batches import MicroBatches
from toolkit.tuning.objective import CrossEntropy, OfTokens
from toolkit.tuning.steps.choosing import choose

SMALL = TuneSettings(rank=4, epochs=2, effective_batch_size=4, learning_rate=1e-2, checkpoint_every=2)


def test_micro_batches_weigh_every_token_the_same(llama: Any, rows: Any, tmp_path: Path) -> None:
    sequences = rows(8, shortest=5, longest=20)
    whole = SMALL.model_copy(update={"effective_batch_size": 8, "epochs": 3, "micro_batch_tokens": 4096})
    single = whole.model_copy(update={"micro_batch_tokens": 1})
    a, b = train(llama(), sequences, whole, tmp_path / "a"), train(llama(), sequences, single, tmp_path / "b")
    assert a.losses == pytest.approx(b.losses, abs=1e-6)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_the_accumulated_gradient_is_that_of_the_whole_batch(llama: Any, rows: Any, dropout: float) -> None:
    sequences, gradients = rows(8, shortest=5, longest=20), []
    for changed in ({}, {"micro_batch_size": 1}, {"micro_batch_size": 3}, {"micro_batch_tokens": 1}):
        micro_batches, weights = accumulating(llama(), sequences, {"dropout": dropout, **changed})
        micro_batches.accumulate((3, 1, 0, 2, 7, 6, 5, 4))
        gradients.append(weights.gradient)
    assert gradients[0].abs().max() > 1e-4
    for gradient in gradients[1:]:
        torch.testing.assert_close(gradient, gradients[0], rtol=0, atol=1e-6)


def test_shares_of_a_step_add_up_to_the_whole(llama: Any, rows: Any) -> None:
    sequences = rows(8, shortest=5, longest=20)
    micro_batches, weights = accumulating(llama(), sequences, {})
    loss, wanted = micro_batches.accumulate((3, 1, 0, 2)), weights.gradient.clone()
    shares, total = [], 0.0
    for share in ((0,), (), (3, 1, 2)):
        total += micro_batches.accumulate(share, (3, 1, 0, 2))
        shares.append(weights.gradient.clone())
    assert total == pytest.approx(loss, abs=1e-6)
    assert not shares[1].any()
    torch.testing.assert_close(sum(shares), wanted, rtol=0, atol=1e-6)


def accumulating(module: Any, sequences: list[TrainingSequence], changed: dict[str, Any]) -> Any:
    settings = SMALL.model_copy(update=changed)
    adapted = new_adapter(module, settings, seed=0)
    step, weights, how = choose(adapted.get_base_model(), settings.dropout, longest_tokens=20)
    assert (how == "by hand") is (settings.dropout == 0)
    return MicroBatches(step, weights, CrossEntropy(sequences), settings), weights


class Narrow:
    """A step that runs out of memory on passes of more than so many rows, having added half of the gradient."""

    def __init__(self, step: Any, weights: Any, most_rows: int) -> None:
        self._step, self._weights, self._most, self.tokens = step, weights, most_rows, step.tokens

    def __call__(self, sequences: list[TrainingSequence], share: float, of_tokens: OfTokens) -> torch.Tensor:
        loss = self._step(sequences, share, of_tokens)
        if len(sequences) > self._most:
            self._weights.gradient.mul_(0.5)
            raise torch.OutOfMemoryError
        return loss

    def give_back(self) -> None:
        self.given_back = True


@pytest.mark.parametrize("changed", [{}, {"micro_batch_size": 8}])
def test_out_of_memory_halves_the_passes_and_keeps_the_step(llama: Any, rows: Any, changed: dict[str, Any]) -> None:
    sequences, everything = rows(8, shortest=5, longest=20), tuple(range(8))
    whole, wanted = accumulating(llama(), sequences, changed)
    loss = whole.accumulate(everything)
    narrow, weights = accumulating(llama(), sequences, changed)
    narrow._step = Narrow(narrow._step, weights, most_rows=2)
    assert narrow.accumulate(everything) == pytest.approx(loss, abs=1e-6)
    torch.testing.assert_close(weights.gradient, wanted.gradient, rtol=0, atol=1e-6)
    assert narrow.halvings >= 2
    assert narrow._step.given_back
    assert max(map(len, narrow.cut(everything))) <= 2
    narrow._step = Narrow(narrow._step, weights, most_rows=0)
    with pytest.raises(torch.OutOfMemoryError):
        narrow.accumulate(everything)


class Short(Narrow):
    """A step that runs out of memory on passes of more than so many tokens."""

    def __call__(self, sequences: list[TrainingSequence], share: float, of_tokens: OfTokens) -> torch.Tensor:
        if self.tokens(sequences) > self._most:
            raise torch.OutOfMemoryError
        return self._step(sequences, share, of_tokens)

    def give_back(self) -> None:
        """Nothing is held."""


def test_a_row_that_does_not_fit_by_itself_ends_the_halving(llama: Any, rows: Any) -> None:
    """Its tokens never become fewer, and rows beside it, which still fit together, must not hide that."""
    sequences = [*rows(1, shortest=60, longest=60), *rows(6, shortest=14, longest=14)]
    narrow, weights = accumulating(llama(), sequences, {"micro_batch_tokens": 400})
    narrow._step = Short(narrow._step, weights, 50)
    with pytest.raises(torch.OutOfMemoryError):
        narrow.accumulate(tuple(range(7)))
    assert narrow.halvings < 10
    narrow._step._most = 60
    narrow.accumulate(tuple(range(7)))
    assert max(map(narrow._tokens, narrow.cut(tuple(range(7))))) == 60
