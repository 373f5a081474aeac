"""Scoring more rows than the head takes at once never has their logits over the vocabulary in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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
