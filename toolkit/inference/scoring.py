"""Scoring choices: each context once, its continuations as a trie of tokens behind it in the same forward pass.

A row is [context | trie nodes]; a node attends to the context and its own ancestors, so choices that share tokens
share their work. The head is applied at the context's last position and at the nodes only (tree attention as in
SpecInfer, Miao et al. 2023, used here for scoring).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from toolkit.inference.batches import by_budget
from toolkit.inference.forward import Prefix, body, log_probabilities

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
    module: Any, rows: Sequence[Sequence[int]], tries: Sequence[Trie], prefix: Prefix, budget_tokens: int
) -> list[tuple[float, ...]]:
    """Log-likelihoods of each row's continuations. `rows` are token ids behind the prefix, at least one each."""
    results: list[tuple[float, ...]] = [()] * len(rows)
    lengths = [len(row) + len(trie.tokens) for row, trie in zip(rows, tries, strict=True)]
    for batch in by_budget(lengths, budget_tokens, len(prefix.token_ids)):
        scored = _batch(module, [rows[i] for i in batch], [tries[i] for i in batch], prefix)
        for row, scores in zip(batch, scored, strict=True):
            results[row] = scores
    return results


def _batch(
    module: Any, rows: Sequence[Sequence[int]], tries: Sequence[Trie], prefix: Prefix
) -> list[tuple[float, ...]]:
    behind = len(prefix.token_ids)
    width = max(len(row) + len(trie.tokens) for row, trie in zip(rows, tries, strict=True))
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    positions = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros(len(rows), 1, width, behind + width, dtype=torch.bool)
    for number, (row, trie) in enumerate(zip(rows, tries, strict=True)):
        size, nodes = len(row), len(trie.tokens)
        ids[number, : size + nodes] = torch.tensor([*row, *trie.tokens])
        positions[number, :size] = torch.arange(behind, behind + size)
        positions[number, size : size + nodes] = torch.tensor(trie.depths, dtype=torch.long) + behind + size
        mask[number, 0, :, behind:] = _row_mask(size, trie, width)
    mask[..., :behind] = True
    device = module.device
    cache = prefix.cache(len(rows), module.config)
    hidden = body(module, ids.to(device), mask.to(device), positions.to(device), cache)
    return _gathered(module, hidden, rows, tries)


def _row_mask(size: int, trie: Trie, width: int) -> torch.Tensor:
    """[T, T]: causal over the context; a node sees the context, its ancestors and itself; padding sees itself."""
    mask = torch.eye(width, dtype=torch.bool)
    mask[:size, :size] = torch.ones(size, size, dtype=torch.bool).tril()
    mask[size : size + len(trie.tokens), :size] = True
    for node, parent in enumerate(trie.parents):
        if parent >= 0:
            mask[size + node, size:] |= mask[size + parent, size:]
    return mask


def _gathered(
    module: Any, hidden: torch.Tensor, rows: Sequence[Sequence[int]], tries: Sequence[Trie]
) -> list[tuple[float, ...]]:
    places: list[tuple[int, int]] = []
    sources: list[int] = []
    tokens: list[int] = []
    spans: list[tuple[int, int]] = []
    for number, (row, trie) in enumerate(zip(rows, tries, strict=True)):
        first = len(places)
        places += [(number, len(row) - 1 + node) for node in range(len(trie.tokens) + 1)]
        spans.append((len(sources), len(sources) + len(trie.edges)))
        sources += [first + source + 1 for source, _ in trie.edges]
        tokens += [token for _, token in trie.edges]
    at = torch.tensor(places, device=hidden.device)
    order = torch.tensor(sources).argsort(stable=True)
    wanted = torch.tensor(sources)[order].to(hidden.device), torch.tensor(tokens)[order].to(hidden.device)
    found = log_probabilities(module, hidden[at[:, 0], at[:, 1]], *wanted).cpu()
    logs = torch.empty_like(found)
    logs[order] = found
    return [
        tuple(float(logs[start:end][list(path)].sum()) for path in trie.paths)
        for (start, end), trie in zip(spans, tries, strict=True)
    ]


def plain_scores(
    module: Any, rows: Sequence[Sequence[int]], continuations: Sequence[Continuations]
) -> list[tuple[float, ...]]:
    """The reference: every context and continuation in a forward pass of its own. Slow, and right for any model."""
    results = []
    for row, choices in zip(rows, continuations, strict=True):
        scores = []
        for choice in choices:
            ids = torch.tensor([[*row, *choice]], device=module.device)
            logits = module(input_ids=ids, use_cache=False).logits[0, len(row) - 1 : -1].float()
            logs = torch.log_softmax(logits, dim=-1)
            scores.append(float(logs[torch.arange(len(choice)), torch.tensor(choice)].sum()))
        results.append(tuple(scores))
    return results
