"""Limits: what this run cannot say, made from what was not run."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

from toolkit.report import figures
from toolkit.report.blocks import Bullets, Section
from toolkit.report.figures import listed
from toolkit.report.read import RunFiles
from toolkit.report.sides import between

FEW_CLUSTERS = 40
SMOKE_EXAMPLES, FEW_EXAMPLES = 100, 300
PERCENTILES_FROM = 20


def limits(run: RunFiles) -> Section:
    """One line for everything that was not run, not declared, or too small to say."""
    lines = [*_of_design(run), *_of_sample(run), *_of_costs(run)]
    return Section("limits", "What this run cannot say", (Bullets(tuple(lines)),))


def _of_design(run: RunFiles) -> Iterator[str]:
    comparison = run.comparison
    if comparison["smoke"]:
        yield "It is a smoke run on a sample: its figures show that things work, and no verdict is given."
    if elsewhere := run.trained_elsewhere:
        were, they, their = ("was", "it", "its") if len(elsewhere) == 1 else ("were", "they", "their")
        yield (
            f"{listed(elsewhere)} {were} trained elsewhere: what {they} learnt from is unknown here, so whether {they} "
            f"saw the test rows is unknown; if {they} did, {their} score says nothing of new ones."
        )
    seeded = [name for name in run.ranked if any(seed is not None for seed in run.strategies[name]["seeds"])]
    if seeded and len(comparison.get("seeds", [])) == 1:
        yield (
            f"One seed: the claim is about these artefacts only. Another seed may give another {listed(seeded)}; "
            "`seeds: [0, 1, 2]` would show how much."
        )
    elif seeded:
        yield "The spread between seeds is not in the intervals: they speak of the mean of these fitted systems."
    contrasts = comparison["contrasts"]
    if contrasts and all(contrast["margin"] is None for contrast in contrasts):
        yield "No contrast declares a margin, so none can be EQUIVALENT: UNRESOLVED does not mean equal."
    if not comparison.get("baseline"):
        yield "There is no baseline: the table has no differences to one."
    candidates = [name for name in run.ranked if not run.strategies[name]["control"]]
    pairs = list(combinations(candidates, 2))
    untested = [pair for pair in pairs if between(comparison, *pair) is None]
    if untested:
        first = listed([f"{a} – {b}" for a, b in untested[:4]])
        more = " among them" if len(untested) > 4 else ""
        yield f"{len(untested)} of {len(pairs)} pairs of candidates were not tested against each other:{more} {first}."
    refused = [
        f"{one['a']} – {one['b']} on {figures.plain(one['metric'])}" for one in contrasts if one["refused"] is not None
    ]
    if refused:
        yield f"Refused, and so without a verdict: {listed(refused)}."
    scorings = int(comparison.get("test_scorings", 1))
    if scorings > 1:
        yield (
            f"The test set has been scored by {scorings} recipes here. Choosing among recipes by test scores makes the "
            "chosen one look better than it is."
        )


def _of_sample(run: RunFiles) -> Iterator[str]:
    facts = [*run.strategies.values(), *(one for one in run.comparison["contrasts"] if one["refused"] is None)]
    few = sorted({int(one["clusters"]) for one in facts if one["clusters"] < min(FEW_CLUSTERS, one["n"])})
    if few:
        yield (
            f"Few clusters ({few[0]} of the {FEW_CLUSTERS} an interval wants): intervals are rough; "
            "rely on the p-value, and add sources rather than questions."
        )
    n = int(run.comparison["n"])
    if n < SMOKE_EXAMPLES:
        yield f"{figures.counted(n, 'test example')}: enough to see large differences only; below 100 is a pilot."
    elif n < FEW_EXAMPLES:
        yield f"{n} test examples: the differences that can be found are large; see the column Resolves."
    models = sorted(run.manifest.get("models", {}))
    task = run.manifest.get("task", {}).get("name", run.comparison.get("task"))
    which = f"model{'s' if len(models) > 1 else ''} {listed(models) or 'unknown'}"
    yield f"One task ({task}) and the {which}: nothing here speaks of others."
    yield "Slices and other metrics are for understanding: they are not in the corrected family of contrasts."


def _of_costs(run: RunFiles) -> Iterator[str]:
    if not run.ledger:
        yield "No ledger: the run did not come to its end, and costs are unknown."
        return
    candidates = [name for name in run.ranked if not run.strategies[name]["control"]]
    timings = {name: (run.costs(name).get("per_query", {}).get("latency_seconds") or {}) for name in candidates}
    short = [name for name, timing in timings.items() if 0 < timing.get("n", 0) < PERCENTILES_FROM]
    if short:
        most = max(timings[name]["n"] for name in short)
        yield f"Timed on {most} examples: p95 needs {PERCENTILES_FROM} (`timing.examples`)."
    if untimed := [name for name, timing in timings.items() if not timing]:
        yield f"Not timed one by one: {listed(untimed)}."
    if unknown := [name for name in candidates if not run.costs(name)]:
        yield f"Without an entry in the ledger: {listed(unknown)}."
    if elsewhere := run.trained_elsewhere:
        yield f"What the training of {listed(elsewhere)} took is unknown: it is in no figure of costs."
    if all(row.price is None for row in run.usage):
        yield "Costs are in seconds, bytes and tokens of this machine; no prices were known."
