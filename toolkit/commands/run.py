"""`toolkit run`: a recipe from its strategies to verdicts and a report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from toolkit.recipe import Recipe
    from toolkit.runs.run import RunResult


def run(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="A recipe's file, or the name of a shipped one.", show_default=False)
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Changes to the recipe by dotted path.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The run's folder; runs/<recipe>-<digest> if absent.", show_default=False),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(metavar="N", help="Only N test examples, a seeded sample: a smoke run, without verdicts."),
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Compute everything anew; ignore earlier results.")] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Move another recipe's run in DIR aside, and still use its results.")
    ] = False,
    track: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TRACKER",
            help="Also send trainings to tensorboard or mlflow; give it twice for both.",
            show_default=False,
        ),
    ] = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="No progress; only the result, and trackers that failed.")
    ] = False,
) -> None:
    """Run a recipe and compare its strategies.

    Every strategy is fitted and answers the test set; then come the comparison, its verdicts and a report. Progress
    goes to standard error, the result to standard output. A run that was stopped goes on when the same command is
    given again.

    \b
    Examples:
      toolkit run quickstart
      toolkit run recipes/handbook.yaml "seeds=[0,1,2]" --out runs/three-seeds
      toolkit run my-recipe.yaml strategies.rag.retrieve.top_k=5 model=smollm2-135m-instruct
      toolkit run my-recipe.yaml --limit 8
      toolkit run my-recipe.yaml --track tensorboard
      torchrun --nproc-per-node 2 -m toolkit run my-recipe.yaml      trains on two devices
    """
    from toolkit.tuning.parallel.helpers import helpers
    from toolkit.tuning.parallel.launch import start_processes
    from toolkit.tuning.parallel.workers import serve

    processes = start_processes()
    if not processes.is_main:
        raise typer.Exit(serve(processes))
    given = [*(overrides or []), *([f"limit={limit}"] if limit is not None else [])]
    with helpers(processes):
        _run_and_show(recipe, given, out, fresh, replace, quiet, track or [])


def _run_and_show(
    recipe: str, overrides: list[str], out: Path | None, fresh: bool, replace: bool, quiet: bool, track: list[str]
) -> None:
    from toolkit.recipe import load_recipe
    from toolkit.tuning.parallel.launch import started_alone

    if notice := started_alone():
        typer.echo(f"note: {notice}", err=True)
    loaded = load_recipe(recipe, overrides)
    result = _with_progress(loaded, out, fresh, replace, quiet, track)
    from toolkit.commands.verdicts import result_lines
    from toolkit.terminal import colours, width

    for line in result_lines(result.comparison, result.ledger, width(), colours()):
        typer.echo(line)
    typer.echo(f"report: {result.folder / 'report.html'}")
    typer.echo(f"run:    {result.folder}")


def _with_progress(
    recipe: Recipe, out: Path | None, fresh: bool, replace: bool, quiet: bool, trackers: Sequence[str]
) -> RunResult:
    from toolkit.console import listening
    from toolkit.runs.prepare import seeds_of
    from toolkit.runs.run import run as run_recipe

    fits = sum(len(seeds_of(strategy, recipe)) for strategy in recipe.strategies)
    if not quiet:
        typer.echo(f"{recipe.name}: {', '.join(strategy.name for strategy in recipe.strategies)}", err=True)
    with listening(quiet, fits) as listener:
        return run_recipe(recipe, out=out, fresh=fresh, replace=replace, listener=listener, trackers=trackers)
