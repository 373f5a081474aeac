"""Scoring more rows than the head takes at once never has their logits over the vocabulary in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from allocations import most_allocated

from toolkit.inference.packed import HEAD_ROWS, Packed

WORDS, ROWS = 20_000, 2 * HEAD_ROWS + 100


def test_scored_rows_are_never_spread_over_the_vocabulary(make_module: Callable[..., Any]) -> None:
    packed = Packed(make_module("llama", fresh=True, vocab_size=WORDS))
    hidden, rows = torch.randn(ROWS, 32), torch.arange(ROWS)
    with torch.inference_mode():
        taken = most_allocated(lambda: packed.log_probabilities(hidden, rows, rows))
    whole = ROWS * WORDS * 4
    assert 0 < taken < whole / 6
    assert taken < HEAD_ROWS * WORDS * 4 / 2, "a piece's rows are spread over the whole vocabulary"


def test_no_probability_passes_1_where_a_product_is_rounded_the_other_way(
    make_module: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The product in the norm and the one for the token itself add up in another order, and bf16 rounds them apart."""
    packed = Packed(make_module("llama", fresh=True).to(torch.bfloat16))
    weight = packed.module.get_output_embeddings().weight
    for logit, step in ((30.07, 0.125), (200.6, 1.0)):
        hidden = torch.zeros(1, weight.shape[1], dtype=torch.bfloat16)
        with torch.no_grad():
            weight.zero_()
            weight[5, :2], hidden[0, :2] = 1.0, torch.tensor([logit // 1, logit % 1])
        exact = float((hidden.float() @ weight[5].float()).item())
        below = torch.tensor([exact]).bfloat16().float() - step
        monkeypatch.setattr(packed, "_norms", lambda *_, below=below: below)
        with torch.inference_mode():
            (found,) = packed.log_probabilities(hidden, torch.tensor([0]), torch.tensor([5])).tolist()
        assert -1.0 < found <= 0.0
