"""What a training minimises: the likelihood of answers, or a preference between two (DPO).

A step of the optimiser takes rows (examples by index), each of one or more sequences; an objective says which, and
turns the losses of their tokens into the step's. Whoever computes a pass needs no more than that, so every way of
computing one serves every objective. Letters: N supervised tokens of a pass, in the order of its sequences.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from toolkit.rendering.prompt import Preference, TrainingSequence
from toolkit.tuning.amounts import lengths, supervised_count, supervised_counts
from toolkit.tuning.batches import Rows

if TYPE_CHECKING:
    from torch import Tensor


class Loss(NamedTuple):
    """A pass's summed loss, and how it changes with the loss of each token [N]: None where it is their sum."""

    total: Tensor
    slopes: Tensor | None = None


OfTokens = Callable[["Tensor"], Loss]
"""The losses of a pass's tokens [N], at least fp32 and without a gradient -> the pass's loss."""


class Objective(Protocol):
    """The loss of a step is the mean over the weights of its rows, however many passes it is accumulated from."""

    @property
    def rows(self) -> int:
        """How many there are to learn from."""

    @property
    def lengths(self) -> Sequence[int]:
        """Tokens of each row, for batches of like lengths."""

    @property
    def weights(self) -> Sequence[int]:
        """What each row counts in the mean."""

    @property
    def supervised(self) -> Sequence[int]:
        """Supervised tokens of each row."""

    def sequences(self, rows: Rows) -> list[TrainingSequence]:
        """What a pass over these rows computes."""

    def of_tokens(self, rows: Rows) -> OfTokens:
        """The loss of a pass over these rows."""


def summed(losses: Tensor) -> Loss:
    """Cross-entropy: each token counts alike."""
    return Loss(losses.sum())


class CrossEntropy:
    """The mean over supervised tokens of their negative log-likelihood (nats)."""

    def __init__(self, sequences: Sequence[TrainingSequence]) -> None:
        self._sequences = sequences
        self.lengths = lengths(sequences)
        self.supervised = supervised_counts(sequences)
        self.weights = self.supervised
        self.rows = len(sequences)

    def sequences(self, rows: Rows) -> list[TrainingSequence]:
        return [self._sequences[row] for row in rows]

    def of_tokens(self, rows: Rows) -> OfTokens:
        return summed


class DirectPreference:
    """The mean over pairs of -log sigmoid(beta * margin) (DPO, Rafailov et al. 2023).

    The margin is by how much more the log-likelihood of the chosen answer has risen over the reference's than that of
    the rejected one. The reference is the model as it is before the first step, its adapter adding nothing.

    Args:
        reference: log-likelihoods (nats) of the chosen and the rejected answer of each pair under the reference.
    """

    def __init__(
        self, pairs: Sequence[Preference], beta: float, reference: Sequence[tuple[float, float]] | None = None
    ) -> None:
        self._pairs, self._beta = pairs, beta
        self.reference = reference
        self.lengths = [sum(len(sequence.token_ids) for sequence in pair) for pair in pairs]
        self.supervised = [sum(map(supervised_count, pair)) for pair in pairs]
        self.weights = [1] * len(pairs)
        self.rows = len(pairs)

    def sequences(self, rows: Rows) -> list[TrainingSequence]:
        return [sequence for row in rows for sequence in self._pairs[row]]

    def of_tokens(self, rows: Rows) -> OfTokens:
        import torch
        from torch.nn.functional import softplus

        assert self.reference is not None, "see `likelihoods`"
        reference = [self.reference[row] for row in rows]

        def loss(losses: Tensor) -> Loss:
            counts = torch.tensor([supervised_count(one) for one in self.sequences(rows)], device=losses.device)
            found = -_sums(losses, counts).view(-1, 2)
            risen = found - torch.tensor(reference, dtype=found.dtype, device=found.device)
            margins = self._beta * (risen[:, 0] - risen[:, 1])
            pull = self._beta * torch.sigmoid(-margins)
            slopes = torch.stack([pull, -pull], dim=1).flatten()
            return Loss(softplus(-margins).sum(), slopes.repeat_interleave(counts))

        return loss

    def likelihoods(self, rows: Rows, losses: Tensor) -> list[tuple[float, float]]:
        """Of the losses of these rows' tokens [N]: the log-likelihood of each pair's answers."""
        import torch

        counts = torch.tensor([supervised_count(one) for one in self.sequences(rows)], device=losses.device)
        return [(chosen, rejected) for chosen, rejected in (-_sums(losses, counts)).view(-1, 2).tolist()]


def _sums(losses: Tensor, counts: Tensor) -> Tensor:
    """losses [N] summed by sequence, in one fixed order."""
    import torch

    return torch.stack([some.sum() for some in losses.split(counts.tolist())])
