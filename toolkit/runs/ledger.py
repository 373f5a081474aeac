"""Ledger: what each strategy costs, fixed against per query, from what the run wrote down."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from toolkit.evaluation import UsageRow
from toolkit.meter import peak_memory_bytes
from toolkit.strategies.fitting import Fitted

PERCENTILES_FROM = 20
"""Fewer one-by-one timings than this give a median only."""


@dataclass(frozen=True)
class Costed:
    """A fitted strategy's costs before they are timed. `seeds` were fitted one after the other."""

    name: str
    fitted: Sequence[Fitted]


def ledger(
    strategies: Sequence[Costed], usage: Sequence[UsageRow], timings: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """The run's ledger: seconds by stage, peak memory, and for each strategy fixed and per-query costs.

    The peak is the largest of the processes that wrote to the run's folder; a training's helpers do not. Seconds of
    answers and fits are as first measured, also where they came from the Store.
    """
    stages: dict[str, float] = {}
    for row in _once_each([row for row in timings if not row.get("cached")]):
        stages[row["stage"]] = stages.get(row["stage"], 0.0) + float(row["seconds"])
    return {
        "stages_seconds": {name: round(seconds, 3) for name, seconds in sorted(stages.items())},
        "peak_memory_bytes": max(peak_memory_bytes(), *(int(row.get("peak_memory_bytes", 0)) for row in timings)),
        "strategies": {costed.name: _strategy(costed, usage, timings) for costed in strategies},
    }


def _once_each(timings: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """A chunk that was answered anew, as a hosted model's are when a run goes on, counts as it was answered last."""
    chunks = {(row["strategy"], row["seed"], row["chunk"]): row for row in timings if row["stage"] == "answer"}
    return [*(row for row in timings if row["stage"] != "answer"), *chunks.values()]


def _strategy(costed: Costed, usage: Sequence[UsageRow], timings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    rows = [row for row in usage if row.strategy == costed.name]
    count = max(1, len(rows))
    answered = [row for row in _once_each(timings) if row["stage"] == "answer" and row["strategy"] == costed.name]
    seconds = sum(float(row["seconds"]) for row in answered)
    examples = sum(int(row["examples"]) for row in answered)
    facts = [fact for fitted in costed.fitted for fact in fitted.facts]
    origins = ("question", "demonstrations", "passages", "other")
    return {
        "fixed": {
            "fit_seconds": round(sum(fitted.fit_seconds for fitted in costed.fitted) / len(costed.fitted), 3),
            "adapter_bytes": _largest(facts, "adapter_bytes"),
            "index_bytes": _largest(facts, "index_bytes"),
            "chunks": _largest(facts, "chunks"),
            "trained_parameters": _training(facts, "trainable_parameters"),
            "training_tokens": _training(facts, "seen_tokens"),
            "trials": max(fitted.trials for fitted in costed.fitted),
        },
        "per_query": {
            "seconds": seconds / examples if examples else None,
            "prompt_tokens": {name: sum(getattr(row, name) for row in rows) / count for name in origins},
            "completion_tokens": sum(row.completion_tokens for row in rows) / count,
            "calls": sum(row.calls for row in rows) / count,
            "latency_seconds": _latency(costed.name, timings),
        },
    }


def _largest(facts: Sequence[Mapping[str, Any]], name: str) -> int | None:
    found = [int(fact[name]) for fact in facts if name in fact]
    return max(found) if found else None


def _training(facts: Sequence[Mapping[str, Any]], name: str) -> int | None:
    return _largest([fact["training"] for fact in facts if "training" in fact], name)


def _latency(name: str, timings: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Of one-by-one answers: the first, the median, the 95th percentile (nearest rank)."""
    rows = [row for row in timings if row["stage"] == "latency" and row["strategy"] == name]
    if not rows:
        return None
    seconds = [float(row["seconds"]) for row in rows if row["system"] == rows[-1]["system"]]
    ordered = sorted(seconds)

    def rank(share: float) -> float:
        return ordered[max(0, math.ceil(share * len(ordered)) - 1)]

    p95 = rank(0.95) if len(ordered) >= PERCENTILES_FROM else None
    return {"n": len(ordered), "first": seconds[0], "p50": rank(0.5), "p95": p95}
