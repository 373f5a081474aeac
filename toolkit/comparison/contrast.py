"""Score table -> arrays -> estimates and verdicts."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from toolkit.comparison.fairness import check_trials
from toolkit.comparison.verdict import Evidence, Word, decide, flips_when, sentence
from toolkit.errors import FairnessError
from toolkit.evaluation import MetricArrays, ScoreRow, arrays
from toolkit.evaluation.metric import Metric
from toolkit.statistics import (
    cluster_bootstrap,
    holm,
    mean_interval,
    paired_cluster_bootstrap,
    paired_difference,
    paired_randomisation,
    resolvable_difference,
    resolvable_from_error,
)

BOOTSTRAP_SEED = 0
"""Intervals and p-values are functions of the table: their draws do not follow the run's seeds."""


@dataclass(frozen=True)
class Candidate:
    """What is known of a strategy besides its scores. `seeds` is (None,) for one that runs once."""

    name: str
    label: str
    control: bool
    seeds: tuple[int | None, ...]
    trials: int


@dataclass(frozen=True)
class Plan:
    """A declared contrast: a - b on one metric; `varies` are the factors declared to differ."""

    a: str
    b: str
    metric: str
    margin: float | None = None
    varies: tuple[str, ...] = ()


@dataclass(frozen=True)
class Estimate:
    """A strategy's figure on one metric with its 95 % interval; None bounds where nothing can be said."""

    metric: str
    score: float
    interval: tuple[float | None, float | None]
    n: int
    clusters: int
    method: str


@dataclass(frozen=True)
class Result:
    """One contrast, measured and judged; `refused` is the reason where it was not."""

    a: str
    b: str
    metric: str
    difference: float | None
    interval: tuple[float | None, float | None]
    p_value: float | None
    p_holm: float | None
    verdict: Word | None
    resolvable_difference: float | None
    n: int
    clusters: int
    wins: int | None
    losses: int | None
    ties: int | None
    design_effect: float | None
    method: str
    test: str
    varies: tuple[str, ...]
    margin: float | None
    sentence: str
    flips_when: str
    refused: str | None = None


@dataclass(frozen=True)
class _Measured:
    difference: float
    interval: tuple[float, float]
    equivalence: tuple[float, float]
    p_value: float
    resolvable: float
    n: int
    clusters: int
    counts: tuple[int, int, int] | None
    design_effect: float | None
    method: str
    test: str


def estimate(rows: Sequence[ScoreRow], candidate: Candidate, metric: Metric) -> Estimate:
    """A strategy's figure: repeats over seeds are averaged within an example, never counted as examples."""
    table = over_seeds(rows, candidate, metric.name)
    if metric.is_mean:
        found = mean_interval(table.values, clusters=table.groups, bounds=_bounds(metric))
        score, interval, clusters = found.mean, found.interval, found.clusters
    else:
        drawn = cluster_bootstrap(table.statistics, metric.aggregate, table.groups, seed=BOOTSTRAP_SEED)
        score, interval, clusters = drawn.value, drawn.interval, drawn.clusters
    bounds = (_finite(interval.low), _finite(interval.high))
    return Estimate(metric.name, score, bounds, len(table.example_ids), clusters, interval.method)


def contrasts(
    rows: Sequence[ScoreRow],
    candidates: Mapping[str, Candidate],
    plans: Sequence[Plan],
    metrics: Mapping[str, Metric],
    alpha: float,
    smoke: bool,
    unequal_trials: str | None,
) -> list[Result]:
    """All planned contrasts, judged together as one Holm family.

    Raises:
        FairnessError: two strategies were not scored on the same examples.
    """
    trials = {name: candidate.trials for name, candidate in candidates.items()}
    refusals = [check_trials(plan.a, plan.b, trials, unequal_trials) for plan in plans]
    allowed = [plan for plan, reason in zip(plans, refusals, strict=True) if reason is None]
    measured = [_measure(rows, candidates, plan, metrics[plan.metric], alpha) for plan in allowed]
    adjusted = iter([float(p) for p in holm([found.p_value for found in measured])] if measured else [])
    results, findings = [], iter(measured)
    for plan, reason in zip(plans, refusals, strict=True):
        if reason is None:
            results.append(_judged(plan, next(findings), next(adjusted), alpha, smoke))
        else:
            results.append(_refused(plan, reason))
    return results


def over_seeds(rows: Sequence[ScoreRow], candidate: Candidate, metric: str) -> MetricArrays:
    """One strategy's scores averaged over its seeds, example by example."""
    import numpy as np

    tables = [arrays(rows, candidate.name, metric, seed) for seed in candidate.seeds]
    first = tables[0]
    for table in tables[1:]:
        _same_examples(first, table, candidate.name, candidate.name)
    return MetricArrays(
        first.example_ids,
        np.mean([table.values for table in tables], axis=0),
        np.mean([table.statistics for table in tables], axis=0),
        first.groups,
    )


def slice_scores(rows: Sequence[ScoreRow], candidate: Candidate, metric: Metric) -> dict[str, tuple[float, int]]:
    """Per slice the mean value and the number of examples (means only; exploratory, without intervals)."""
    if not metric.is_mean:
        return {}
    values: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        if row.strategy == candidate.name and row.metric == metric.name:
            for name in row.slices:
                values[name].append(row.value)
    seeds = len(candidate.seeds)
    return {name: (math.fsum(found) / len(found), len(found) // seeds) for name, found in sorted(values.items())}


def _measure(
    rows: Sequence[ScoreRow], candidates: Mapping[str, Candidate], plan: Plan, metric: Metric, alpha: float
) -> _Measured:
    a = over_seeds(rows, candidates[plan.a], metric.name)
    b = over_seeds(rows, candidates[plan.b], metric.name)
    _same_examples(a, b, plan.a, plan.b)
    return _mean_contrast(a, b, metric, alpha) if metric.is_mean else _aggregate_contrast(a, b, metric, alpha)


def _mean_contrast(a: MetricArrays, b: MetricArrays, metric: Metric, alpha: float) -> _Measured:
    wide = paired_difference(a.values, b.values, a.groups, seed=BOOTSTRAP_SEED, bounds=_bounds(metric))
    narrow = paired_difference(a.values, b.values, a.groups, level=1 - 2 * alpha, bounds=_bounds(metric))
    return _Measured(
        difference=wide.difference,
        interval=(wide.interval.low, wide.interval.high),
        equivalence=(narrow.interval.low, narrow.interval.high),
        p_value=wide.p_value,
        resolvable=resolvable_difference(a.values - b.values, a.groups, alpha=alpha),
        n=wide.n,
        clusters=wide.clusters,
        counts=(wide.wins, wide.losses, wide.ties),
        design_effect=wide.design_effect,
        method=wide.method,
        test=wide.test,
    )


def _aggregate_contrast(a: MetricArrays, b: MetricArrays, metric: Metric, alpha: float) -> _Measured:
    args = (a.statistics, b.statistics, metric.aggregate, a.groups)
    wide = paired_cluster_bootstrap(*args, seed=BOOTSTRAP_SEED)
    narrow = paired_cluster_bootstrap(*args, level=1 - 2 * alpha, seed=BOOTSTRAP_SEED)
    error = wide.standard_error
    return _Measured(
        difference=wide.value,
        interval=(wide.interval.low, wide.interval.high),
        equivalence=(narrow.interval.low, narrow.interval.high),
        p_value=paired_randomisation(*args, seed=BOOTSTRAP_SEED),
        resolvable=math.inf if error is None else resolvable_from_error(error, alpha=alpha),
        n=wide.n,
        clusters=wide.clusters,
        counts=None,
        design_effect=None,
        method=wide.interval.method,
        test="paired randomisation over clusters",
    )


def _judged(plan: Plan, found: _Measured, p_holm: float, alpha: float, smoke: bool) -> Result:
    evidence = Evidence(found.difference, found.interval, found.equivalence, p_holm, found.resolvable)
    word = decide(evidence, alpha, plan.margin, smoke)
    wins, losses, ties = found.counts if found.counts is not None else (None, None, None)
    return Result(
        a=plan.a,
        b=plan.b,
        metric=plan.metric,
        difference=found.difference,
        interval=(_finite(found.interval[0]), _finite(found.interval[1])),
        p_value=found.p_value,
        p_holm=p_holm,
        verdict=word,
        resolvable_difference=_finite(found.resolvable),
        n=found.n,
        clusters=found.clusters,
        wins=wins,
        losses=losses,
        ties=ties,
        design_effect=found.design_effect,
        method=found.method,
        test=found.test,
        varies=plan.varies,
        margin=plan.margin,
        sentence=sentence(plan.a, plan.b, plan.metric, word, evidence),
        flips_when=flips_when(plan.b, word, evidence, found.n),
    )


def _refused(plan: Plan, reason: str) -> Result:
    return Result(
        a=plan.a,
        b=plan.b,
        metric=plan.metric,
        difference=None,
        interval=(None, None),
        p_value=None,
        p_holm=None,
        verdict=None,
        resolvable_difference=None,
        n=0,
        clusters=0,
        wins=None,
        losses=None,
        ties=None,
        design_effect=None,
        method="",
        test="",
        varies=plan.varies,
        margin=plan.margin,
        sentence=f"{plan.a} against {plan.b} is refused: {reason}",
        flips_when="",
        refused=reason,
    )


def _same_examples(a: MetricArrays, b: MetricArrays, name_a: str, name_b: str) -> None:
    if a.example_ids != b.example_ids:
        only = sorted(set(a.example_ids) ^ set(b.example_ids))
        raise FairnessError(
            f"{name_a} and {name_b} were not scored on the same examples ({len(a.example_ids)} and "
            f"{len(b.example_ids)}; for instance '{only[0]}'): every strategy must answer every example"
        )


def _bounds(metric: Metric) -> tuple[float, float] | None:
    return metric.bounds if all(map(math.isfinite, metric.bounds)) else None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
