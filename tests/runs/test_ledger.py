"""Seconds of a run by stage: what was answered anew counts once, as it was last; what came from the Store does not."""

from __future__ import annotations

from typing import Any

from toolkit.runs.ledger import ledger


def answered(chunk: int, seconds: float, cached: bool = False) -> dict[str, Any]:
    row = {"stage": "answer", "strategy": "a", "seed": None, "chunk": chunk, "seconds": seconds, "cached": cached}
    return {**row, "examples": 2}


def test_a_chunk_counts_once_in_a_stages_seconds() -> None:
    killed = [answered(0, 100.0), answered(1, 90.0)]
    went_on = [answered(0, 101.0), answered(1, 91.0), answered(2, 80.0)]  # a hosted model's, from its journal
    loads = [{"stage": "load", "seconds": 2.0}, {"stage": "load", "seconds": 3.0}]
    found = ledger([], [], [*loads, *killed, *went_on, answered(2, 80.0, cached=True)])
    assert found["stages_seconds"] == {"answer": 272.0, "load": 5.0}
