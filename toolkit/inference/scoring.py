"""Scoring choices: each context once, its continuations as a trie of tokens behind it in the same forward pass.

A row is [context | trie nodes]; a node attends to the context and its own ancestors, so choices that share tokens
share their work. The head is applied at the context's last position and at the nodes only (tree attention as in
SpecInfer, Miao et al. 2023, used here for scoring).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from toolkit.inference.batches import by_budget
from toolkit.inference.keys_values import Prefix, Slots
from toolkit.inference.packed import Packed
from toolkit.inference.plan import Plan, Segment
from toolkit.inference.trie import Continuations, Trie, build_trie, cut


def tree_scores(
    packed: Packed, rows: Sequence[Sequence[int]], choices: Sequence[Continuations], prefix: Prefix
) -> list[tuple[float, ...]]:
    """Log-likelihoods of each row's continuations. `rows` are token ids behind the prefix, at least one each.

    More continuations than a pass has room for are scored in parts, each behind the context anew.
    """
    results = [[0.0] * len(one) for one in choices]
    parts = [(row, places) for row, one in enumerate(choices) for places in cut(one, packed.pass_tokens)]
    tries = [build_trie(tuple(choices[row][place] for place in places)) for row, places in parts]
    lengths = [len(rows[row]) + len(trie.tokens) for (row, _), trie in zip(parts, tries, strict=True)]
    for batch in by_budget(lengths, packed.pass_tokens):
        contexts, asked = [rows[parts[i][0]] for i in batch], [tries[i] for i in batch]
        if lengths[batch[0]] > packed.pass_tokens:
            hidden = _long(packed, contexts[0], asked[0], prefix)
        else:
            hidden = _side_by_side(packed, contexts, asked, prefix)
        for i, scores in zip(batch, _gathered(packed, hidden, asked), strict=True):
            row, places = parts[i]
            for place, score in zip(places, scores, strict=True):
                results[row][place] = score
    return [tuple(one) for one in results]


def _side_by_side(packed: Packed, rows: Sequence[Sequence[int]], tries: Sequence[Trie], prefix: Prefix) -> torch.Tensor:
    """Hidden states [R, D] of each row's last context token and nodes, rows one after another."""
    tokens: list[int] = []
    segments: list[Segment] = []
    wanted: list[int] = []
    for row, trie in zip(rows, tries, strict=True):
        segments.append(Segment(len(tokens), len(row), trie))
        wanted += range(len(tokens) + len(row) - 1, len(tokens) + segments[-1].size)
        tokens += [*row, *trie.tokens]
    hidden = packed.forward(tokens, Plan(segments, prefix=prefix))
    return hidden[torch.tensor(wanted, device=hidden.device)]


def _long(packed: Packed, row: Sequence[int], trie: Trie, prefix: Prefix) -> torch.Tensor:
    """As `_side_by_side` of a row that is longer than a pass: the context part by part, then its nodes."""
    slots = Slots(1, len(row) + len(trie.tokens), packed.layers)
    last = packed.fill(row, prefix, slots)
    if not trie.tokens:
        return last
    plan = Plan([Segment(0, 0, trie, done=len(row), slot=0)], prefix=prefix, slots=slots)
    return torch.cat([last, packed.forward(trie.tokens, plan)])


def _gathered(packed: Packed, hidden: torch.Tensor, tries: Sequence[Trie]) -> list[tuple[float, ...]]:
    """Sums over each continuation's steps. Of `hidden` [R, D] a trie has its context's row, then its nodes'."""
    sources: list[int] = []
    tokens: list[int] = []
    starts: list[int] = []
    first = 0
    for trie in tries:
        starts.append(len(sources))
        sources += [first + source + 1 for source, _ in trie.edges]
        tokens += [token for _, token in trie.edges]
        first += len(trie.tokens) + 1
    wanted = torch.tensor([sources, tokens], dtype=torch.long, device=hidden.device)
    logs = packed.log_probabilities(hidden, wanted[0], wanted[1]).tolist()
    return [
        tuple(math.fsum(logs[start + edge] for edge in path) for path in trie.paths)
        for start, trie in zip(starts, tries, strict=True)
    ]
