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
"""A token may be a single byte of a character, so n characters lie in at most 4 n tokens, special ones not counted."""


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
        self._longest = max(map(len, sampling.stop), default=0)

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
        """By inverse transform: the token in whose share of the kept probability the row's draw falls.

        Shares lie in the order of the vocabulary: in that of the chances the last bit of two that are nearly equal
        would decide what is drawn.
        """
        lower = logits.double() - logits.max(dim=-1, keepdim=True).values  # before it is divided by next to nothing
        chances = torch.softmax(lower / self.sampling.temperature, dim=-1)
        if self.sampling.top_p < 1:
            chances = self._nucleus(chances)
        drawn = torch.tensor([row.draws.random() for row in rows], dtype=torch.float64, device=logits.device)
        reached = chances.cumsum(dim=-1)
        places = torch.searchsorted(reached, drawn[:, None] * reached[:, -1:], right=True)
        last = torch.searchsorted(reached, reached[:, -1:].contiguous())  # what follows has no share
        return torch.minimum(places, last)[:, 0]

    def _nucleus(self, chances: torch.Tensor) -> torch.Tensor:
        """Chances [B, V] of the likeliest tokens that together reach `top_p`, 0 elsewhere; of equal ones the first."""
        size = min(NUCLEUS_TOKENS, chances.shape[-1])
        counts, least = self._reaching(chances.topk(size, dim=-1).values)
        for row in (counts > size).nonzero()[:, 0].tolist():  # flat ones need them all
            some = slice(row, row + 1)
            counts[some], least[some] = self._reaching(chances[some].sort(dim=-1, descending=True).values)
        above, equal = chances > least[:, None], chances == least[:, None]
        wanted = counts[:, None] - above.sum(dim=-1, keepdim=True)
        return chances * (above | (equal & (equal.cumsum(dim=-1) <= wanted)))

    def _reaching(self, ordered: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """How many of falling chances [B, n] reach `top_p` (n + 1: all of them do not), and the least of these [B]."""
        before = ordered.cumsum(dim=-1) - ordered
        counts = (before < self.sampling.top_p).sum(dim=-1)  # the token that crosses top_p is kept too
        least = ordered.gather(1, counts[:, None] - 1)[:, 0]
        return counts + ((before + ordered)[:, -1] < self.sampling.top_p), least

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
        """Looks at so many of the last tokens that the longest stop text may end anywhere in the last one."""
        if not self.sampling.stop:
            return False
        enough, window = self._longest + len(self._decode(token_ids[-1:])), BYTES_OF_A_CHARACTER * self._longest
        said = self._decode(token_ids[-window:])
        while len(said) < enough and window < len(token_ids):  # special tokens are no text
            window *= 2
            said = self._decode(token_ids[-window:])
        return any(stop in said for stop in self.sampling.stop)


def _where_doubles_are(logits: torch.Tensor) -> torch.Tensor:
    """Draws are made in float64, which Apple's GPUs do not have."""
    return logits.cpu() if logits.device.type == "mps" else logits
