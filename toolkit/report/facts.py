"""Fairness and provenance: what was held equal, and what the run was made of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from toolkit.report import figures
from toolkit.report.blocks import Block, Bullets, Cell, Column, Facts, Paragraph, Row, Section, Subheading, Table
from toolkit.report.read import RunFiles

NOT_VERSIONS = ("dtype", "batch_tokens", "chunk_examples", "device", "threads", "path")
EXACT_INDEXES = ("flat", "exact")


def fairness(run: RunFiles) -> Section:
    """The factor sheet, tuning effort, notes, shared groups and what retrieval searched with."""
    strategies = run.manifest.get("strategies", {})
    sheets = {name: facts["factors"] for name, facts in strategies.items() if facts.get("factors")}
    names = list(dict.fromkeys(factor for sheet in sheets.values() for factor in sheet))
    by_factor = {factor: [str(sheet.get(factor)) for sheet in sheets.values()] for factor in names}
    equal = tuple((plain_factor(factor), found[0]) for factor, found in by_factor.items() if len(set(found)) == 1)
    varied = [factor for factor, found in by_factor.items() if len(set(found)) > 1]
    blocks: list[Block] = [Subheading("Equal for every strategy"), Facts(equal)] if equal else []
    if varied:
        columns = (Column("Strategy", False), *(Column(plain_factor(factor), False) for factor in varied))
        rows = tuple(
            Row((Cell(name), *(Cell(str(sheets[name].get(factor)), tone="flag") for factor in varied)))
            for name in sorted(sheets)
        )
        said = "A contrast across these must declare what it varies, and compares systems, not adaptation."
        blocks += [Subheading("Not equal"), Table(columns, rows, said)]
    blocks += [Subheading("Tuning effort and parts"), _parts(run, strategies)]
    blocks += [Subheading("Notes"), Bullets(tuple(_notes(run)))]
    return Section("fairness", "Was it fair?", tuple(blocks))


def plain_factor(name: str) -> str:
    return {"answer_by": "answered by"}.get(name, name)


def retrieval_of(adapters: list[Mapping[str, Any]], has_index: bool) -> str:
    """`exact`, or what an approximate index says of itself; a dash where nothing was retrieved."""
    if not has_index:
        return figures.NOTHING
    for adapter in adapters:
        for settings in adapter.values():
            index = settings.get("index")
            if index is not None and index not in EXACT_INDEXES:
                return f"approximate ({index})"
    return "exact"


def _parts(run: RunFiles, strategies: Mapping[str, Any]) -> Table:
    columns = (
        Column("Strategy", False),
        Column("trials on validation"),
        Column("seeds"),
        Column("retrieval", False),
        Column("parts in order", False),
    )
    rows = []
    for name in run.ranked:
        facts, adapters = run.strategies[name], strategies.get(name, {}).get("adapters", [])
        has_index = run.costs(name).get("fixed", {}).get("index_bytes") is not None
        seeds = ", ".join("no seed" if seed is None else str(seed) for seed in facts["seeds"])
        cells = (
            Cell(name, "control" if facts["control"] else ""),
            Cell(figures.count(facts["trials"])),
            Cell(seeds),
            Cell(retrieval_of(adapters, has_index)),
            Cell("; ".join(_adapter(adapter) for adapter in adapters) or "none"),
        )
        rows.append(Row(cells, "control" if facts["control"] else ""))
    return Table(columns, tuple(rows))


def _adapter(adapter: Mapping[str, Any]) -> str:
    return " + ".join(f"{kind} ({_settings(settings)})" if settings else kind for kind, settings in adapter.items())


def _settings(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {_value(value)}" for key, value in sorted(settings.items()) if value is not None)


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)


def _notes(run: RunFiles) -> list[str]:
    shared = run.manifest.get("task", {}).get("shared_groups")
    notes = [str(note) for note in run.comparison.get("notes", [])]
    if shared is None:
        notes.append("Splits share no example and no group.")
    elif not any(str(shared) in note for note in notes):
        notes.append(f"Groups are shared between splits: {shared}.")
    return notes


def provenance(run: RunFiles) -> Section:
    """Digests, versions and hardware: enough to make the run again."""
    manifest, task = run.manifest, run.manifest.get("task", {})
    environment, hardware = manifest.get("environment", {}), manifest.get("hardware", {})
    recipe = manifest.get("recipe", {})
    sizes = ", ".join(f"{split} {figures.count(size)}" for split, size in sorted(task.get("sizes", {}).items()))
    models = [(f"model {name}", facts["digest"]) for name, facts in sorted(manifest.get("models", {}).items())]
    content = [
        ("recipe", f"{recipe.get('name')} ({recipe.get('path')})"),
        ("recipe digest", recipe.get("digest")),
        ("task", f"{task.get('name')} ({task.get('kind')}; {sizes}; scored {figures.count(task.get('scored'))})"),
        ("task digest", task.get("digest")),
        ("test split digest", task.get("test_digest")),
        *models,
        ("embedder", manifest.get("embedder") or "none"),
        ("instruction", task.get("instruction")),
    ]
    versions = [("toolkit", manifest.get("toolkit"))]
    versions += [(name, value) for name, value in sorted(environment.items()) if name not in NOT_VERSIONS]
    computed = [(name.replace("_", " "), environment[name]) for name in NOT_VERSIONS if name in environment]
    computed += [(f"why this dtype ({name})", reason) for name, reason in sorted(run.dtype_reasons.items())]
    machine = [(name.replace("_", " "), value) for name, value in sorted(hardware.items())]
    blocks: list[Block] = [Paragraph("The run folder holds the tables this page was made from.", quiet=True)]
    for title, items in (("Content", content), ("Versions", versions), ("Computed", computed), ("Machine", machine)):
        blocks += [Subheading(title), Facts(tuple((name, _shown(name, value)) for name, value in items))]
    return Section("provenance", "Provenance", tuple(blocks))


def _shown(name: str, value: Any) -> str:
    if name.endswith("bytes") and isinstance(value, int):
        return figures.size(value)
    if isinstance(value, list):
        return ", ".join(str(item) for item in value) or "none"
    return figures.NOTHING if value is None or value == "" else str(value)
