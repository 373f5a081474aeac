"""Plan: which tokens of a packed forward pass attend to what.

A forward pass runs over N tokens of many rows side by side, without padding. Its plan cuts them into blocks of three
kinds. In all of them a query sees the shared prefix, what its row had before, and part of the block itself:

- a stretch: tokens of one row, causal or a trie of continuations behind the row's context;
- a band: short rows that lie in the pass as a whole, side by side with padding (of the scores only);
- steps: one new token of each row that is under way in a slot.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import pairwise

import torch

from toolkit.inference.keys_values import NO_PREFIX, Prefix, Slots
from toolkit.inference.trie import Trie

QUERY_BLOCK = 256
"""Queries of one row that are multiplied with their keys at once, at most: a longer stretch sees more of its future."""

SMALLEST_BLOCK, BLOCK_SCORES = 128, 1 << 18
"""The more keys, the fewer queries: scores of one query head, so that those of all heads stay near the processor."""

BAND_TOKENS = 128
"""A row of at most so many tokens goes into a band: by itself its products would be mostly overhead."""

BAND_SCORES = 1 << 19
"""Scores of one query head in a band, [B, T, P + T] at most: more would leave the processor's cache."""


@dataclass(frozen=True)
class Segment:
    """A row's part of a pass: context tokens packed from `start`, then the nodes of a trie.

    `done` of the row's own tokens came in earlier passes and are in the slot; a row that is to be gone on with has one.
    """

    start: int
    tokens: int
    trie: Trie | None = None
    done: int = 0
    slot: int | None = None

    @property
    def size(self) -> int:
        """Tokens in this pass."""
        return self.tokens + (len(self.trie.tokens) if self.trie is not None else 0)


@dataclass(frozen=True)
class Stretch:
    """Tokens [start, stop) of one row, keys from the pass (from `first` on) or from a slot (its first `kept`).

    `ancestors` is [T, A], True where a token sees one of the row's last A keys (a trie's nodes); None is causal.
    `positions` are those of the tokens and `key_positions` those of the row's own keys, for sliding windows.
    """

    start: int
    stop: int
    positions: tuple[int, ...]
    key_positions: tuple[int, ...]
    first: int | None = None
    slot: int = 0
    kept: int = 0
    ancestors: torch.Tensor | None = None

    @cached_property
    def last(self) -> int:
        """The greatest of its positions."""
        return max(self.positions)


@dataclass(frozen=True)
class Band:
    """Short rows side by side: `segments` of at most `width` tokens, behind `behind` tokens of the shared prefix."""

    segments: tuple[Segment, ...]
    width: int
    behind: int

    @cached_property
    def places(self) -> torch.Tensor:
        """[B * T]: where each token is packed; padding repeats a row's last token."""
        rows = [[one.start + min(at, one.size - 1) for at in range(self.width)] for one in self.segments]
        return torch.tensor(rows).flatten()

    @cached_property
    def real(self) -> torch.Tensor:
        """Of `places` those that are no padding."""
        rows = [[at < one.size for at in range(self.width)] for one in self.segments]
        return torch.tensor(rows).flatten().nonzero()[:, 0]

    @cached_property
    def inside(self) -> torch.Tensor:
        """[B, T, T]: True where a token of a row sees another; padding sees itself, for nothing may see nothing."""
        seen = torch.eye(self.width, dtype=torch.bool).repeat(len(self.segments), 1, 1)
        for row, one in zip(seen, self.segments, strict=True):
            row[: one.size, : one.size] = seen_inside(one.tokens, one.trie)
        return seen

    @cached_property
    def positions(self) -> torch.Tensor:
        """[B, T]: positions of the tokens, prefix counted."""
        found = torch.zeros(len(self.segments), self.width, dtype=torch.long)
        for row, one in zip(found, self.segments, strict=True):
            row[: one.size] = torch.tensor(list(segment_positions(one, self.behind)))
        return found

    @cached_property
    def last(self) -> int:
        """The greatest of its positions."""
        return int(self.positions.max())


@dataclass(frozen=True)
class Steps:
    """One new token each of the rows in slots 0 ... B-1, packed from `start`; `lengths` count the new token."""

    start: int
    lengths: tuple[int, ...]


@dataclass
class Plan:
    """A pass's segments as blocks, and the prefix and slots they read. Masks are made once a pass, not once a layer."""

    segments: Sequence[Segment]
    steps: Steps | None = None
    prefix: Prefix = NO_PREFIX
    slots: Slots | None = None
    _masks: dict[object, torch.Tensor | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        behind = len(self.prefix)
        short = [one for one in self.segments if not one.done and one.size <= BAND_TOKENS]
        self.bands = [band for band in _bands(short, behind) if len(band.segments) > 1]
        banded = {one.start for band in self.bands for one in band.segments}
        self.stretches = [
            stretch for one in self.segments if one.start not in banded for stretch in _stretches(one, behind)
        ]

    @property
    def positions(self) -> list[int]:
        """Of the segments' tokens, in the order in which they are packed."""
        return [at for one in self.segments for at in segment_positions(one, len(self.prefix))]

    def store(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Writes new keys and values [H, N, d] of rows that are in slots."""
        if self.slots is None:
            return
        kept_keys, kept_values = self.slots.layer(layer, keys, values)
        for one in self.segments:
            if one.slot is not None:
                kept_keys[one.slot, :, one.done : one.done + one.size] = keys[:, one.start : one.start + one.size]
                kept_values[one.slot, :, one.done : one.done + one.size] = values[:, one.start : one.start + one.size]
        if self.steps is not None:
            rows, last = self._last(self.steps, keys.device)
            new = slice(self.steps.start, self.steps.start + len(self.steps.lengths))
            kept_keys[rows, :, last] = keys[:, new].transpose(0, 1)
            kept_values[rows, :, last] = values[:, new].transpose(0, 1)

    def places(self, one: Band, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """A band's places [B * T], and of those the ones that are no padding, where the model is."""
        places = self._kept(("places", id(one)), lambda: one.places.to(device))
        return places, self._kept(("real", id(one)), lambda: one.real.to(device))

    def inside(self, one: Stretch | Band, like: torch.Tensor) -> torch.Tensor | None:
        """What a block's tokens add to their scores among themselves, 0 or -inf; None for a single token."""
        if isinstance(one, Stretch) and one.ancestors is None:
            size = one.stop - one.start
            return causal(size, like.dtype, like.device) if size > 1 else None
        allowed = one.inside if isinstance(one, Band) else one.ancestors
        assert allowed is not None
        return self._kept(("inside", id(one)), lambda: additive(allowed.to(like.device), like.dtype))

    def window(self, one: Stretch | Band, window: int, like: torch.Tensor) -> torch.Tensor | None:
        """What a sliding window adds to a block's scores, [(B,) T, P + S]; None where nothing is out of sight."""
        if one.last < window:
            return None

        def mask() -> torch.Tensor:
            if isinstance(one, Band):
                asked, own = one.positions, one.positions
            else:
                asked, own = torch.tensor(one.positions), torch.tensor(one.key_positions)
            prefix = torch.arange(len(self.prefix)).expand(*own.shape[:-1], -1)
            seen = torch.cat([prefix, own], dim=-1)
            return additive((asked[..., :, None] - seen[..., None, :] < window).to(like.device), like.dtype)

        return self._kept(("window", id(one), window), mask)

    def visible(self, like: torch.Tensor, window: int | None) -> torch.Tensor | None:
        """What the rows of `steps` add to their scores, [B, 1, P + capacity]; None where all see every key."""
        assert self.steps is not None
        lengths, behind = self.steps.lengths, len(self.prefix)
        if min(lengths) + behind == like.shape[-1] and (window is None or max(lengths) + behind <= window):
            return None

        def mask() -> torch.Tensor:
            ends = torch.tensor(lengths, device=like.device)[:, None] + behind
            seen = torch.arange(like.shape[-1], device=like.device)[None, :]
            allowed = seen < ends if window is None else (seen < ends) & (seen >= ends - window)
            return additive(allowed, like.dtype)[:, None]

        return self._kept(("visible", window), mask)

    def _kept(self, key: object, make: Callable[[], torch.Tensor]) -> torch.Tensor:
        found = self._masks.get(key)
        if found is None:
            found = self._masks[key] = make()
        return found

    def _last(self, steps: Steps, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Slots of the steps' rows, and where their new token goes."""
        lengths = steps.lengths
        found = self._kept("last", lambda: torch.tensor([range(len(lengths)), [n - 1 for n in lengths]], device=device))
        return found[0], found[1]


def segment_positions(one: Segment, behind: int) -> Iterator[int]:
    """Positions of a segment's tokens, prefix counted; a trie's nodes by their depth behind the context."""
    end = behind + one.done + one.tokens
    yield from range(behind + one.done, end)
    if one.trie is not None:
        yield from (end + depth for depth in one.trie.depths)


def _stretches(one: Segment, behind: int) -> Iterator[Stretch]:
    """A segment cut into blocks of queries, its trie as a block of its own."""
    positions = tuple(segment_positions(one, behind))
    own = (*range(behind, behind + one.done), *positions)
    blocks: list[tuple[int, int, torch.Tensor | None]] = [
        (at, end, None) for at, end in _blocks(one.tokens, behind + one.done)
    ]
    if one.trie is not None:
        nodes = pairwise([*range(0, len(one.trie.tokens), QUERY_BLOCK), len(one.trie.tokens)])
        blocks += [(one.tokens + at, one.tokens + end, one.trie.ancestors[at:end, :end]) for at, end in nodes]
    for at, end, ancestors in blocks:
        yield Stretch(
            one.start + at,
            one.start + end,
            positions[at:end],
            own[: one.done + end],
            first=None if one.done else one.start,
            slot=one.slot or 0,
            kept=one.done + end,
            ancestors=ancestors,
        )


def _blocks(tokens: int, behind: int) -> Iterator[tuple[int, int]]:
    """Where the blocks of a causal row begin and end, which has so many tokens before it."""
    at = 0
    while at < tokens:
        most = BLOCK_SCORES // (behind + at + QUERY_BLOCK) // SMALLEST_BLOCK * SMALLEST_BLOCK
        end = min(tokens, at + min(QUERY_BLOCK, max(SMALLEST_BLOCK, most)))
        yield at, end
        at = end


def _bands(short: Sequence[Segment], behind: int) -> Iterator[Band]:
    """Rows of like length together, as many as `BAND_SCORES` allows."""
    rows: list[Segment] = []
    for one in sorted(short, key=lambda one: (-one.size, one.start)):
        width = rows[0].size if rows else one.size
        if rows and (len(rows) + 1) * width * (behind + width) > BAND_SCORES:
            yield Band(tuple(rows), width, behind)
            rows = []
        rows.append(one)
    if rows:
        yield Band(tuple(rows), rows[0].size, behind)


@lru_cache(maxsize=1024)
def seen_inside(tokens: int, trie: Trie | None) -> torch.Tensor:
    """[tokens + nodes, tokens + nodes]: a context is causal, a node sees the context, its ancestors and itself."""
    nodes = 0 if trie is None else len(trie.tokens)
    seen = torch.ones(tokens + nodes, tokens + nodes, dtype=torch.bool).tril()
    if trie is not None and nodes:
        seen[tokens:, tokens:] = trie.ancestors
    return seen


@lru_cache(maxsize=64)
def causal(size: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """[T, T]: 0 for a token and what stands before it, -inf for what comes after."""
    return additive(torch.ones(size, size, dtype=torch.bool, device=device).tril(), dtype)


def additive(allowed: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """0 where allowed, -inf elsewhere."""
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill_(~allowed, float("-inf"))
