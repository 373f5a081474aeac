"""`toolkit report`: a run's report, made again from its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from toolkit.errors import RunError


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a finished run.", show_default=False)],
) -> None:
    """Write report.html and report.md of a finished run again.

    Only the files of the run folder are read: no model is loaded and nothing is computed anew.

    \b
    Example:
      toolkit report runs/quickstart-1a2b3c4d
    """
    if not (run / "comparison.json").is_file():
        raise RunError(
            f"{run} holds no finished run: `comparison.json` is missing; run the recipe again to go on where it stood"
        )
    from toolkit.report import write_report

    write_report(run)
    typer.echo(str(run / "report.html"))
