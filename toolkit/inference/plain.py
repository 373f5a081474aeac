"""The plain path: a row at a time through the model's own forward pass and cache. Slow, and right for any model.

It is what the packed path is held to, and what a model takes that the packed path is not proven for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from toolkit.inference.sampling import Picker, Row

CACHES = ("cache", "past_key_values", "cache_params")
"""What releases of transformers and kinds of models call what they keep; one that keeps nothing is fed all again."""


def plain_answers(module: Any, rows: Sequence[Sequence[int]], answers: Sequence[Row], picker: Picker) -> None:
    """Decodes rows of token ids to the end, each into its answer."""
    for row, answer in zip(rows, answers, strict=True):
        kept: dict[str, Any] = {}
        fed = list(row)
        while not answer.done:
            output = module(input_ids=torch.tensor([fed], device=module.device), use_cache=True, **kept)
            picker.pick(output.logits[:, -1].float(), [answer])
            kept = next(({name: output[name]} for name in CACHES if output.get(name) is not None), {})
            fed = answer.token_ids[-1:] if kept else [*row, *answer.token_ids]


def plain_scores(
    module: Any, rows: Sequence[Sequence[int]], continuations: Sequence[Sequence[Sequence[int]]]
) -> list[tuple[float, ...]]:
    """Log-likelihoods: every context and continuation in a forward pass of its own."""
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
