"""Where scores come from: slices, other metrics, statuses, tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from toolkit.evaluation import UsageRow
from toolkit.report import figures
from toolkit.report.blocks import Block, Cell, Column, Paragraph, Row, Section, Subheading, Table, Tone
from toolkit.report.read import RunFiles

STATUSES = ("answered", "abstained", "unparsable", "error")
ENDINGS = ("stop", "length", "scored", "none")
SUSPECT = {"unparsable", "error", "length"}
ORIGINS: tuple[tuple[str, Callable[[UsageRow], int]], ...] = (
    ("question", lambda row: row.question),
    ("demonstrations", lambda row: row.demonstrations),
    ("passages", lambda row: row.passages),
    ("other", lambda row: row.other),
    ("prompt, all", lambda row: row.prompt_tokens),
    ("completion", lambda row: row.completion_tokens),
    ("model calls", lambda row: row.calls),
)


def breakdowns(run: RunFiles) -> Section:
    """What lies under the primary figure. None of it is in the corrected family."""
    quiet = "For understanding, not for deciding: nothing here was corrected for looking many times."
    blocks: list[Block] = [Paragraph(quiet, quiet=True)]
    slices = _slices(run)
    if slices is not None:
        blocks += [Subheading(f"{figures.plain(run.comparison['metric'])} by slice"), slices]
    blocks += [Subheading("All metrics, with 95 % intervals"), _metrics(run)]
    blocks += [Subheading("Outcomes and endings"), _outcomes(run)]
    blocks += [Subheading("Tokens by origin, per query"), _tokens(run)]
    return Section("breakdowns", "What lies under it", tuple(blocks))


def control_style(run: RunFiles, name: str, cells: Sequence[Cell]) -> Row:
    """A row, set apart where the strategy is a control."""
    return Row(tuple(cells), "control" if run.strategies[name]["control"] else "")


def _slices(run: RunFiles) -> Table | None:
    found = sorted({name for facts in run.strategies.values() for name in facts["slices"]})
    if not found:
        return None
    metric = run.comparison["metric"]
    columns = (Column("Slice", False), Column("n"), *(Column(name) for name in run.ranked))
    rows = []
    for name in found:
        cells = [facts["slices"].get(name) for facts in (run.strategies[strategy] for strategy in run.ranked)]
        sizes = [int(cell["n"]) for cell in cells if cell is not None]
        shown = [Cell(figures.amount(None if cell is None else cell["score"], metric)) for cell in cells]
        rows.append(Row((Cell(name), Cell(_sizes(sizes)), *shown)))
    return Table(columns, tuple(rows), "Means without intervals; a slice of few examples moves by chance.")


def _metrics(run: RunFiles) -> Table:
    primary = run.comparison["metric"]
    names = {name for facts in run.strategies.values() for name in facts["metrics"]}
    columns = (Column("Metric", False), Column("n"), *(Column(name) for name in run.ranked))
    rows = []
    for name in sorted(names, key=lambda name: (name != primary, name)):
        found = [run.strategies[strategy]["metrics"].get(name) for strategy in run.ranked]
        cells = [
            Cell(figures.NOTHING)
            if one is None
            else Cell(figures.amount(one["score"], name), figures.interval(tuple(one["interval"]), name))
            for one in found
        ]
        note = "primary" if name == primary else ""
        sizes = Cell(_sizes([int(one["n"]) for one in found if one is not None]))
        rows.append(Row((Cell(figures.plain(name), note), sizes, *cells)))
    return Table(columns, tuple(rows), "In points, but for counts of tokens. A dash: the metric does not apply.")


def _outcomes(run: RunFiles) -> Table:
    statuses = [name for name in STATUSES if name in STATUSES[:3] or _any(run, "statuses", name)]
    endings = [name for name in ENDINGS if _any(run, "terminations", name)]
    columns = (
        Column("Strategy", False),
        Column("outputs"),
        *(Column(name) for name in statuses),
        *(Column(f"ended: {name}") for name in endings),
    )
    rows = []
    for name in run.ranked:
        facts = run.strategies[name]
        total = sum(facts["statuses"].values())
        kinds = (("statuses", statuses), ("terminations", endings))
        cells = [_counted(facts[kind].get(one, 0), one, total) for kind, known in kinds for one in known]
        rows.append(control_style(run, name, [Cell(name), Cell(figures.count(total)), *cells]))
    caption = (
        "Over all seeds. Unparsable answers and errors score the metric's worst value; nothing is left out of a mean. "
        "Ended: stop (the model closed its turn), length (cut at the cap), scored (a likelihood), none (no model)."
    )
    return Table(columns, tuple(rows), caption)


def _counted(number: int, name: str, total: int) -> Cell:
    tone: Tone = "flag" if number and name in SUSPECT else ""
    return Cell(figures.count(number), figures.percent(number / total) if number and total else "", tone=tone)


def _tokens(run: RunFiles) -> Table:
    columns = (Column("Strategy", False), *(Column(name) for name, _ in ORIGINS), Column("tokens in this run"))
    rows = []
    for name in run.ranked:
        spent = [row for row in run.usage if row.strategy == name]
        whole = sum(row.prompt_tokens + row.completion_tokens for row in spent)
        means = [Cell(figures.mean(sum(map(read, spent)) / len(spent) if spent else None)) for _, read in ORIGINS]
        rows.append(control_style(run, name, [Cell(name), *means, Cell(figures.count(whole))]))
    return Table(columns, tuple(rows), "Means of an answer. Other: what the model's chat template writes.")


def _any(run: RunFiles, kind: str, name: str) -> bool:
    return any(facts[kind].get(name) for facts in run.strategies.values())


def _sizes(sizes: Sequence[int]) -> str:
    if not sizes:
        return figures.NOTHING
    return f"{sizes[0]:,}" if len(set(sizes)) == 1 else f"{min(sizes):,}–{max(sizes):,}"
