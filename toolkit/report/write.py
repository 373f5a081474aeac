"""From a run folder to report.html and report.md."""

from __future__ import annotations

from pathlib import Path

from toolkit.report.blocks import Page
from toolkit.report.breakdowns import breakdowns
from toolkit.report.costs import costs
from toolkit.report.facts import fairness, provenance
from toolkit.report.flips import flips
from toolkit.report.headline import headline
from toolkit.report.how_trained import how_trained
from toolkit.report.html import as_html
from toolkit.report.limits import limits
from toolkit.report.markdown import as_markdown
from toolkit.report.read import RunFiles, read_run
from toolkit.report.results import contrasts, results
from toolkit.store import write_atomically


def write_report(root: Path) -> None:
    """Writes `report.html` and `report.md` into a run folder. The same folder gives the same bytes.

    Raises:
        DataError: a file of the run is missing or is not what it should be.
        RunError: the folder cannot be written.
    """
    page = page_of(read_run(root))
    write_atomically(root / "report.html", as_html(page).encode())
    write_atomically(root / "report.md", as_markdown(page).encode())


def page_of(run: RunFiles) -> Page:
    """What both files say: the answer, how sure, why, at what cost, how far it holds."""
    comparison = run.comparison
    makers = (results, contrasts, breakdowns, how_trained, costs, flips, fairness, limits, provenance)
    return Page(
        title=str(comparison.get("recipe", run.name)),
        subtitle=f"task {comparison.get('task', 'unknown')}, recipe {str(comparison.get('recipe_digest', ''))[:12]}",
        description=str(comparison.get("description") or ""),
        headline=headline(run),
        sections=tuple(section for make in makers if (section := make(run)) is not None),
    )
