"""The cost ledger: what is paid once against what every query pays."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from toolkit.report import figures
from toolkit.report.blocks import Block, Bullets, Cell, Column, Facts, Paragraph, Section, Subheading, Table
from toolkit.report.breakdowns import control_style
from toolkit.report.read import RunFiles


def costs(run: RunFiles) -> Section:
    """Fixed and per-query costs, what merging would change, and where this run's seconds went."""
    if not run.ledger:
        return Section("costs", "Costs", (Paragraph("This run wrote no ledger: run the recipe to its end."),))
    blocks: list[Block] = [Subheading("Paid once"), _fixed(run), Subheading("Paid by every query"), _per_query(run)]
    answered = answered_by(run)
    if answered:
        blocks += [Subheading("Hosted models"), Bullets(tuple(answered))]
    crossings = break_evens(run)
    if crossings:
        blocks += [Subheading("Break-even"), Bullets(tuple(crossings))]
    merges = [said for name in run.ranked if (said := merge_sentence(run, name))]
    if merges:
        blocks += [Subheading("Merging"), Bullets(tuple(merges))]
    stages = [(name, figures.seconds(value)) for name, value in sorted(run.ledger.get("stages_seconds", {}).items())]
    peak = ("peak memory of a process", figures.size(run.ledger.get("peak_memory_bytes")))
    blocks += [Subheading("This run, by stage"), Facts((*stages, peak))]
    return Section("costs", "Costs", tuple(blocks))


def merge_sentence(run: RunFiles, name: str) -> str:
    """What merging a strategy's adapter into the weights would change; empty where nothing was tuned."""
    merge = run.strategies[name].get("merge")
    if not merge:
        return ""
    share, asked = figures.percent(merge["share"]), figures.counted(int(merge["examples"]), "answer")
    where = "the weights, dequantised," if merge.get("dequantised") else "the weights"
    return f"{name}: merging the adapter into {where} would change {share} of {asked} on validation."


def answered_by(run: RunFiles) -> list[str]:
    """Which hosted model answered each strategy's examples; nothing where all models are local."""
    lines = []
    for name in run.ranked:
        models = Counter(row.answered_by for row in run.usage if row.strategy == name and row.answered_by)
        if models:
            said = ", ".join(f"{model} {figures.counted(count, 'answer')}" for model, count in models.most_common())
            mixed = "; these are answers of different models" if len(models) > 1 else ""
            lines.append(f"{name}: {said}{mixed}.")
    return lines


def break_evens(run: RunFiles) -> list[str]:
    """Where one side of a contrast is dearer once and cheaper every time: from where on it pays."""
    lines = []
    for contrast in run.comparison["contrasts"]:
        for one, other in ((contrast["a"], contrast["b"]), (contrast["b"], contrast["a"])):
            paid, spent = _seconds(run, one), _seconds(run, other)
            if paid is None or spent is None or run.strategies[one]["control"] or run.strategies[other]["control"]:
                continue
            if paid[0] > spent[0] and paid[1] < spent[1]:
                queries = math.ceil((paid[0] - spent[0]) / (spent[1] - paid[1]))
                lines.append(
                    f"{one} has taken less time than {other} in all from about {queries:,} queries on "
                    f"({figures.seconds(paid[0] - spent[0])} more once, {figures.seconds(spent[1] - paid[1])} less a "
                    "query, on this machine)."
                )
    return list(dict.fromkeys(lines))


def _seconds(run: RunFiles, name: str) -> tuple[float, float] | None:
    found = run.costs(name)
    if not found or found["per_query"]["seconds"] is None or name in run.trained_elsewhere:
        return None
    return float(found["fixed"]["fit_seconds"]), float(found["per_query"]["seconds"])


def _fixed(run: RunFiles) -> Table:
    titles = ("fit", "trials", "adapter", "index", "chunks", "trained parameters", "training tokens")
    rows = []
    for name in run.ranked:
        fixed = run.costs(name).get("fixed", {})
        cells = [
            figures.seconds(None if name in run.trained_elsewhere else fixed.get("fit_seconds")),
            figures.count(fixed.get("trials")),
            figures.size(fixed.get("adapter_bytes")),
            figures.size(fixed.get("index_bytes")),
            *(figures.count(fixed.get(key)) for key in ("chunks", "trained_parameters", "training_tokens")),
        ]
        rows.append(control_style(run, name, [Cell(name, run.strategies[name]["label"]), *map(Cell, cells)]))
    caption = "Fit: seconds as first measured, a mean over seeds, also where a part came from the Store."
    return Table((Column("Strategy", False), *map(Column, titles)), tuple(rows), caption)


def _per_query(run: RunFiles) -> Table:
    titles = ["prompt tokens", "completion tokens", "model calls", "seconds in batches", "first answer", "p50", "p95"]
    prices = {name: _price_per_1000(run, name) for name in run.ranked}
    priced = any(price is not None for price in prices.values())
    rows = []
    for name in run.ranked:
        query = run.costs(name).get("per_query", {})
        latency = query.get("latency_seconds") or {}
        cells = [
            figures.mean(None if "prompt_tokens" not in query else sum(query["prompt_tokens"].values())),
            figures.mean(query.get("completion_tokens")),
            figures.mean(query.get("calls")),
            *(figures.seconds(value) for value in (query.get("seconds"), latency.get("first"))),
            *(figures.seconds(latency.get(key)) for key in ("p50", "p95")),
            *([figures.NOTHING if prices[name] is None else f"{prices[name]:,.2f}"] if priced else []),
        ]
        rows.append(control_style(run, name, [Cell(name, _how_timed(run, name, latency)), *map(Cell, cells)]))
    columns = (Column("Strategy", False), *map(Column, [*titles, *(["price of 1,000 (USD)"] if priced else [])]))
    caption = "p95 needs 20 one-by-one timings; controls are not timed."
    return Table(columns, tuple(rows), " ".join([caption, *_price_sources(run)] if priced else [caption]))


def _how_timed(run: RunFiles, name: str, latency: Mapping[str, Any]) -> str:
    if not latency:
        return "not timed one by one"
    if any(row.answered_by for row in run.usage if row.strategy == name):  # asking a server again would be paid twice
        return f"{latency['n']} timed as a server's answers came"
    return f"{latency['n']} timed one by one"


def _price_sources(run: RunFiles) -> list[str]:
    """What the dollars stand on: the file's days and sources."""
    models = run.manifest.get("models", {}).values()
    every = [price for model in models for price in model.get("prices", {}).values()]
    return [f"Prices of {day}: {source}." for day, source in sorted({(one["date"], one["source"]) for one in every})]


def _price_per_1000(run: RunFiles, name: str) -> float | None:
    """A mean over the answers whose price is known; an answer that no hosted model gave is free."""
    rows = [row for row in run.usage if row.strategy == name]
    prices = [row.price for row in rows if row.price is not None]
    known = len(prices) + sum(row.price is None and not row.answered_by for row in rows)
    return 1000 * math.fsum(prices) / known if prices else None
