"""Picking tokens: greedy or sampled, and where an answer ends.

Each answer draws from a generator of its own, so what it says does not depend on what else is in the batch.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from toolkit.errors import ModelError
from toolkit.inference.model import NO_NUMBERS, Sampling
from toolkit.tasks.output import Termination

NUCLEUS_TOKENS = 512
"""Tokens looked at first for a nucleus: to order the whole vocabulary takes longer than the model does."""

BYTES_OF_A_CHARACTER = 4
"""A token may be a single byte of a character, so a stop text of n characters lies in at most 4 n tokens."""


@dataclass
class Row:
    """One answer being decoded; `draws` is the source of its random numbers, `picked` counts its tokens with those that
    ended it.
    """

    draws: random.Random = field(default_factory=lambda: random.Random(0))
    token_ids: list[int] = field(default_factory=list)
    picked: int = 0
    log_probability: float = 0.0
    termination: Termination = "length"
    done: bool = False

    @property
    def confidence(self) -> float:
        """Geometric mean probability of the tokens said, the stop token included."""
        return math.exp(self.log_probability / self.picked) if self.picked else 0.0


class Picker:
    """Picks each row's next token and notices where it ends.

    Args:
        stop_ids: tokens that end an answer and are no part of it.
        decode: token ids to text, for stop texts.
    """

    def __init__(self, sampling: Sampling, stop_ids: frozenset[int], decode: Callable[[Sequence[int]], str]) -> None:
        self.sampling = sampling
        self._stop_ids = stop_ids
        self._decode = decode
        self._window = BYTES_OF_A_CHARACTER * max(map(len, sampling.stop), default=0)

    def pick(self, logits: torch.Tensor, rows: Sequence[Row]) -> None:
        """Adds a token to each row by its logits [B, V] in fp32; sets `done` where the row ends."""
        norms = torch.logsumexp(logits, dim=-1)
        if not bool(torch.isfinite(norms).all()):
            raise ModelError(f"the model's logits are no numbers {NO_NUMBERS}")
        greedy = self.sampling.temperature == 0
        chosen = logits.argmax(dim=-1) if greedy else self._sampled(_where_doubles_are(logits), rows).to(logits.device)
        logs = logits.gather(1, chosen[:, None])[:, 0] - norms
        for row, token, log in zip(rows, chosen.tolist(), logs.tolist(), strict=True):
            self._add(row, token, log)

    def _sampled(self, logits: torch.Tensor, rows: Sequence[Row]) -> torch.Tensor:
        """By inverse transform: the token in whose share of the kept probability the row's draw falls."""
        chances = torch.softmax(logits.double() / self.sampling.temperature, dim=-1)
        drawn = torch.tensor([row.draws.random() for row in rows], dtype=torch.float64, device=logits.device)
        if self.sampling.top_p == 1:
            reached = chances.cumsum(dim=-1)
            places = torch.searchsorted(reached, (drawn * reached[:, -1])[:, None], right=True)
            return places[:, 0].clamp(max=chances.shape[-1] - 1)
        best, tokens = chances.topk(min(NUCLEUS_TOKENS, chances.shape[-1]), dim=-1)
        chosen = self._from_nucleus(best, tokens, drawn)
        for row in (best.sum(dim=-1) < self.sampling.top_p).nonzero()[:, 0].tolist():  # flat ones need them all
            some = slice(row, row + 1)
            ordered, order = chances[some].sort(dim=-1, descending=True, stable=True)
            chosen[some] = self._from_nucleus(ordered, order, drawn[some])
        return chosen

    def _from_nucleus(self, ordered: torch.Tensor, tokens: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
        """A token a row of those that reach `top_p`; `ordered` [B, n] falls, `tokens` [B, n] are their ids."""
        reached = ordered.cumsum(dim=-1)
        kept = reached - ordered < self.sampling.top_p  # the token that crosses top_p is kept too
        whole = (ordered * kept).sum(dim=-1)
        places = torch.searchsorted(reached, (drawn * whole)[:, None], right=True)
        places = torch.minimum(places, kept.sum(dim=-1, keepdim=True) - 1)
        return tokens.gather(1, places)[:, 0]

    def _add(self, row: Row, token: int, log: float) -> None:
        row.log_probability += log
        row.picked += 1
        if token in self._stop_ids:
            row.termination, row.done = "stop", True
            return
        row.token_ids.append(token)
        if self._says_stop(row.token_ids):
            row.termination, row.done = "stop", True
        row.done |= len(row.token_ids) == self.sampling.max_new_tokens

    def _says_stop(self, token_ids: Sequence[int]) -> bool:
        if not self.sampling.stop:
            return False
        said = self._decode(token_ids[-self._window :])
        return any(stop in said for stop in self.sampling.stop)


def _where_doubles_are(logits: torch.Tensor) -> torch.Tensor:
    """Draws are made in float64, which Apple's GPUs do not have."""
    return logits.cpu() if logits.device.type == "mps" else logits
