"""Scoring choices: each context once, its continuations as a trie of tokens behind it in the same forward pass.

A row is [context | trie nodes]; a node attends to the context and its own ancestors, so choices that share tokens
share their work. The head is applied at the context's last position and at the nodes only (tree attention as in
SpecInfer, Miao et al. 2023, used here for scoring).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch

from toolkit.inference.batches import by_budget
from toolkit.inference.keys_values import Prefix, Slots
from toolkit.inference.packed import Packed
from toolkit.inference.plan import Plan, Stretch, stretches

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


@lru_cache(maxsize=4096)
def build_trie(continuations: Continuations) -> Trie:
    """The trie of a row's continuations (each at least one token)."""
    nodes: dict[tuple[int, ...], int] = {}
    tokens: list[int] = []
    parents: list[int] = []
    depths: list[int] = []
    edges: dict[tuple[int, int], int] = {}
    paths = []
    for continuation in continuations:
        path, at = [], -1
        for depth, token in enumerate(continuation):
            path.append(edges.setdefault((at, token), len(edges)))
            prefix = continuation[: depth + 1]
            if depth + 1 < len(continuation):
                if prefix not in nodes:
                    nodes[prefix] = len(tokens)
                    tokens.append(token)
                    parents.append(at)
                    depths.append(depth)
                at = nodes[prefix]
        paths.append(tuple(path))
    return Trie(tuple(tokens), tuple(parents), tuple(depths), tuple(edges), tuple(paths))


def tree_scores(
    packed: Packed, rows: Sequence[Sequence[int]], tries: Sequence[Trie], prefix: Prefix
) -> list[tuple[float, ...]]:
    """Log-likelihoods of each row's continuations. `rows` are token ids behind the prefix, at least one each."""
    results: list[tuple[float, ...]] = [()] * len(rows)
    lengths = [len(row) + len(trie.tokens) for row, trie in zip(rows, tries, strict=True)]
    for batch in by_budget(lengths, packed.pass_tokens):
        if lengths[batch[0]] > packed.pass_tokens:
            hidden = _long(packed, rows[batch[0]], tries[batch[0]], prefix)
        else:
            hidden = _side_by_side(packed, [rows[i] for i in batch], [tries[i] for i in batch], prefix)
        for row, scores in zip(batch, _gathered(packed, hidden, [tries[i] for i in batch]), strict=True):
            results[row] = scores
    return results


def _side_by_side(packed: Packed, rows: Sequence[Sequence[int]], tries: Sequence[Trie], prefix: Prefix) -> torch.Tensor:
    """Hidden states [R, D] of each row's last context token and nodes, rows one after another."""
    behind = len(prefix)
    tokens: list[int] = []
    positions: list[int] = []
    blocks: list[Stretch] = []
    wanted: list[int] = []
    for row, trie in zip(rows, tries, strict=True):
        start, size = len(tokens), len(row)
        blocks += stretches(start, size, behind)
        tokens += [*row, *trie.tokens]
        positions += [*range(behind, behind + size), *_depths(trie, behind + size)]
        wanted += range(start + size - 1, len(tokens))
        if trie.tokens:
            blocks.append(_nodes(trie, start + size, behind, size, first=start))
    hidden = packed.forward(tokens, positions, Plan(blocks, prefix=prefix))
    return hidden[torch.tensor(wanted, device=hidden.device)]


def _long(packed: Packed, row: Sequence[int], trie: Trie, prefix: Prefix) -> torch.Tensor:
    """As `_side_by_side` of a row that is longer than a pass: the context part by part, then its nodes."""
    behind, size = len(prefix), len(row)
    slots = Slots(1, size + len(trie.tokens))
    last = packed.fill(row, prefix, slots)
    if not trie.tokens:
        return last
    plan = Plan([_nodes(trie, 0, behind, size, kept=size + len(trie.tokens))], prefix=prefix, slots=slots)
    return torch.cat([last, packed.forward(trie.tokens, _depths(trie, behind + size), plan)])


def _nodes(trie: Trie, start: int, behind: int, size: int, first: int | None = None, kept: int = 0) -> Stretch:
    """The block of a trie behind a context of `size` own tokens."""
    positions = tuple(_depths(trie, behind + size))
    keys = (*range(behind, behind + size), *positions)
    stop = start + len(trie.tokens)
    return Stretch(start, stop, positions, keys, first=first, kept=kept, ancestors=trie.ancestors)


def _depths(trie: Trie, position: int) -> list[int]:
    return [position + depth for depth in trie.depths]


def _gathered(packed: Packed, hidden: torch.Tensor, tries: Sequence[Trie]) -> list[tuple[float, ...]]:
    """Sums over each continuation's steps. Of `hidden` [R, D] a trie has its context's row, then its nodes'."""
    sources: list[int] = []
    tokens: list[int] = []
    spans: list[tuple[int, int]] = []
    first = 0
    for trie in tries:
        spans.append((len(sources), len(sources) + len(trie.edges)))
        sources += [first + source + 1 for source, _ in trie.edges]
        tokens += [token for _, token in trie.edges]
        first += len(trie.tokens) + 1
    order = torch.tensor(sources).argsort(stable=True)
    wanted = torch.tensor(sources)[order].to(hidden.device), torch.tensor(tokens)[order].to(hidden.device)
    found = packed.log_probabilities(hidden, *wanted).cpu()
    logs = torch.empty_like(found)
    logs[order] = found
    return [
        tuple(float(logs[start:end][list(path)].sum()) for path in trie.paths)
        for (start, end), trie in zip(spans, tries, strict=True)
    ]
