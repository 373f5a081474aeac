"""Greedy decoding: one prefill of the shared prefix, right-padded batches, finished rows leave.

Padding is masked by position, never by id: the pad token may be the stop token.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from toolkit.inference.batches import by_budget
from toolkit.inference.forward import Prefix, body, head
from toolkit.tasks.output import Termination


@dataclass
class Row:
    """One answer being decoded."""

    token_ids: list[int] = field(default_factory=list)
    log_probability: float = 0.0
    termination: Termination = "length"

    @property
    def confidence(self) -> float:
        """Geometric mean probability of the tokens said, the stop included."""
        said = len(self.token_ids) + (self.termination == "stop")
        return math.exp(self.log_probability / said) if said else 0.0


def greedy(
    module: Any,
    rows: Sequence[Sequence[int]],
    prefix: Prefix,
    stop_ids: frozenset[int],
    max_new_tokens: int,
    budget_tokens: int,
) -> list[Row]:
    """Answers for rows of token ids behind the prefix, at least one token each."""
    answers = [Row() for _ in rows]
    lengths = [len(row) + max_new_tokens for row in rows]
    for batch in by_budget(lengths, budget_tokens, len(prefix.token_ids)):
        _decode(module, [rows[i] for i in batch], [answers[i] for i in batch], prefix, stop_ids, max_new_tokens)
    return answers


def _decode(
    module: Any,
    rows: Sequence[Sequence[int]],
    answers: list[Row],
    prefix: Prefix,
    stop_ids: frozenset[int],
    max_new_tokens: int,
) -> None:
    device = module.device
    cache, lengths, seen, hidden = _prefill(module, rows, prefix)
    live = list(range(len(rows)))
    for step in range(max_new_tokens):
        logits = head(module, hidden)
        best = logits.argmax(dim=-1)
        logs = logits.gather(1, best[:, None])[:, 0] - torch.logsumexp(logits, dim=-1)
        going = _record(answers, live, best.tolist(), logs.tolist(), stop_ids)
        if not going or step + 1 == max_new_tokens:
            return
        if len(going) <= len(live) // 2:
            keep = torch.tensor(going, device=device)
            cache.batch_select_indices(keep)
            seen, lengths, best = seen[keep], lengths[keep], best[keep]
            live = [live[slot] for slot in going]
        seen = torch.cat([seen, torch.ones(len(live), 1, dtype=torch.bool, device=device)], dim=1)
        hidden = body(module, best[:, None], seen[:, None, None, :], lengths[:, None], cache)[:, 0]
        lengths = lengths + 1


def _prefill(
    module: Any, rows: Sequence[Sequence[int]], prefix: Prefix
) -> tuple[Any, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Cache, lengths [B], which cached positions are real [B, P + T], hidden states [B, D] of the last tokens."""
    behind, width, device = len(prefix.token_ids), max(map(len, rows)), module.device
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    real = torch.zeros(len(rows), width, dtype=torch.bool)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = torch.tensor(list(row))
        real[number, : len(row)] = True
    sizes = torch.tensor([len(row) for row in rows])
    causal = torch.ones(width, width, dtype=torch.bool).tril()
    mask = torch.ones(len(rows), 1, width, behind + width, dtype=torch.bool)
    mask[:, 0, :, behind:] = causal[None]
    positions = (torch.arange(width) + behind).expand(len(rows), -1)
    cache = prefix.cache(len(rows), module.config)
    hidden = body(module, ids.to(device), mask.to(device), positions.to(device), cache)
    last = hidden[torch.arange(len(rows), device=device), (sizes - 1).to(device)]
    seen = torch.cat([torch.ones(len(rows), behind, dtype=torch.bool), real], dim=1)
    return cache, (sizes + behind).to(device), seen.to(device), last


def _record(
    answers: list[Row], live: list[int], tokens: list[int], logs: list[float], stop_ids: frozenset[int]
) -> list[int]:
    """Writes one step's tokens down; returns the slots that go on. A finished row still in the batch is ignored."""
    going = []
    for slot, (number, token, log) in enumerate(zip(live, tokens, logs, strict=True)):
        row = answers[number]
        if row.termination == "stop":
            continue
        row.log_probability += log
        if token in stop_ids:
            row.termination = "stop"
        else:
            row.token_ids.append(token)
            going.append(slot)
    return going


def plain_greedy(
    module: Any, rows: Sequence[Sequence[int]], stop_ids: frozenset[int], max_new_tokens: int
) -> list[Row]:
    """The reference: one row at a time over the model's own cache. Slow, and right for any model."""
    answers = []
    for row in rows:
        answer, cache = Row(), None
        fed = torch.tensor([list(row)], device=module.device)
        for _ in range(max_new_tokens):
            output = module(input_ids=fed, past_key_values=cache, use_cache=True)
            cache, logits = output.past_key_values, output.logits[0, -1].float()
            token = int(logits.argmax())
            answer.log_probability += float(logits[token] - torch.logsumexp(logits, dim=-1))
            if token in stop_ids:
                answer.termination = "stop"
                break
            answer.token_ids.append(token)
            fed = torch.tensor([[token]], device=module.device)
        answers.append(answer)
    return answers
