"""Plan: which tokens of a packed forward pass attend to what.

A forward pass runs over N tokens of many rows side by side, without padding. Its plan cuts them into blocks. In all
blocks a query sees the shared prefix, what its row had before the block, and, by the block's mask, the block itself:
a causal stretch, a trie of continuations, or one new token of each row under way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import torch

from toolkit.inference.keys_values import NO_PREFIX, Prefix, Slots

QUERY_BLOCK = 256
"""Queries of one row that are multiplied with their keys at once: a longer stretch sees its own future less."""


@dataclass(frozen=True)
class Stretch:
    """Tokens [start, stop) of one row.

    Attributes:
        first: where the row's own keys begin in this pass, for a row that lies in it as a whole; else None.
        slot, kept: for a row whose keys are in a slot: which, and how many it holds with this stretch.
        ancestors: [T, T], True where a token sees another of the stretch; None is causal.
        positions: of the tokens in the row; of its own keys for sliding windows (`key_positions`).
    """

    start: int
    stop: int
    positions: tuple[int, ...]
    key_positions: tuple[int, ...]
    first: int | None = None
    slot: int = 0
    kept: int = 0
    ancestors: torch.Tensor | None = None


@dataclass(frozen=True)
class Steps:
    """One new token each of the rows in slots 0 ... B-1, packed from `start`; `lengths` count the new token."""

    start: int
    lengths: tuple[int, ...]


@dataclass
class Plan:
    """Blocks in any order, and the prefix and slots they read.

    Masks are made once a pass, not once a layer.
    """

    stretches: Sequence[Stretch]
    steps: Steps | None = None
    prefix: Prefix = NO_PREFIX
    slots: Slots | None = None
    _masks: dict[object, torch.Tensor | None] = field(default_factory=dict)

    def store(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Writes new keys and values [H, N, d] of rows that are in slots."""
        if self.slots is None:
            return
        kept_keys, kept_values = self.slots.layer(layer, keys, values)
        for one in self.stretches:
            if one.first is None:
                at = slice(one.kept - (one.stop - one.start), one.kept)
                kept_keys[one.slot, :, at] = keys[:, one.start : one.stop]
                kept_values[one.slot, :, at] = values[:, one.start : one.stop]
        if self.steps is not None:
            rows, last = self._places(self.steps, keys.device)
            new = slice(self.steps.start, self.steps.start + len(self.steps.lengths))
            kept_keys[rows, :, last] = keys[:, new].transpose(0, 1)
            kept_values[rows, :, last] = values[:, new].transpose(0, 1)

    def inside(self, one: Stretch, like: torch.Tensor) -> torch.Tensor | None:
        """What a stretch's tokens add to their scores among themselves, [T, T] of 0 and -inf; None for one token."""
        size = one.stop - one.start
        if size == 1:
            return None
        if one.ancestors is None:
            return causal(size, like.dtype, like.device)
        key = ("inside", id(one.ancestors))
        if key not in self._masks:
            self._masks[key] = additive(one.ancestors.to(like.device), like.dtype)
        return self._masks[key]

    def window(self, one: Stretch, window: int, like: torch.Tensor) -> torch.Tensor | None:
        """What a sliding window adds to a stretch's scores, [T, P + S]; None where nothing is out of sight."""
        key = ("window", one.start, window)
        if key not in self._masks:
            mask = None
            if max(one.positions) >= window:
                asked = torch.tensor(one.positions, device=like.device)
                seen = torch.tensor((*range(len(self.prefix)), *one.key_positions), device=like.device)
                mask = additive(asked[:, None] - seen[None, :] < window, like.dtype)
            self._masks[key] = mask
        return self._masks[key]

    def visible(self, like: torch.Tensor, window: int | None) -> torch.Tensor | None:
        """What the rows of `steps` add to their scores, [B, 1, P + S]; None where all rows see every key."""
        assert self.steps is not None
        key = ("visible", window)
        if key not in self._masks:
            lengths = torch.tensor(self.steps.lengths, device=like.device)[:, None]
            behind = len(self.prefix)
            seen = torch.arange(behind + int(lengths.max()), device=like.device)[None, :]
            allowed = seen < behind + lengths
            if window is not None:
                allowed = allowed & (seen >= behind + lengths - window)
            self._masks[key] = None if bool(allowed.all()) else additive(allowed, like.dtype)[:, None]
        return self._masks[key]

    def _places(self, steps: Steps, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        key = ("places", device)
        found = self._masks.get(key)
        if found is None:
            found = torch.tensor([range(len(steps.lengths)), [length - 1 for length in steps.lengths]], device=device)
            self._masks[key] = found
        return found[0], found[1]


def stretches(
    start: int,
    tokens: int,
    behind: int,
    done: int = 0,
    slot: int | None = None,
) -> list[Stretch]:
    """A causal run of one row's tokens, cut so that no block is longer than `QUERY_BLOCK`.

    Args:
        start: where it is packed.
        behind: tokens of the shared prefix.
        done: the row's own tokens of earlier passes (they are in the slot).
        slot: where the row is kept; None for a row that lies in this pass as a whole.
    """
    found = []
    for at in range(0, tokens, QUERY_BLOCK):
        end = min(at + QUERY_BLOCK, tokens)
        positions = tuple(range(behind + done + at, behind + done + end))
        keys = tuple(range(behind, behind + done + end))
        place = (start + at, start + end, positions, keys)
        found.append(Stretch(*place, first=start) if slot is None else Stretch(*place, slot=slot, kept=done + end))
    return found


@lru_cache(maxsize=64)
def causal(size: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """[T, T]: 0 for a token and what stands before it, -inf for what comes after."""
    return additive(torch.ones(size, size, dtype=torch.bool, device=device).tril(), dtype)


def additive(allowed: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """0 where allowed, -inf elsewhere."""
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill_(~allowed, float("-inf"))
