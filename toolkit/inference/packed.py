"""The packed forward pass: tokens of many rows side by side through a stock model, no padding, attention by plan.

Everything but attention treats tokens one by one, so a batch of rows is one row of N tokens with positions of its own;
attention is ours, through transformers' own interface. The model's modules stay what they are: a LoRA layer, a norm of
another family, a head with a soft cap need nothing here. Letters: N packed tokens, D hidden, V vocabulary, R rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch.nn import functional

from toolkit.inference.attention import NAME, planned_attention
from toolkit.inference.keys_values import NO_PREFIX, Prefix, Slots
from toolkit.inference.lean import Lean
from toolkit.inference.plan import Plan, Segment
from toolkit.models.layouts import LaidOut, Layouts, lay_out, lay_out_head
from toolkit.models.weights import shared_copy
from toolkit.models.widening import Widened, computing_dtype_of, widen, widened

HEAD_ROWS, HEAD_TOKENS = 512, 2048
"""Rows and tokens of a piece of the vocabulary product: its logits in fp32 stay near the processor."""

LEAST_CHANGE = -0.9
"""Of the sum over the vocabulary, as a share of it, when one token's logit is put in exactly: half a step of bf16 at a
logit of 256 is less, and only a sum in which that logit was rounded the other way would give more."""

PART_TOKENS = 1024
"""Of a longer row so many are run at once, by themselves but for the last: more are no faster, and take more memory."""


class Packed:
    """A view of a causal language model whose forward pass is packed.

    Args:
        module: stays as it is; its parameters are shared.
        pass_tokens: tokens of a forward pass at most; a longer row is cut, or memory would grow with its square.
        lean: run the decoder by its parts (`toolkit.inference.lean`) instead of its modules.
        layouts: where weights laid out for the processor are kept, of which there may be some already; None lays out
            nothing.
    """

    def __init__(
        self, module: Any, pass_tokens: int = 2048, lean: bool = False, layouts: Layouts | None = None
    ) -> None:
        from transformers import AttentionInterface

        AttentionInterface.register(NAME, planned_attention)
        self.module = shared_copy(module)
        self.module.set_attn_implementation(NAME)
        self.pass_tokens = pass_tokens
        self._decoder = self.module.get_decoder()
        self._layouts = layouts
        # a stock module expects states in its weights' dtype
        self.computing = computing_dtype_of(module) if lean else module.dtype
        self.laid_out = layouts is not None and lay_out(self._decoder, layouts, self.computing)
        if self.widens:
            widen(self._decoder)
        self._lean = Lean(self.module, self.computing) if lean else None

    @property
    def widens(self) -> bool:
        """Whether it computes in more than its weights are in."""
        return bool(self.computing != self.module.dtype)

    @property
    def part_tokens(self) -> int:
        """Tokens of a part of a long row."""
        return min(self.pass_tokens, PART_TOKENS)

    @property
    def layers(self) -> int:
        """Attention layers, each with keys of its own."""
        return int(self.module.config.num_hidden_layers)

    @property
    def device(self) -> torch.device:
        device: torch.device = self.module.device
        return device

    def forward(self, token_ids: Sequence[int], plan: Plan) -> torch.Tensor:
        """Hidden states [N, D] behind the last norm; the steps' tokens are packed first, then the segments'."""
        behind = len(plan.prefix)
        steps = [] if plan.steps is None else [behind + length - 1 for length in plan.steps.lengths]
        where = torch.tensor([list(token_ids), [*steps, *plan.positions]], device=self.device)
        if self._lean is not None:
            return self._lean(where[0], where[1], plan)
        output = self._decoder(input_ids=where[:1], position_ids=where[1:], use_cache=False, plan=plan)
        hidden: torch.Tensor = output.last_hidden_state[0]
        return hidden

    def prefill(self, token_ids: Sequence[int]) -> Prefix:
        """Keys and values of a prefix that rows share."""
        if not token_ids:
            return NO_PREFIX
        slots = Slots(1, len(token_ids), self.layers)
        self.fill(token_ids, NO_PREFIX, slots)
        return slots.prefix(tuple(token_ids))

    def fill(self, token_ids: Sequence[int], prefix: Prefix, slots: Slots, slot: int = 0) -> torch.Tensor:
        """Runs one row into a slot, in as many passes as it takes; the hidden state [1, D] of its last token."""
        hidden = torch.empty(0)
        for done in range(0, len(token_ids), self.part_tokens):
            part = token_ids[done : done + self.part_tokens]
            plan = Plan([Segment(0, len(part), done=done, slot=slot)], prefix=prefix, slots=slots)
            hidden = self.forward(part, plan)[-1:]
        return hidden

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits [R, V] in fp32 of hidden rows [R, D]."""
        own = self.widens and not isinstance(self._head, LaidOut | Widened)  # an adapted head is asked in its dtype
        logits: torch.Tensor = self._head(hidden.to(self.module.dtype) if own else hidden)
        return self._capped(logits.float())

    @cached_property
    def _head(self) -> Any:
        """The head for a few rows at a time, made when it is first needed: scoring has no use for it."""
        head = self.module.get_output_embeddings()
        if self._layouts is not None and self.laid_out:
            head = lay_out_head(head, self._decoder, self._layouts, self.computing)
        return widened(head) if self.widens else head

    def log_probabilities(self, hidden: torch.Tensor, rows: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """log p(tokens[i] | hidden[rows[i]]) in fp32, shape [len(rows)]; the head is applied once a hidden row [R, D].

        Where the head is a plain product, a token's own logit is made in fp32: in bf16 it would be rounded to steps of
        an eighth, which decides between close choices.
        """
        head = self.module.get_output_embeddings()
        plain = type(head) is torch.nn.Linear and head.bias is None
        norms, own = [], torch.empty(len(rows), dtype=torch.float32, device=hidden.device)
        for start in range(0, len(hidden), HEAD_ROWS):
            part = hidden[start : start + HEAD_ROWS]
            if plain:
                norms.append(self._norms(part, head.weight))
            else:
                here = (rows >= start) & (rows < start + HEAD_ROWS)
                logits = self.logits(part)
                own[here] = logits[rows[here] - start, tokens[here]]
                norms.append(torch.logsumexp(logits, dim=-1))
        for start in range(0, len(rows) if plain else 0, HEAD_ROWS):
            some = slice(start, start + HEAD_ROWS)
            products = hidden[rows[some]].float() * head.weight[tokens[some]].float()
            own[some] = products.sum(dim=-1)
        norm = torch.cat(norms)[rows]
        if not plain:
            return own - norm
        rounded, own = self._capped(own.to(hidden.dtype).float()), self._capped(own)
        if hidden.dtype != torch.float32:
            # the norm has the token's rounded logit in it: with the exact one no probability comes out above 1, but
            # where the product that went into the norm was rounded the other way
            change = (own - norm).exp() - (rounded - norm).exp()
            norm = norm + torch.log1p(change.clamp(min=LEAST_CHANGE))
        return (own - norm).clamp(max=0)

    def _norms(self, hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """log of the sum of exp over the vocabulary, [R] in fp32, piece by piece: [R, V] never stands in memory."""
        parts = [
            torch.logsumexp(self._capped(functional.linear(hidden, piece.to(hidden.dtype)).float()), dim=-1)
            for piece in weight.split(HEAD_TOKENS)
        ]
        return torch.logsumexp(torch.stack(parts), dim=0)

    def _capped(self, logits: torch.Tensor) -> torch.Tensor:
        """The soft cap that Gemma 2 puts on its logits."""
        cap = getattr(self.module.config, "final_logit_softcapping", None)
        return logits if cap is None else torch.tanh(logits / cap) * cap
