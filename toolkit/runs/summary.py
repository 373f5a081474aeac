"""comparison.json: from the score table on disk to scores, contrasts and notes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from toolkit.comparison.contrast import contrasts, estimate, slice_scores
from toolkit.comparison.measure import Candidate, Plan
from toolkit.evaluation import ScoreRow, UsageRow, read_scores, read_usage
from toolkit.evaluation.metric import Metric
from toolkit.runs.prepare import Prepared
from toolkit.strategies.strategy import Strategy


@dataclass(frozen=True)
class Judged:
    """A strategy as it was run."""

    strategy: Strategy
    seeds: tuple[int | None, ...]
    trials: int


def compare(
    prepared: Prepared,
    scores: Path,
    usage: Path,
    judged: Sequence[Judged],
    examples: int,
    scorings: int,
    merges: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """The comparison, from the tables as they stand on disk."""
    rows, spent = read_scores(scores), read_usage(usage)
    recipe, primary = prepared.recipe, prepared.metrics[0]
    candidates = {
        item.strategy.name: Candidate(
            item.strategy.name, item.strategy.label(), item.strategy.control, item.seeds, item.trials
        )
        for item in judged
    }
    smoke = recipe.limit is not None
    plans = [Plan(c.a, c.b, c.metric or primary.name, c.margin, tuple(c.varies)) for c in recipe.contrasts]
    results = contrasts(
        rows,
        candidates,
        plans,
        {metric.name: metric for metric in prepared.metrics},
        recipe.alpha,
        smoke,
        recipe.unequal_trials,
    )
    return {
        "recipe": recipe.name,
        "recipe_digest": recipe.digest,
        "description": recipe.description,
        "task": prepared.task.name,
        "metric": primary.name,
        "n": examples,
        "seeds": list(recipe.seeds),
        "smoke": smoke,
        "claim": claim(recipe.seeds),
        "test_scorings": scorings,
        "baseline": recipe.baseline,
        "strategies": {
            name: {
                **_strategy(rows, spent, candidate, prepared.metrics, merges.get(name)),
                "trained_elsewhere": recipe.strategy(name).trained_elsewhere,
            }
            for name, candidate in candidates.items()
        },
        "contrasts": [asdict(result) for result in results],
        "notes": [*_notes(prepared, scorings, smoke), *map(_merge_note, merges, merges.values())],
    }


def claim(seeds: Sequence[int]) -> str:
    """What the figures speak of."""
    if len(seeds) == 1:
        return (
            "artefact: these fitted systems, seed "
            f"{seeds[0]}, on examples like the test set's. Another training seed may give another system."
        )
    return (
        f"artefact: the mean of {len(seeds)} fitted systems a strategy, on examples like the test set's. The spread "
        "between seeds is not in the intervals."
    )


def _strategy(
    rows: Sequence[ScoreRow],
    spent: Sequence[UsageRow],
    candidate: Candidate,
    metrics: Sequence[Metric],
    merge: Mapping[str, Any] | None,
) -> dict[str, Any]:
    present = {row.metric for row in rows if row.strategy == candidate.name}
    primary = estimate(rows, candidate, metrics[0])
    statuses = Counter(row.status for row in spent if row.strategy == candidate.name)
    endings = Counter(row.termination for row in spent if row.strategy == candidate.name)
    return {
        **asdict(primary),
        "label": candidate.label,
        "control": candidate.control,
        "seeds": list(candidate.seeds),
        "trials": candidate.trials,
        "statuses": dict(sorted(statuses.items())),
        "terminations": dict(sorted(endings.items())),
        "metrics": {
            metric.name: asdict(estimate(rows, candidate, metric)) for metric in metrics if metric.name in present
        },
        "slices": {
            name: {"score": score, "n": count}
            for name, (score, count) in slice_scores(rows, candidate, metrics[0]).items()
        },
        "merge": {name: merge[name] for name in ("examples", "changed", "share", "dequantised")} if merge else None,
    }


def _merge_note(name: str, merge: Mapping[str, Any]) -> str:
    changed, asked = merge["changed"], merge["examples"]
    where = "the weights, dequantised," if merge["dequantised"] else "the weights"
    return f"Merging {name}'s adapter into {where} would change {changed} of {asked} validation answers."


def _notes(prepared: Prepared, scorings: int, smoke: bool) -> list[str]:
    notes = [f"The test set has been scored by {scorings} different recipe{'s' if scorings > 1 else ''} here."]
    if smoke:
        notes.append("SMOKE: a seeded sample of the test set; no verdict is given.")
    if prepared.task.shared_groups is not None:
        notes.append(f"Groups are shared between splits: {prepared.task.shared_groups}.")
    if prepared.recipe.unequal_trials is not None:
        notes.append(f"Tuning effort is unequal on purpose: {prepared.recipe.unequal_trials}.")
    notes += [
        f"{strategy.name} was trained elsewhere: what it learnt from is unknown here, so whether it saw the test rows "
        "is unknown; what its training took is in no figure."
        for strategy in prepared.recipe.strategies
        if strategy.trained_elsewhere
    ]
    return notes
