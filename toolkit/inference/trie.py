"""Trie: continuations of one context, merged where they begin alike."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch

Continuations = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Trie:
    """Proper prefixes of the continuations, as nodes that are fed to the model.

    `tokens[i]`, `parents[i]` (-1: the context), `depths[i]` from 0. `edges` are the scored steps: (source, token)
    with source -1 for the context's last position or a node; `paths[c]` lists the edges of continuation c.
    """

    tokens: tuple[int, ...]
    parents: tuple[int, ...]
    depths: tuple[int, ...]
    edges: tuple[tuple[int, int], ...]
    paths: tuple[tuple[int, ...], ...]

    @cached_property
    def ancestors(self) -> torch.Tensor:
        """[nodes, nodes]: True where a node sees another: itself and the way to it."""
        seen = torch.eye(len(self.tokens), dtype=torch.bool)
        for node, parent in enumerate(self.parents):
            if parent >= 0:
                seen[node] |= seen[parent]
        return seen


@lru_cache(maxsize=64)
def cut(continuations: Continuations, most: int) -> tuple[tuple[int, ...], ...]:
    """Places of a row's continuations in parts of at most `most` nodes, or of one continuation: what is alike together.

    Masks grow with the square of a trie. Where one part does, it has all of them as they came.
    """
    parts: list[list[int]] = [[]]
    nodes = 0
    before: tuple[int, ...] = ()
    for place in sorted(range(len(continuations)), key=continuations.__getitem__):
        stem = continuations[place][:-1]
        new = len(stem) - _alike(stem, before)
        if parts[-1] and nodes + new > most:
            parts.append([])
            nodes, new = 0, len(stem)
        parts[-1].append(place)
        nodes, before = nodes + new, stem
    return tuple(map(tuple, parts)) if len(parts) > 1 else (tuple(range(len(continuations))),)


def _alike(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


@lru_cache(maxsize=64)
def build_trie(continuations: Continuations) -> Trie:
    """The trie of a row's continuations (each at least one token)."""
    nodes: dict[tuple[int, int], int] = {}
    tokens: list[int] = []
    parents: list[int] = []
    depths: list[int] = []
    edges: dict[tuple[int, int], int] = {}
    paths = []
    for continuation in continuations:
        path, at = [], -1
        for depth, token in enumerate(continuation):
            path.append(edges.setdefault((at, token), len(edges)))
            if depth + 1 < len(continuation):
                if (at, token) not in nodes:
                    nodes[at, token] = len(tokens)
                    tokens.append(token)
                    parents.append(at)
                    depths.append(depth)
                at = nodes[at, token]
        paths.append(tuple(path))
    return Trie(tuple(tokens), tuple(parents), tuple(depths), tuple(edges), tuple(paths))
