"""Who computes the loss and the gradient of a pass: the step by hand, or the stock model, packed or padded.

A step is called with sequences, a share and an objective's `of_tokens`, adds `share` times the gradient of the pass's
loss to that of the trained tensors, and gives that loss. `choosing` says which is taken.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch

from toolkit.rendering.prompt import TrainingSequence
from toolkit.tuning.attention import Attention, Rules
from toolkit.tuning.flat import FlatWeights
from toolkit.tuning.fused import FusedStep
from toolkit.tuning.loss import collate, has_plain_head, packed_token_losses, token_losses
from toolkit.tuning.objective import OfTokens, summed
from toolkit.tuning.packing import Packed as Pass
from toolkit.tuning.packing import pack, packed_size

NAME = "toolkit_training"
PLAIN_ATTENTION_TOKENS = 256


class Step(Protocol):
    """What computes a pass."""

    def __call__(
        self, sequences: Sequence[TrainingSequence], share: float, of_tokens: OfTokens = summed
    ) -> torch.Tensor: ...

    def token_losses(self, sequences: Sequence[TrainingSequence]) -> torch.Tensor:
        """The loss of each supervised token [N] in nats, in the order of the sequences, without chance or gradient."""

    def tokens(self, sequences: Sequence[TrainingSequence]) -> int:
        """Tokens a pass over these sequences computes."""


class ByHand:
    """Packed, and without autograd."""

    def __init__(self, module: Any, weights: FlatWeights, recompute: bool = False) -> None:
        self._device, self._step = module.device, FusedStep(module, weights, recompute)

    def __call__(
        self, sequences: Sequence[TrainingSequence], share: float, of_tokens: OfTokens = summed
    ) -> torch.Tensor:
        return self._step(self._packed(sequences), share, of_tokens)

    def token_losses(self, sequences: Sequence[TrainingSequence]) -> torch.Tensor:
        return self._step.token_losses(self._packed(sequences))

    def tokens(self, sequences: Sequence[TrainingSequence]) -> int:
        return packed_size(sequences, share=True)

    def _packed(self, sequences: Sequence[TrainingSequence]) -> Pass:
        return pack(sequences, self._step.heads, self._device, share=True)


class Packed:
    """Packed through the stock model, which calls our attention for every layer.

    What all rows begin with is packed once, unless chance would then be shared too.
    """

    def __init__(self, module: Any, shares: bool) -> None:
        from transformers import AttentionInterface

        self._plain_head = has_plain_head(module)
        AttentionInterface.register(NAME, _attention)
        module.set_attn_implementation(NAME)
        config = module.config.get_text_config()
        kinds = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        self._heads = (kinds, config.num_attention_heads // kinds)
        self._module, self._shares = module, shares

    def __call__(
        self, sequences: Sequence[TrainingSequence], share: float, of_tokens: OfTokens = summed
    ) -> torch.Tensor:
        return _backwards(self._losses(sequences), share, of_tokens)

    def token_losses(self, sequences: Sequence[TrainingSequence]) -> torch.Tensor:
        with _without_chance(self._module):
            return self._losses(sequences)

    def tokens(self, sequences: Sequence[TrainingSequence]) -> int:
        return packed_size(sequences, self._shares)

    def _losses(self, sequences: Sequence[TrainingSequence]) -> torch.Tensor:
        batch = pack(sequences, self._heads, self._module.device, self._shares)
        return packed_token_losses(self._module, batch, self._plain_head)


class Padded:
    """The stock model as it is, on padded rows.

    On a CPU its fused attention is slow backwards; short sequences are better off with the plain products, whose
    memory grows with the square of the length.
    """

    def __init__(self, module: Any, longest_tokens: int) -> None:
        if module.device.type == "cpu" and longest_tokens <= PLAIN_ATTENTION_TOKENS:
            module.set_attn_implementation("eager")
        self._module, self._plain_head = module, has_plain_head(module)

    def __call__(
        self, sequences: Sequence[TrainingSequence], share: float, of_tokens: OfTokens = summed
    ) -> torch.Tensor:
        return _backwards(self._losses(sequences), share, of_tokens)

    def token_losses(self, sequences: Sequence[TrainingSequence]) -> torch.Tensor:
        with _without_chance(self._module):
            return self._losses(sequences)

    def tokens(self, sequences: Sequence[TrainingSequence]) -> int:
        return len(sequences) * max(len(sequence.token_ids) for sequence in sequences)

    def _losses(self, sequences: Sequence[TrainingSequence]) -> torch.Tensor:
        return token_losses(self._module, collate(sequences, self._module.device), self._plain_head)


def _backwards(losses: torch.Tensor, share: float, of_tokens: OfTokens) -> torch.Tensor:
    """Through autograd, from the losses of a pass's tokens [N]."""
    loss = of_tokens(losses.detach())
    slopes = torch.ones_like(losses) if loss.slopes is None else loss.slopes
    losses.backward(slopes * share)
    return loss.total


@contextmanager
def _without_chance(module: Any) -> Iterator[None]:
    """No dropout, no noise, no gradient."""
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        module.train(was_training)


def _attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    sliding_window: int | None = None,
    bands: Any = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' interface: query [1, H * G, N, d] on key and value [1, H, N, d] by bands: [1, N, H * G, d].

    Raises:
        RuntimeError: called without bands, or with a mask of the model's own.
    """
    if bands is None or attention_mask is not None:
        raise RuntimeError("packed attention is called with bands and without masks of the model's own")
    rules = Rules(query.shape[-1] ** -0.5 if scaling is None else scaling, softcap, sliding_window)
    packed = [one[0].transpose(0, 1).contiguous() for one in (query, key, value)]
    found: torch.Tensor = Attention.apply(*packed, bands, rules)
    return found[None], None
