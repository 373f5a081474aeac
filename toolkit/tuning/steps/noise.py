"""NEFTune (Jain et al. 2023): uniform noise on the embeddings while training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from toolkit.rendering.prompt import TrainingSequence
from toolkit.tuning.objective import OfTokens, summed

if TYPE_CHECKING:
    from toolkit.tuning.steps.pass_memory import PassMemory
    from toolkit.tuning.steps.step import Step


class Noisy:
    """A step whose embeddings [B, T, D] get noise of up to alpha / sqrt(T * D), T being each row's own tokens.

    Drawn from the global generator, as dropout is. Outside of a call, and in eval mode, nothing is added.

    Args:
        step: padded, or packed in the order of its sequences with nothing shared.
    """

    def __init__(self, step: Step, module: Any, alpha: float) -> None:
        self._step, self._alpha = step, alpha
        self._lengths: list[int] = []
        module.get_input_embeddings().register_forward_hook(self._add)

    def __call__(
        self, sequences: Sequence[TrainingSequence], share: float, of_tokens: OfTokens = summed
    ) -> torch.Tensor:
        self._lengths = [len(sequence.token_ids) for sequence in sequences]
        try:
            return self._step(sequences, share, of_tokens)
        finally:
            self._lengths = []

    def token_losses(self, sequences: Sequence[TrainingSequence]) -> torch.Tensor:
        return self._step.token_losses(sequences)

    def tokens(self, sequences: Sequence[TrainingSequence]) -> int:
        return self._step.tokens(sequences)

    def memory(self, sequences: Sequence[TrainingSequence], recompute: bool) -> PassMemory:
        return self._step.memory(sequences, recompute)

    def reserve(self, kept_bytes: int) -> None:
        self._step.reserve(kept_bytes)

    def give_back(self) -> None:
        self._step.give_back()

    def recompute(self) -> None:
        self._step.recompute()

    def _add(self, embeddings: Any, _: Any, output: torch.Tensor) -> torch.Tensor:
        if not (self._lengths and embeddings.training):
            return output
        alone = len(output) == 1 and output.shape[1] != sum(self._lengths)  # a padded step may take row by row
        lengths = torch.tensor([output.shape[1]] if alone else self._lengths, device=output.device)
        if len(output) == len(lengths):
            lengths = lengths[:, None, None]
        else:  # one row of all the sequences' tokens
            lengths = lengths.repeat_interleave(lengths)[None, :, None]
        largest = self._alpha / (lengths * output.shape[-1]).sqrt()
        return output + torch.empty_like(output).uniform_(-1, 1) * largest.to(output.dtype)
