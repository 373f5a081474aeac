"""The verdict table: one row a strategy, what it scores, how sure that is, and what it costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from toolkit.report import figures
from toolkit.report.figures import Bounds
from toolkit.report.read import entry, ranked
from toolkit.report.sides import Side, between


@dataclass(frozen=True)
class VerdictRow:
    """A strategy; scores and differences in the metric's own unit (a share is not yet points).

    `word` is BETTER, WORSE, EQUIVALENT, UNRESOLVED or SMOKE against the baseline, or else one of: baseline, control,
    refused, not compared. `prompt_tokens`, `completion_tokens` and `query_seconds` are per query.
    """

    strategy: str
    label: str
    control: bool
    metric: str
    score: float
    interval: Bounds
    difference: float | None
    difference_interval: Bounds
    p_holm: float | None
    word: str
    resolvable: float | None
    fit_seconds: float | None
    adapter_bytes: int | None
    index_bytes: int | None
    prompt_tokens: float | None
    completion_tokens: float | None
    query_seconds: float | None
    p50_seconds: float | None
    p95_seconds: float | None


def verdict_table(comparison: Mapping[str, Any], ledger: Mapping[str, Any]) -> list[VerdictRow]:
    """Candidates by falling score, then controls, which have no rank.

    Args:
        comparison: of `comparison.json`.
        ledger: of `ledger.json`; a strategy that is not in it has no costs.
    """
    return [_row(comparison, name, entry(ledger, name)) for name in ranked(comparison)]


def headings(comparison: Mapping[str, Any]) -> tuple[str, ...]:
    """Of the columns of `as_texts`."""
    metric, baseline = comparison["metric"], comparison.get("baseline")
    interval = "[95 % CI]".replace(" ", "\N{NO-BREAK SPACE}")
    score = f"{figures.plain(metric)} {interval}"
    against = f"Difference to {baseline} {interval}" if baseline else "Difference to baseline"
    return (
        "Strategy",
        score,
        against,
        "p\N{NO-BREAK SPACE}(Holm)",
        "Verdict",
        "Resolves",
        "One-off",
        "Per query",
        "Latency, p50",
    )


def as_texts(row: VerdictRow) -> tuple[tuple[str, str], ...]:
    """A row's cells in the order of `headings`, each a figure and what stands smaller beside it."""
    tokens = None if row.prompt_tokens is None else row.prompt_tokens + (row.completion_tokens or 0.0)
    sizes = [
        f"{figures.size(value)} {name}"
        for name, value in (("adapter", row.adapter_bytes), ("index", row.index_bytes))
        if value is not None
    ]
    speed = "" if row.query_seconds is None else figures.seconds(row.query_seconds)
    difference = figures.amount(row.difference, row.metric, signed=True)
    spread = figures.interval(row.difference_interval, row.metric)
    return (
        (row.strategy, "" if row.label == row.strategy else row.label),
        (figures.amount(row.score, row.metric), figures.interval(row.interval, row.metric)),
        (difference, "" if row.difference is None else spread),
        (figures.p_value(row.p_holm), ""),
        (row.word, ""),
        (figures.amount(row.resolvable, row.metric), ""),
        (figures.seconds(row.fit_seconds), ",\n".join(sizes)),
        (figures.NOTHING if tokens is None else f"{tokens:,.0f} tokens", speed),
        (
            figures.seconds(row.p50_seconds),
            "" if row.p95_seconds is None else f"p95 {figures.seconds(row.p95_seconds)}",
        ),
    )


def _row(comparison: Mapping[str, Any], name: str, costs: Mapping[str, Any]) -> VerdictRow:
    facts = comparison["strategies"][name]
    elsewhere = bool(facts.get("trained_elsewhere"))
    side = between(comparison, name, comparison.get("baseline"))
    fixed, query = costs.get("fixed", {}), costs.get("per_query", {})
    latency = query.get("latency_seconds") or {}
    prompt = query.get("prompt_tokens")
    return VerdictRow(
        strategy=name,
        label=facts["label"] + (", trained elsewhere" if elsewhere else ""),
        control=facts["control"],
        metric=comparison["metric"],
        score=facts["score"],
        interval=_bounds(facts["interval"]),
        difference=side.difference if side else None,
        difference_interval=side.interval if side else (None, None),
        p_holm=side.p_holm if side else None,
        word=_word(comparison, name, facts["control"], side),
        resolvable=side.resolvable if side else None,
        fit_seconds=None if elsewhere else fixed.get("fit_seconds"),
        adapter_bytes=fixed.get("adapter_bytes"),
        index_bytes=fixed.get("index_bytes"),
        prompt_tokens=None if prompt is None else float(sum(prompt.values())),
        completion_tokens=query.get("completion_tokens"),
        query_seconds=query.get("seconds"),
        p50_seconds=latency.get("p50"),
        p95_seconds=latency.get("p95"),
    )


def _word(comparison: Mapping[str, Any], name: str, control: bool, side: Side | None) -> str:
    if control:
        return "control"
    if name == comparison.get("baseline"):
        return "baseline"
    if side is None:
        return "not compared"
    return "refused" if side.word is None else side.word


def _bounds(interval: list[float | None] | tuple[float | None, float | None]) -> Bounds:
    low, high = interval
    return (low, high)
