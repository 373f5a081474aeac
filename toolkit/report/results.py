"""The sections that answer: verdict table, charts, and each contrast with what would flip it."""

from __future__ import annotations

from typing import cast

from toolkit.report import charts, figures
from toolkit.report.blocks import Block, Card, Cell, Chart, Column, Paragraph, Row, Section, Table, Tone
from toolkit.report.charts import Mark
from toolkit.report.figures import Bounds
from toolkit.report.read import Record, RunFiles
from toolkit.report.sides import verdict
from toolkit.report.table import VerdictRow, as_texts, headings, verdict_table

TEXT_COLUMNS = {"Strategy", "Verdict"}
WORDS = {"BETTER", "WORSE", "EQUIVALENT", "UNRESOLVED", "SMOKE", "refused"}


def results(run: RunFiles) -> Section:
    """The verdict table and the two charts."""
    rows = verdict_table(run.comparison, run.ledger)
    metric, smoke = run.comparison["metric"], run.comparison["smoke"]
    columns = tuple(Column(title, title not in TEXT_COLUMNS) for title in headings(run.comparison))
    caption = (
        f"Scores and differences in {figures.unit(metric)}. Resolves: the smallest difference this test set finds with "
        "80 % power. p: corrected over all contrasts (Holm). Per query: prompt and completion tokens, and seconds "
        "answered in batches; latency: answered one by one, or by a server as answers came (median, 95th percentile). "
        "Controls are no candidates and have no rank."
    )
    blocks: list[Block] = [
        Table(columns, tuple(_row(row, place == 0 and not smoke) for place, row in enumerate(rows)), caption)
    ]
    if run.comparison["contrasts"]:
        blocks.append(_differences(run))
    blocks.append(_scores(rows, metric))
    return Section("results", "Verdicts", tuple(blocks))


def contrasts(run: RunFiles) -> Section:
    """Every declared contrast as a sentence, what would flip it, and what it rests on."""
    found = run.comparison["contrasts"]
    if not found:
        return Section("contrasts", "Contrasts", (Paragraph("No contrast was declared: nothing is compared."),))
    said = Paragraph(f"{figures.counted(len(found), 'contrast')}, corrected together as one family.", quiet=True)
    return Section("contrasts", "Contrasts", (said, *(_card(contrast) for contrast in found)))


def tone_of(word: str) -> Tone:
    """Verdicts are badges; any other word is quiet."""
    return cast(Tone, word) if word in WORDS else "quiet"


def _row(row: VerdictRow, first: bool) -> Row:
    cells = [Cell(text, note) for text, note in as_texts(row)]
    cells[4] = Cell(row.word, tone=tone_of(row.word))
    return Row(tuple(cells), "control" if row.control else "first" if first else "")


def _card(contrast: Record) -> Card:
    word = verdict(contrast)
    if contrast["refused"] is not None:
        return Card("refused", "refused", contrast["sentence"], (("Reason", contrast["refused"]), *_declared(contrast)))
    metric = contrast["metric"]
    spread = figures.interval(tuple(contrast["interval"]), metric)
    difference = f"{figures.amount(contrast['difference'], metric, signed=True)} {figures.unit(metric)} {spread}"
    lines = [("What would flip it", contrast["flips_when"]), ("Difference", difference)]
    if contrast["wins"] is not None:
        won = f"{contrast['wins']:,} wins, {contrast['losses']:,} losses, {contrast['ties']:,} ties"
        lines.append(("Example by example", won))
    effect = contrast["design_effect"]
    lines += [
        ("Examples", f"{contrast['n']:,} in {figures.counted(contrast['clusters'], 'cluster')}"),
        ("Design effect", figures.NOTHING if effect is None else f"{effect:.2f}"),
        ("p (Holm; alone)", f"{figures.p_value(contrast['p_holm'])}; {figures.p_value(contrast['p_value'])}"),
        ("Resolves", figures.at_least(contrast["resolvable_difference"], metric)),
        ("Interval", contrast["method"]),
        ("Test", contrast["test"]),
    ]
    return Card(word, tone_of(word), contrast["sentence"], (*lines, *_declared(contrast)))


def _declared(contrast: Record) -> list[tuple[str, str]]:
    lines = []
    if contrast["margin"] is not None:
        lines.append(("Margin", figures.amount(contrast["margin"], contrast["metric"])))
    if contrast["varies"]:
        lines.append(("Also varies", f"{', '.join(contrast['varies'])}: a comparison of systems, not of adaptation"))
    return lines


def _differences(run: RunFiles) -> Chart:
    """Contrasts on shares only: other units have no place on the same axis."""
    primary = run.comparison["metric"]
    marks = []
    for contrast in run.comparison["contrasts"]:
        metric, word = contrast["metric"], verdict(contrast)
        if figures.in_points(metric) != figures.in_points(primary):
            continue
        also = "" if metric == primary else f" ({figures.plain(metric)})"
        said = f"{figures.amount(contrast['difference'], metric, signed=True)} "
        said += figures.interval(tuple(contrast["interval"]), metric)
        marks.append(
            Mark(
                f"{contrast['a']} − {contrast['b']}{also}",
                _scaled(contrast["difference"], metric),
                _scaled_bounds(tuple(contrast["interval"]), metric),
                word,
                "" if contrast["refused"] is not None else said,
                word,
            )
        )
    title = "Differences with 95 % intervals"
    axis = f"difference in {figures.unit(primary)}; right of zero: the first one scores more"
    caption = (
        "Shape, colour and word give the same verdict. An interval that touches the zero line decides nothing; one "
        "that does not is still UNRESOLVED where its p-value does not stand the correction for all contrasts together."
    )
    return Chart(title, charts.forest(marks, axis, title), charts.in_characters(marks, zero=True), caption)


def _scores(rows: list[VerdictRow], metric: str) -> Chart:
    marks = [
        Mark(
            f"{row.strategy} (control)" if row.control else row.strategy,
            _scaled(row.score, metric),
            _scaled_bounds(row.interval, metric),
            "control" if row.control else "candidate",
            f"{figures.amount(row.score, metric)} {figures.interval(row.interval, metric)}",
        )
        for row in rows
    ]
    title = "Scores with 95 % intervals"
    caption = (
        "Whether two of these intervals overlap is no test: all strategies answered the same examples, which the "
        "differences use and these intervals do not."
    )
    svg = charts.scores(marks, figures.unit(metric), title)
    return Chart(title, svg, charts.in_characters(marks, zero=False), caption)


def _scaled(value: float | None, metric: str) -> float | None:
    return 100 * value if value is not None and figures.in_points(metric) else value


def _scaled_bounds(bounds: Bounds, metric: str) -> Bounds:
    return (_scaled(bounds[0], metric), _scaled(bounds[1], metric))
