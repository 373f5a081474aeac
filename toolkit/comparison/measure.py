"""Two strategies' scores to a measured difference: arrays in, numbers out, no verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from toolkit.errors import FairnessError
from toolkit.evaluation import MetricArrays, ScoreRow, arrays
from toolkit.evaluation.metric import Metric
from toolkit.statistics import (
    Statistic,
    can_resolve,
    paired_cluster_bootstrap,
    paired_difference,
    paired_randomisation,
    resolvable_difference,
    resolvable_from_error,
)

if TYPE_CHECKING:
    from toolkit.evaluation.metric import Floats

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
class Measured:
    """A contrast before it is judged; `counts` are wins, losses and ties of a mean's examples."""

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


def measure(
    rows: Sequence[ScoreRow], candidates: Mapping[str, Candidate], plan: Plan, metric: Metric, alpha: float
) -> Measured:
    """A planned contrast on one metric.

    Raises:
        DataError: one of the two has no scores of the metric.
        FairnessError: the two were not scored on the same examples.
    """
    a = over_seeds(rows, candidates[plan.a], metric.name)
    b = over_seeds(rows, candidates[plan.b], metric.name)
    _same_examples(a, b, plan.a, plan.b)
    if metric.is_mean:
        return _mean_contrast(a, b, metric, alpha)
    seeds = len(candidates[plan.a].seeds), len(candidates[plan.b].seeds)
    return _aggregate_contrast(a, b, metric, seeds, alpha)


def _mean_contrast(a: MetricArrays, b: MetricArrays, metric: Metric, alpha: float) -> Measured:
    wide = paired_difference(a.values, b.values, a.groups, seed=BOOTSTRAP_SEED, bounds=finite_bounds(metric))
    narrow = paired_difference(a.values, b.values, a.groups, level=1 - 2 * alpha, bounds=finite_bounds(metric))
    return Measured(
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


def _aggregate_contrast(
    a: MetricArrays, b: MetricArrays, metric: Metric, seeds: tuple[int, int], alpha: float
) -> Measured:
    import numpy as np

    most = max(seeds)  # a strategy that runs once stands beside every seed of the other
    sides = [np.tile(table.statistics, (1, most // own)) for table, own in zip((a, b), seeds, strict=True)]
    args = (sides[0], sides[1], mean_over_seeds(metric, most), a.groups)
    wide = paired_cluster_bootstrap(*args, seed=BOOTSTRAP_SEED)
    narrow = paired_cluster_bootstrap(*args, level=1 - 2 * alpha, seed=BOOTSTRAP_SEED)
    error = wide.standard_error if can_resolve(wide.clusters, alpha) else None
    return Measured(
        difference=wide.value,
        interval=(wide.interval.low, wide.interval.high),
        equivalence=(narrow.interval.low, narrow.interval.high),
        p_value=paired_randomisation(*args, seed=BOOTSTRAP_SEED),
        resolvable=resolvable_from_error(error, alpha=alpha) if error else math.inf,
        n=wide.n,
        clusters=wide.clusters,
        counts=None,
        design_effect=None,
        method=wide.interval.method,
        test="paired randomisation over clusters",
    )


def mean_over_seeds(metric: Metric, seeds: int) -> Statistic:
    """From summed statistics [..., seeds x k] to the mean of the seeds' figures [...]."""

    def figure(sums: Floats) -> Floats:
        import numpy as np

        blocks = np.split(sums, seeds, axis=-1)
        found: Floats = np.mean([metric.aggregate(block) for block in blocks], axis=0)
        return found

    return figure


def over_seeds(rows: Sequence[ScoreRow], candidate: Candidate, metric: str) -> MetricArrays:
    """One strategy's values averaged over its seeds [n], and its seeds' statistics side by side [n, seeds x k]."""
    import numpy as np

    tables = [arrays(rows, candidate.name, metric, seed) for seed in candidate.seeds]
    first = tables[0]
    for table in tables[1:]:
        _same_examples(first, table, candidate.name, candidate.name)
    return MetricArrays(
        first.example_ids,
        np.mean([table.values for table in tables], axis=0),
        np.concatenate([table.statistics for table in tables], axis=1),
        first.groups,
    )


def _same_examples(a: MetricArrays, b: MetricArrays, name_a: str, name_b: str) -> None:
    if a.example_ids != b.example_ids:
        only = sorted(set(a.example_ids) ^ set(b.example_ids))
        raise FairnessError(
            f"{name_a} and {name_b} were not scored on the same examples ({len(a.example_ids)} and "
            f"{len(b.example_ids)}; for instance '{only[0]}'): every strategy must answer every example"
        )


def finite_bounds(metric: Metric) -> tuple[float, float] | None:
    return metric.bounds if all(map(math.isfinite, metric.bounds)) else None
