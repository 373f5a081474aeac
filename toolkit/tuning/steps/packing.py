"""A training pass without padding: tokens of many rows side by side, and which of them attend to which.

Everything but attention treats tokens one by one, so rows need no padding there. What all rows of a pass begin with
(the instruction, fixed demonstrations) is packed once: within a step the weights stand still, so its states are the
same for every row, and its gradient is the sum of theirs. Letters: N packed tokens, B rows, Q tokens of a row that
ask, P tokens of the shared prefix, T own tokens of a row, S = P + T, H key-value heads, G query heads on each.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import torch

from toolkit.rendering.prompt import TrainingSequence

SHORTEST_PREFIX = 8
"""Tokens: sharing fewer is not worth the longer keys."""

QUERY_BLOCK = 256
"""Queries of a long row that are multiplied with their keys at once: more would see much of their own future."""

BAND_SCORES = 1 << 19
"""Scores of one query head in a band, [B, T, S], at most: more would leave the processor's cache."""

BAND_SPREAD = 1.5
"""The longest row of a band has at most so many times the tokens of the shortest."""


@dataclass(frozen=True)
class Row:
    """One sequence's own tokens: packed from `start`, `size` of them; `asking` are those whose answer is needed."""

    start: int
    size: int
    asking: tuple[int, ...]


class Band:
    """Rows side by side, padded on the right: their scores only are, [B * H, G * Q, S].

    A token sees what stands before it, so padding is seen by nobody, and what it would see itself is thrown away.
    """

    def __init__(
        self, rows: Sequence[Row], prefix: int, heads: tuple[int, int], asked: Sequence[Sequence[int]], end: int | None
    ) -> None:
        """`heads` are H and G; `asked` the places within each row that ask; `end` cuts the keys of a single row."""
        self.rows, self.prefix, (self.kinds, self.shared) = len(rows), prefix, heads
        self.asked = max(map(len, asked))
        self.width = max(row.size for row in rows) if end is None else end
        sizes = torch.tensor([[len(some)] for some in asked])
        starts = torch.tensor([[row.start] for row in rows])
        within = torch.tensor([[*some, *[some[-1]] * (self.asked - len(some))] for some in asked])
        lengths = torch.tensor([[row.size] for row in rows])
        own = torch.minimum(torch.arange(self.width)[None], lengths - 1)  # [B, T]
        self.positions = within + prefix  # [B, Q]
        places = torch.cat([torch.arange(prefix).expand(len(rows), -1), starts + own], dim=1)  # [B, S]
        query_heads = torch.arange(self.kinds * self.shared).view(1, -1, 1)
        key_heads = torch.arange(self.kinds).view(1, -1, 1)
        self.queries = ((starts + within)[:, None] * (self.kinds * self.shared) + query_heads).flatten()
        self.keys = (places[:, None] * self.kinds + key_heads).flatten()
        real = (torch.arange(self.asked)[None] < sizes)[:, None].expand(-1, self.kinds * self.shared, -1)
        self.padded = not bool(real.all())
        self.real = real.flatten().nonzero()[:, 0]
        self.own_padded = bool((lengths < self.width).any())
        self.own_real = (torch.arange(self.width)[None] < lengths)[:, None].expand(-1, self.kinds, -1)
        self.start = rows[0].start
        self._masks: dict[tuple[int | None, torch.dtype], torch.Tensor] = {}

    @cached_property
    def answered(self) -> torch.Tensor:
        """Of the packed [N * H * G] rows those that get an answer."""
        return self.queries[self.real] if self.padded else self.queries

    @cached_property
    def own(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The rows' own keys: where they stand in [B * H * T], and in the packed [N * H]."""
        found = self.own_real.flatten().nonzero()[:, 0]
        packed = self.keys.view(self.rows, self.kinds, -1)[:, :, self.prefix :].flatten()
        return found, packed[found]

    def mask(self, window: int | None, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        """[B or 1, 1, Q, S]: 0 where a token sees another, -inf elsewhere."""
        found = self._masks.get((window, dtype))
        if found is None:
            positions = self.positions
            if self.rows > 1 and bool((positions == positions[:1]).all()):
                positions = positions[:1]
            ahead = positions[:, :, None] - torch.arange(self.prefix + self.width)
            seen = ahead >= 0 if window is None else (ahead >= 0) & (ahead < window)
            found = torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, float("-inf"))[:, None].to(device)
            self._masks[window, dtype] = found
        return found

    def to(self, device: torch.device) -> Band:
        """The same band with its indices on a device."""
        for name in ("queries", "keys", "real", "own_real"):
            setattr(self, name, getattr(self, name).to(device))
        return self


@dataclass(frozen=True)
class Packed:
    """A pass: token ids [N] and positions [N], the shared prefix first; who attends to whom; what is learnt.

    `predicting` [M] are the places of the tokens before supervised ones, `targets` [M] the supervised tokens;
    `bands` serve every layer but the last, whose queries matter in the predicting places only: `last_bands`.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    predicting: torch.Tensor
    targets: torch.Tensor
    bands: tuple[Band, ...]
    last_bands: tuple[Band, ...]

    @property
    def tokens(self) -> int:
        return len(self.ids)


def shared_prefix(sequences: Sequence[TrainingSequence]) -> int:
    """Tokens that all sequences begin with, as far as none of them is learnt from or predicts what is."""
    if len(sequences) < 2:
        return 0
    first = sequences[0].token_ids
    length = min(_before_learning(sequence) for sequence in sequences)
    for sequence in sequences[1:]:
        ids = sequence.token_ids
        length = next((at for at in range(length) if ids[at] != first[at]), length)
    return length if length >= SHORTEST_PREFIX else 0


def packed_size(sequences: Sequence[TrainingSequence], share: bool) -> int:
    """Tokens of a pass over these sequences."""
    prefix = shared_prefix(sequences) if share else 0
    return prefix + sum(len(sequence.token_ids) - prefix for sequence in sequences)


class Scores(NamedTuple):
    """The scores of one query head in a pass: of its largest band, with that band's queries and keys; and of all."""

    queries: int
    keys: int
    largest: int
    all: int


def scores_of(sequences: Sequence[TrainingSequence], share: bool) -> Scores:
    """Of a pass over these sequences, by their lengths alone."""
    prefix = shared_prefix(sequences) if share else 0
    bands = list(_band_sizes([Row(0, prefix, ())], 0)) if prefix else []
    bands += _band_sizes([Row(0, len(sequence.token_ids) - prefix, ()) for sequence in sequences], prefix)
    rows, asked, seen = max(bands, key=math.prod)
    return Scores(rows * asked, rows * seen, rows * asked * seen, sum(map(math.prod, bands)))


def pack(sequences: Sequence[TrainingSequence], heads: tuple[int, int], device: torch.device, share: bool) -> Packed:
    """Sequences as one pass.

    Args:
        heads: key-value heads, and query heads on each.
        share: whether what all sequences begin with is packed once.
    """
    prefix = shared_prefix(sequences) if share else 0
    ids, positions = list(sequences[0].token_ids[:prefix]), list(range(prefix))
    rows: list[Row] = [Row(0, prefix, ())] if prefix else []
    predicting, targets = [], []
    for sequence in sequences:
        start = len(ids)
        asking = [at for at in range(1, len(sequence.token_ids)) if sequence.supervised[at]]
        rows.append(Row(start, len(sequence.token_ids) - prefix, tuple(at - 1 - prefix for at in asking)))
        ids += sequence.token_ids[prefix:]
        positions += range(prefix, len(sequence.token_ids))
        predicting += [start + at - 1 - prefix for at in asking]
        targets += [sequence.token_ids[at] for at in asking]
    own = rows[1:] if prefix else rows
    bands = [*_bands(rows[:1], 0, heads), *_bands(own, prefix, heads)] if prefix else [*_bands(own, 0, heads)]
    last = _asking_bands([row for row in own if row.asking], prefix, heads)
    where, what = torch.tensor(predicting, device=device), torch.tensor(targets, device=device)
    return Packed(
        torch.tensor(ids, device=device),
        torch.tensor(positions, device=device),
        where,
        what,
        tuple(band.to(device) for band in bands),
        tuple(band.to(device) for band in last),
    )


def _before_learning(sequence: TrainingSequence) -> int:
    """Tokens before the first that predicts a supervised one."""
    first = next((at for at in range(1, len(sequence.supervised)) if sequence.supervised[at]), len(sequence.supervised))
    return first - 1


def _bands(rows: Sequence[Row], prefix: int, heads: tuple[int, int]) -> Iterator[Band]:
    """All tokens of all rows ask: like lengths together, and a long row by itself, cut into blocks of queries."""
    for some in _alike(rows, prefix):
        if len(some) == 1:
            for at, end in _blocks(some[0].size):
                yield Band(some, prefix, heads, [range(at, end)], end)
        else:
            yield Band(some, prefix, heads, [range(row.size) for row in some], None)


def _band_sizes(rows: Sequence[Row], prefix: int) -> Iterator[tuple[int, int, int]]:
    """Of each band of `_bands`: its rows B, and the tokens Q of a row that ask and S that are seen."""
    for some in _alike(rows, prefix):
        if len(some) == 1:
            yield from ((1, end - at, prefix + end) for at, end in _blocks(some[0].size))
        else:
            yield len(some), some[0].size, prefix + some[0].size


def _blocks(size: int) -> Iterator[tuple[int, int]]:
    return pairwise([*range(0, size, QUERY_BLOCK), size])


def _asking_bands(rows: Sequence[Row], prefix: int, heads: tuple[int, int]) -> list[Band]:
    """Only the predicting tokens ask."""
    found = []
    for some in _alike(rows, prefix):
        if len(some) == 1:
            asking = some[0].asking
            cuts = _blocks(len(asking))
            found += [Band(some, prefix, heads, [asking[at:end]], asking[end - 1] + 1) for at, end in cuts]
        else:
            found.append(Band(some, prefix, heads, [row.asking for row in some], None))
    return found


def _alike(rows: Sequence[Row], prefix: int) -> Iterator[list[Row]]:
    some: list[Row] = []
    for row in sorted(rows, key=lambda row: -row.size):
        scores = (len(some) + 1) * (some[0].size if some else 0) * (prefix + (some[0].size if some else 0))
        if some and (scores > BAND_SCORES or some[0].size > BAND_SPREAD * row.size + 8):
            yield some
            some = []
        some.append(row)
    if some:
        yield some
