"""Score table -> arrays -> estimates and verdicts."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from toolkit.comparison.fairness import check_trials
from toolkit.comparison.measure import (
    BOOTSTRAP_SEED,
    Candidate,
    Measured,
    Plan,
    finite_bounds,
    mean_over_seeds,
    measure,
    over_seeds,
)
from toolkit.comparison.verdict import Evidence, Word, decide, flips_when, sentence
from toolkit.errors import DataError
from toolkit.evaluation import ScoreRow
from toolkit.evaluation.metric import Metric
from toolkit.statistics import cluster_bootstrap, holm, mean_interval


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


def estimate(rows: Sequence[ScoreRow], candidate: Candidate, metric: Metric) -> Estimate:
    """A strategy's figure: repeats over seeds are averaged within an example, never counted as examples."""
    table = over_seeds(rows, candidate, metric.name)
    if metric.is_mean:
        found = mean_interval(table.values, clusters=table.groups, bounds=finite_bounds(metric))
        score, interval, clusters = found.mean, found.interval, found.clusters
    else:
        figure = mean_over_seeds(metric, len(candidate.seeds))
        drawn = cluster_bootstrap(table.statistics, figure, table.groups, seed=BOOTSTRAP_SEED)
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
    found = [
        check_trials(plan.a, plan.b, trials, unequal_trials)
        or _measured(rows, candidates, plan, metrics[plan.metric], alpha)
        for plan in plans
    ]
    p_values = [one.p_value for one in found if not isinstance(one, str)]
    adjusted = iter([float(p) for p in holm(p_values)] if p_values else [])
    return [
        _refused(plan, one) if isinstance(one, str) else _judged(plan, one, next(adjusted), alpha, smoke)
        for plan, one in zip(plans, found, strict=True)
    ]


def _measured(
    rows: Sequence[ScoreRow], candidates: Mapping[str, Candidate], plan: Plan, metric: Metric, alpha: float
) -> Measured | str:
    """A contrast as measured, or why it cannot be: one side has no scores of the metric, of retrieval for example."""
    try:
        return measure(rows, candidates, plan, metric, alpha)
    except DataError as error:
        return str(error)


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


def _judged(plan: Plan, found: Measured, p_holm: float, alpha: float, smoke: bool) -> Result:
    evidence = Evidence(found.difference, found.interval, found.equivalence, p_holm, found.resolvable, found.clusters)
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


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
