"""Flips: the examples on which the two sides of a contrast differ, to be read by a person."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from toolkit.report import figures
from toolkit.report.blocks import Block, Cell, Column, Details, Paragraph, Row, Section, Subheading, Table
from toolkit.report.read import Record, RunFiles

SHOWN = 6
LONGEST_TEXT = 500
RECALL = "recall_at_k"

Values = Mapping[str, float]


@dataclass(frozen=True)
class Flips:
    """Example ids, the widest gap first, then by id: the same ones every time."""

    a_higher: tuple[str, ...]
    b_higher: tuple[str, ...]


def flips(run: RunFiles) -> Section:
    """For each contrast some examples that each side gets more right than the other."""
    readers = Readers(run)
    blocks: list[Block] = []
    for contrast in run.comparison["contrasts"]:
        if contrast["refused"] is None:
            blocks += _of_contrast(contrast, readers)
    if not blocks:
        return Section("flips", "Examples that flip", (Paragraph("There is no contrast to show examples of."),))
    intro = (
        f"Up to {SHOWN} examples each way, the widest gaps first. Questions are not kept in a run folder: the command "
        "under an example's name, given beside this folder, shows it whole. Repeats over seeds are averaged; the "
        "answer is the first seed's."
    )
    return Section("flips", "Examples that flip", (Paragraph(intro, quiet=True), *blocks))


def found_flips(a: Values, b: Values) -> Flips:
    """Of two strategies' values by example."""
    gaps = {name: a[name] - b[name] for name in a if name in b}
    higher = sorted((name for name, gap in gaps.items() if gap > 0), key=lambda name: (-gaps[name], name))
    lower = sorted((name for name, gap in gaps.items() if gap < 0), key=lambda name: (gaps[name], name))
    return Flips(tuple(higher), tuple(lower))


class Readers:
    """Values and outputs by strategy, each read once."""

    def __init__(self, run: RunFiles) -> None:
        self._run = run
        self._outputs: dict[str, dict[str, Record]] = {}
        sums: dict[tuple[str, str], dict[str, list[float]]] = {}
        for row in run.scores:
            sums.setdefault((row.strategy, row.metric), {}).setdefault(row.example_id, []).append(row.value)
        self._values = {
            key: {name: sum(found) / len(found) for name, found in by_example.items()}
            for key, by_example in sums.items()
        }

    def values(self, strategy: str, metric: str) -> Values:
        return self._values.get((strategy, metric), {})

    def output(self, strategy: str, example: str) -> Record:
        """The first seed's; empty where it is not there."""
        if strategy not in self._outputs:
            seeds: Sequence[int | None] = self._run.strategies[strategy]["seeds"]
            self._outputs[strategy] = self._run.outputs(strategy, seeds[0])
        return self._outputs[strategy].get(example, {})

    def command(self, example: str) -> str:
        return f"toolkit inspect {shlex.quote(self._run.name)} --example {shlex.quote(example)}"


def _of_contrast(contrast: Record, readers: Readers) -> list[Block]:
    a, b, metric = contrast["a"], contrast["b"], contrast["metric"]
    found = found_flips(readers.values(a, metric), readers.values(b, metric))
    blocks: list[Block] = [Subheading(f"{a} against {b}")]
    for better, worse, names in ((a, b, found.a_higher), (b, a, found.b_higher)):
        if not names:
            blocks.append(Paragraph(f"There is no example on which {better} scores more than {worse}."))
            continue
        shown = f", {SHOWN} shown" if len(names) > SHOWN else ""
        summary = f"{better} right, {worse} wrong or less right: {figures.counted(len(names), 'example')}{shown}"
        inner: list[Block] = [Paragraph(said) for said in _attribution(worse, names, readers)]
        inner.append(_table(better, worse, names[:SHOWN], metric, readers))
        blocks.append(Details(summary, tuple(inner)))
    return blocks


def _attribution(loser: str, names: Sequence[str], readers: Readers) -> list[str]:
    """How many of a retrieving strategy's losses had no gold passage to read."""
    recall = readers.values(loser, RECALL)
    asked = [name for name in names if name in recall]
    if not asked:
        return []
    missed = sum(recall[name] == 0.0 for name in asked)
    return [f"Of the {len(asked)} with a gold passage, {loser} had not retrieved it in {missed}."]


def _table(better: str, worse: str, names: Sequence[str], metric: str, readers: Readers) -> Table:
    columns = (Column("Example", False), Column(better, False), Column(worse, False))
    rows = [
        Row(
            (
                Cell(name, code=readers.command(name)),
                *(_answer(strategy, name, metric, readers) for strategy in (better, worse)),
            )
        )
        for name in names
    ]
    return Table(columns, tuple(rows), texts=True)


def _answer(strategy: str, example: str, metric: str, readers: Readers) -> Cell:
    output = readers.output(strategy, example)
    notes = [f"{figures.plain(metric)} {figures.amount(readers.values(strategy, metric).get(example), metric)}"]
    if output.get("status") not in (None, "answered"):
        notes.append(str(output["status"]))
    if output.get("termination") == "length":
        notes.append("cut at the cap")
    recall = readers.values(strategy, RECALL).get(example)
    if recall is not None:
        notes.append(_retrieval(recall))
    return Cell(_said(output), "; ".join(notes))


def _retrieval(recall: float) -> str:
    if recall == 0.0:
        return "gold passage not retrieved"
    return "gold passage retrieved" if recall == 1.0 else f"gold passage retrieved in part ({figures.percent(recall)})"


def _said(output: Record) -> str:
    if not output:
        return "(no output on file)"
    text = str(output.get("text") or output.get("error") or "")
    if not text and output.get("answer") is not None:
        answer = output["answer"]
        text = answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False, sort_keys=True)
    text = text.strip()
    if len(text) > LONGEST_TEXT:
        return text[:LONGEST_TEXT] + "…"
    return text or "(empty)"
