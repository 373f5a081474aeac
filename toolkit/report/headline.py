"""The headline: the plain answer, from direct contrasts only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from toolkit.report import figures
from toolkit.report.blocks import Headline
from toolkit.report.figures import listed
from toolkit.report.read import Record, RunFiles, ranked
from toolkit.report.sides import Side, between


@dataclass(frozen=True)
class Standing:
    """How the best-scoring candidate stands to the others, by direct contrast only (none follows from two others)."""

    best: str
    beaten: tuple[Side, ...]
    equivalent: tuple[Side, ...]
    unresolved: tuple[Side, ...]
    refused: tuple[Side, ...]
    untested: tuple[str, ...]
    next_best: str | None


def headline(run: RunFiles) -> Headline:
    """The answer with what bears on it."""
    comparison = run.comparison
    answer, support = _answer(comparison)
    found = standing(comparison)
    if found is not None and not comparison["smoke"]:
        support = (*support, *_costs(run, found))
    banner = "SMOKE RUN: a sample of the test set, to see that things work. No verdict." if comparison["smoke"] else ""
    return Headline(answer, support, _facts(run), banner)


def standing(comparison: Record) -> Standing | None:
    """None where every strategy is a control."""
    candidates = [name for name in ranked(comparison) if not comparison["strategies"][name]["control"]]
    if not candidates:
        return None
    best, *others = candidates
    sides = [(name, between(comparison, best, name)) for name in others]
    tested = [side for _, side in sides if side is not None]
    return Standing(
        best,
        tuple(side for side in tested if side.word == "BETTER"),
        tuple(side for side in tested if side.word == "EQUIVALENT"),
        tuple(side for side in tested if side.word not in ("BETTER", "EQUIVALENT", None)),
        tuple(side for side in tested if side.word is None),
        tuple(name for name, side in sides if side is None),
        others[0] if others else None,
    )


def _answer(comparison: Record) -> tuple[str, tuple[str, ...]]:
    found = standing(comparison)
    metric = comparison["metric"]
    if comparison["smoke"]:
        how = "Run the recipe without `limit`, on the whole test set, for an answer."
        return f"No verdict: a smoke run on {figures.counted(comparison['n'], 'example')}.", (how,)
    if found is None:
        return "No answer: only controls were run, and a control is never a candidate.", ()
    facts = comparison["strategies"][found.best]
    score = f"{figures.amount(facts['score'], metric)} {figures.unit(metric)}"
    tested = (*found.beaten, *found.equivalent, *found.unresolved)
    support = _support(found, metric)
    if not tested and not found.refused and not found.untested:
        spread = figures.interval(tuple(facts["interval"]), metric)
        return f"{found.best} scores {score} {spread}; it is the only candidate, so nothing is compared.", support
    sides = {"not resolved from": found.unresolved, "equivalent to": found.equivalent}
    open_ends = [f"{how} {listed([side.against for side in some])}" for how, some in sides.items() if some]
    if open_ends:
        return f"No single winner: {found.best} scores highest, but {' and '.join(open_ends)}.", support
    if not found.beaten:
        return f"No answer yet: {found.best} scores highest ({score}), but nothing was tested against it.", support
    return _said_of_winner(found, metric), support


def _said_of_winner(found: Standing, metric: str) -> str:
    """It wins where it beats the next best directly, and whoever it was not tested against scores lower still."""
    nearest = found.beaten[0]
    gain = f"{figures.amount(nearest.difference, metric, signed=True)} {figures.unit(metric)}"
    said = f"{gain} over {nearest.against} {figures.interval(nearest.interval, metric)}"
    if nearest.against == found.next_best and not found.refused:
        return f"{found.best} wins: {said}."
    missing = listed([*(side.against for side in found.refused), *found.untested])
    return f"{found.best} leads: {said}; not tested against {missing}."


def _support(found: Standing, metric: str) -> tuple[str, ...]:
    lines = []
    if len(found.beaten) > 1 or (found.beaten and (found.unresolved or found.equivalent)):
        beaten = [f"{side.against} ({figures.amount(side.difference, metric, signed=True)})" for side in found.beaten]
        lines.append(f"{found.best} beats {listed(beaten)}.")
    for side in found.unresolved:
        gap, spread = figures.amount(side.difference, metric, signed=True), figures.interval(side.interval, metric)
        least = f"where this test set resolves {figures.at_least(side.resolvable, metric)}"
        if side.resolvable is None and side.difference == 0 and tuple(side.interval) == (0, 0):
            least = "as the two never differed"
        lines.append(f"Not resolved from {side.against}: gap {gap} {spread}, {least}.")
    for side in found.equivalent:
        spread = figures.interval(side.interval, metric)
        lines.append(f"Equivalent to {side.against} within the margin (difference {spread}): take the cheaper.")
    if found.untested:
        pairs = ", ".join(f"{{a: {found.best}, b: {name}}}" for name in found.untested)
        lower = ", lower in score still" if found.beaten and found.beaten[0].against == found.next_best else ""
        lines.append(f"No contrast tests it against {listed(found.untested)}{lower}: add `contrasts: [{pairs}]`.")
    lines += [f"The contrast with {side.against} was refused: {side.refused}" for side in found.refused]
    return tuple(lines)


def _costs(run: RunFiles, found: Standing) -> list[str]:
    """What the best one takes for a query, beside the next candidate or the baseline."""
    others = [name for name in run.ranked if name != found.best and not run.strategies[name]["control"]]
    baseline = run.comparison.get("baseline")
    beside = list(dict.fromkeys([*others[:1], *([baseline] if baseline in others else [])]))
    own, rest = _per_query(run, found.best), [(name, _per_query(run, name)) for name in beside]
    if own is None:
        return []
    against = listed([f"{cost} for {name}" for name, cost in rest if cost is not None])
    return [f"A query takes {found.best} {own}{', against ' + against if against else ''}."]


def _per_query(run: RunFiles, name: str) -> str | None:
    query = run.costs(name).get("per_query")
    if not query:
        return None
    tokens = sum(query["prompt_tokens"].values()) + query["completion_tokens"]
    return f"{tokens:,.0f} tokens and {figures.seconds(query['seconds'])}"


def _facts(run: RunFiles) -> tuple[tuple[str, str], ...]:
    comparison = run.comparison
    facts = list(run.strategies.values())
    sheets = [shown["factors"] for shown in run.manifest.get("strategies", {}).values() if "factors" in shown]
    seeds = comparison.get("seeds", [])
    return (
        ("Claim", str(comparison.get("claim", ""))),
        ("Metric", f"{figures.plain(comparison['metric'])}, in points with 95 % intervals"),
        ("Test examples", _range([int(item["n"]) for item in facts])),
        ("Clusters", _range([int(item["clusters"]) for item in facts])),
        ("Model", _distinct([str(sheet["model"]) for sheet in sheets])),
        ("Computed in", _distinct([str(sheet["dtype"]) for sheet in sheets])),
        ("Seeds", ", ".join(str(seed) for seed in seeds) or "none"),
        ("Test set scored by", figures.counted(int(comparison.get("test_scorings", 1)), "recipe")),
    )


def _range(values: Sequence[int]) -> str:
    if not values:
        return "0"
    return f"{min(values):,}" if len(set(values)) == 1 else f"{min(values):,} to {max(values):,}"


def _distinct(values: Sequence[str]) -> str:
    return ", ".join(sorted(set(values))) or "unknown"
