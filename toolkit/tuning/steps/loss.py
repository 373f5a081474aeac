"""Cross-entropy over supervised tokens only: the head never sees another position.

Letters: B batch, T tokens, D hidden, V vocabulary, N supervised tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch.nn import functional

from toolkit.rendering.prompt import TrainingSequence
from toolkit.tuning.steps.groups import Linear
from toolkit.tuning.steps.packing import Packed
from toolkit.tuning.steps.room import Room, Shape

HEAD_ROWS = 256
"""Rows of the vocabulary product made at once: with twice as many it is 1 to 5 % faster and takes twice the memory."""


class Batch(NamedTuple):
    """Token ids [B, T], padded on the right with 0, and for each of N supervised tokens where it is predicted from.

    `rows` and `columns` [N] point at the position before the token, `targets` [N] are the tokens. No mask is needed:
    a token sees only what stands before it, and padding stands behind.
    """

    ids: torch.Tensor
    rows: torch.Tensor
    columns: torch.Tensor
    targets: torch.Tensor


def collate(sequences: Sequence[TrainingSequence], device: Any) -> Batch:
    """Sequences as one padded batch."""
    width = max(len(sequence.token_ids) for sequence in sequences)
    ids = [[*sequence.token_ids, *[0] * (width - len(sequence.token_ids))] for sequence in sequences]
    found = [
        (row, position - 1, sequence.token_ids[position])
        for row, sequence in enumerate(sequences)
        for position in range(1, len(sequence.token_ids))
        if sequence.supervised[position]
    ]
    rows, columns, targets = torch.tensor(found, dtype=torch.long).reshape(-1, 3).t().contiguous()
    return Batch(torch.tensor(ids).to(device), rows.to(device), columns.to(device), targets.to(device))


def token_losses(module: Any, batch: Batch, head_is_plain: bool) -> torch.Tensor:
    """Cross-entropy of each of the batch's supervised tokens: [N] of at least fp32 (nats)."""
    if not head_is_plain:
        logits = module(input_ids=batch.ids, use_cache=False).logits[batch.rows, batch.columns]
        return functional.cross_entropy(_at_least_fp32(logits), batch.targets, reduction="none")
    hidden = module.get_decoder()(input_ids=batch.ids, use_cache=False).last_hidden_state
    head = module.get_output_embeddings()
    found: torch.Tensor = FrozenHeadLoss.apply(hidden[batch.rows, batch.columns], head.weight, head.bias, batch.targets)
    return found


def packed_token_losses(module: Any, batch: Packed, head_is_plain: bool) -> torch.Tensor:
    """`token_losses` of a packed pass, through a model whose attention is ours."""
    ids, positions = batch.ids[None], batch.positions[None]
    if not head_is_plain:
        output = module(
            input_ids=ids, position_ids=positions, use_cache=False, bands=batch.bands, logits_to_keep=batch.predicting
        )
        return functional.cross_entropy(_at_least_fp32(output.logits[0]), batch.targets, reduction="none")
    output = module.get_decoder()(input_ids=ids, position_ids=positions, use_cache=False, bands=batch.bands)
    head, hidden = module.get_output_embeddings(), output.last_hidden_state[0]
    found: torch.Tensor = FrozenHeadLoss.apply(hidden[batch.predicting], head.weight, head.bias, batch.targets)
    return found


def has_plain_head(module: Any) -> bool:
    """Whether the logits are the frozen head's product with the decoder's states and nothing more.

    Asked of the model itself, on two tokens, since soft caps and scales go by many names in configurations.
    """
    head = module.get_output_embeddings()
    if type(head) is not torch.nn.Linear or any(parameter.requires_grad for parameter in head.parameters()):
        return False
    ids = torch.tensor([[0, 1]], device=module.device)
    was_training = module.training
    module.eval()  # with dropout, two calls would differ
    with torch.no_grad():
        hidden = getattr(module.get_decoder()(input_ids=ids, use_cache=False), "last_hidden_state", None)
        plain = hidden is not None and torch.equal(head(hidden), module(input_ids=ids, use_cache=False).logits)
    module.train(was_training)
    return plain


class FrozenHeadLoss(torch.autograd.Function):  # type: ignore[misc]
    """`frozen_head` for autograd."""

    @staticmethod
    def forward(
        context: Any, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, targets: torch.Tensor
    ) -> torch.Tensor:
        """hidden [N, D], weight [V, D], bias [V], targets [N] -> [N]."""
        losses, gradient = frozen_head(hidden, weight, bias, targets)
        context.save_for_backward(gradient)
        return losses

    @staticmethod
    def backward(context: Any, upstream: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        (gradient,) = context.saved_tensors
        return (gradient * upstream[:, None]).to(gradient.dtype), None, None, None


def frozen_head(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    targets: torch.Tensor,
    room: Room | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Each token's cross-entropy [N] under a linear head that is not trained, and its gradient at its state [N, D].

    As the head needs no gradient, that of the hidden states can be formed chunk by chunk in the forward pass: two
    products a chunk, and no logits kept. The idea is Liger's fused linear cross-entropy, here on supervised rows only.

    Args:
        room: where a chunk's logits are made, with `head_shapes` left of it; None makes one. In the heap they would
            leave holes, for what is made later parts them.
    """
    head, gradient = Linear(weight, bias, None), torch.empty_like(hidden)
    shapes = head_shapes(len(hidden), len(weight), hidden.dtype)
    if room is None:
        room = Room(hidden.device)
        room.open(sum(shape.bytes for shape in shapes))
    before = room.used
    made, *wide = room.take(shapes)
    losses = torch.empty(len(hidden), dtype=shapes[-1].dtype, device=hidden.device)
    for start in range(0, len(hidden), HEAD_ROWS):
        chunk = slice(start, start + HEAD_ROWS)
        states, chosen = hidden[chunk], targets[chunk].unsqueeze(1)
        product = made[: len(states)]
        head.forward(states, product)
        logits = wide[0][: len(states)].copy_(product) if wide else product
        own, most = logits.gather(1, chosen), logits.amax(dim=1, keepdim=True)
        total = logits.sub_(most).exp_().sum(dim=1, keepdim=True)
        losses[chunk] = (total.log() + most - own)[:, 0]
        probabilities = logits.div_(total)
        probabilities.scatter_add_(1, chosen, probabilities.new_full((1, 1), -1.0).expand_as(chosen))
        gradient[chunk] = head.backward(product.copy_(probabilities) if wide else probabilities, None)
    room.back_to(before)
    return losses, gradient


def head_shapes(rows: int, words: int, dtype: torch.dtype) -> list[Shape]:
    """Of a chunk's logits as the product gives them and, where that is not as wide, in fp32."""
    wide = torch.promote_types(dtype, torch.float32)
    sizes = min(rows, HEAD_ROWS), words
    return [Shape(sizes, one) for one in dict.fromkeys((dtype, wide))]


def _at_least_fp32(logits: torch.Tensor) -> torch.Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
