"""Who computes the loss and the gradient of a pass: the step by hand, or the stock model, packed or padded.

A step is called with sequences, a share and an objective's `of_tokens`, adds `share` times the gradient of the pass's
loss to that of the trained tensors, and gives that loss. `choosing` says which is taken.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol

import torch

from toolkit.errors import ModelError
from toolkit.models.positions import Positions, moving_positions
from toolkit.rendering.prompt import TrainingSequence
from toolkit.tuning.flat import FlatWeights
from toolkit.tuning.objective import OfTokens, summed
from toolkit.tuning.steps.again import run_layers_again
from toolkit.tuning.steps.attention import Attention, Rules
from toolkit.tuning.steps.fused import FusedStep
from toolkit.tuning.steps.loss import collate, has_plain_head, packed_token_losses, token_losses
from toolkit.tuning.steps.packing import Packed as Pass
from toolkit.tuning.steps.packing import pack, packed_size
from toolkit.tuning.steps.pass_memory import (
    PassMemory,
    StockPass,
    packed_memory,
    packed_pass,
    padded_pass,
    stock_memory,
    stock_weights,
    widths_of,
)
from toolkit.tuning.steps.saved import Growth, SavedTensors, growth

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

    def memory(self, sequences: Sequence[TrainingSequence], recompute: bool) -> PassMemory:
        """What a pass over these sequences takes beside the weights."""

    def reserve(self, kept_bytes: int) -> None:
        """Makes room for a pass that keeps so much before a smaller one is computed."""

    def give_back(self) -> None:
        """Frees the room that was made: passes become smaller."""

    def recompute(self) -> None:
        """From now on only what enters a layer is kept, and the layer is run again backwards: the same bits.

        Raises:
            ModelError: the model cannot.
        """


class ByHand:
    """Packed, and without autograd."""

    def __init__(self, module: Any, weights: FlatWeights) -> None:
        self._device, self._step = module.device, FusedStep(module, weights)
        self._widths = replace(widths_of(module), item=self._step.computing.itemsize)

    def __call__(
        self, sequences: Sequence[TrainingSequence], share: float, of_tokens: OfTokens = summed
    ) -> torch.Tensor:
        return self._step(self._packed(sequences), share, of_tokens)

    def token_losses(self, sequences: Sequence[TrainingSequence]) -> torch.Tensor:
        return self._step.token_losses(self._packed(sequences))

    def tokens(self, sequences: Sequence[TrainingSequence]) -> int:
        return packed_size(sequences, share=True)

    def memory(self, sequences: Sequence[TrainingSequence], recompute: bool) -> PassMemory:
        size = packed_pass(sequences, share=True)
        kept = self._step.kept_bytes(size.tokens, size.predicting, recompute)
        return packed_memory(kept, self._widths, size)

    def reserve(self, kept_bytes: int) -> None:
        self._step.reserve(kept_bytes)

    def give_back(self) -> None:
        self._step.give_back()

    def recompute(self) -> None:
        self._step.recompute = True

    def _packed(self, sequences: Sequence[TrainingSequence]) -> Pass:
        return pack(sequences, self._step.heads, self._device, share=True)


class _StockModel(ABC):
    """What both ways through the stock model share: autograd, and where it keeps what it saves."""

    _growth: Growth

    def __init__(self, module: Any) -> None:
        self._module, self._plain_head = module, has_plain_head(module)
        self._saved, self._widths, self._recomputes = SavedTensors(module), widths_of(module), False
        self._weights = stock_weights(module)

    @abstractmethod
    def _losses(self, sequences: Sequence[TrainingSequence]) -> torch.Tensor:
        """Of each supervised token [N], with their graph."""

    @abstractmethod
    def _size(self, sequences: Sequence[TrainingSequence]) -> StockPass:
        """Of a pass over these sequences."""

    def __call__(
        self, sequences: Sequence[TrainingSequence], share: float, of_tokens: OfTokens = summed
    ) -> torch.Tensor:
        if self._module.device.type != "cpu":
            return _backwards(self._losses(sequences), share, of_tokens)
        with self._saved.keeping(self.memory(sequences, self._recomputes).kept):
            losses = self._losses(sequences)
        return _backwards(losses, share, of_tokens)

    def token_losses(self, sequences: Sequence[TrainingSequence]) -> torch.Tensor:
        with _without_chance(self._module):
            return self._losses(sequences)

    def memory(self, sequences: Sequence[TrainingSequence], recompute: bool) -> PassMemory:
        return stock_memory(self._weights, self._widths, self._growth, self._size(sequences), recompute)

    def reserve(self, kept_bytes: int) -> None:
        if self._module.device.type == "cpu":
            self._saved.reserve(kept_bytes)

    def give_back(self) -> None:
        self._saved.give_back()

    def recompute(self) -> None:
        module = self._module
        if not module.supports_gradient_checkpointing:
            raise ModelError(
                f"a {type(module).__name__} cannot compute its layers again: set `gradient_checkpointing: off` and a "
                "lower `micro_batch_tokens`"
            )
        self._recomputes = True
        enable = getattr(module, "activation_checkpointing_enable", None)  # its name in transformers 6, and before
        (enable or module.gradient_checkpointing_enable)({"use_reentrant": False})
        if module.device.type == "cpu":
            run_layers_again(module, self._saved, self._losses)


class Packed(_StockModel):
    """Packed through the stock model, which calls our attention for every layer.

    What all rows begin with is packed once, unless chance would then be shared too.
    """

    def __init__(self, module: Any, shares: bool) -> None:
        from transformers import AttentionInterface

        super().__init__(module)
        AttentionInterface.register(NAME, _attention)
        module.set_attn_implementation(NAME)
        self._shares = shares
        self._growth = growth(self._losses, module)

    def tokens(self, sequences: Sequence[TrainingSequence]) -> int:
        return packed_size(sequences, self._shares)

    def _losses(self, sequences: Sequence[TrainingSequence]) -> torch.Tensor:
        batch = pack(sequences, self._widths.heads, self._module.device, self._shares)
        return packed_token_losses(self._module, batch, self._plain_head)

    def _size(self, sequences: Sequence[TrainingSequence]) -> StockPass:
        size = packed_pass(sequences, self._shares)
        return StockPass(size, [size.tokens], 0 if self._plain_head else size.predicting)


class Padded(_StockModel):
    """The stock model as it is, on padded rows.

    Rows go one by one where a model's positions follow the longest row of a pass: each as when it is answered. On a CPU
    its fused attention is slow backwards; short sequences are better off with the plain products, whose memory grows
    with the square of the length.
    """

    def __init__(self, module: Any, longest_tokens: int) -> None:
        if module.device.type == "cpu" and longest_tokens <= PLAIN_ATTENTION_TOKENS:
            module.set_attn_implementation("eager")
        super().__init__(module)
        moving = moving_positions(module.config.get_text_config())
        self._positions = None if moving is None else Positions(module)
        self._growth = growth(self._losses, module)

    def tokens(self, sequences: Sequence[TrainingSequence]) -> int:
        return len(sequences) * max(len(sequence.token_ids) for sequence in sequences)

    def _losses(self, sequences: Sequence[TrainingSequence]) -> torch.Tensor:
        if self._positions is None:
            return token_losses(self._module, collate(sequences, self._module.device), self._plain_head)
        losses = []
        for one in sequences:
            self._positions.forget()
            losses.append(token_losses(self._module, collate([one], self._module.device), self._plain_head))
        return torch.cat(losses)

    def _size(self, sequences: Sequence[TrainingSequence]) -> StockPass:
        eager = self._module.config.get_text_config()._attn_implementation == "eager"
        size = padded_pass(sequences, eager)
        rows = [max(len(sequence.token_ids) for sequence in sequences)] * len(sequences)
        return StockPass(size, rows, 0 if self._plain_head else size.tokens)


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
