"""The command line: `toolkit run`, `validate`, `report`, `inspect`, `predict`, `export`, `models`.

Whatever goes wrong and can be put right is one message and exit code 2; an interruption is 130; anything else is a
defect of ours and shows its traceback.
"""

from __future__ import annotations

import errno
import io
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from toolkit.commands.export import export
from toolkit.commands.inspect import inspect
from toolkit.commands.models import models
from toolkit.commands.predict import predict
from toolkit.commands.report import report
from toolkit.commands.run import run
from toolkit.commands.validate import validate
from toolkit.errors import ToolkitError

QUIET = {
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}
"""Set before libraries are imported, unless the user has set them: they write to the terminal otherwise."""

PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3"}
"""Likewise: a tracking server that is gone would hold up a run for four minutes."""

OUT_OF_MEMORY = (
    "out of memory; finished work is kept, run the same command again, without `--fresh`, to go on. To need less, "
    "lower `batch_tokens`, `decoding.max_new_tokens`, or a tuning's `micro_batch_tokens`, for example: "
    "batch_tokens=1024"
)
NO_SPACE = (
    "no space is left on the disk{place}; finished work is kept, run the same command again, without `--fresh`, to go "
    "on. Free some space, or move the run with `--out DIR` and the cache with the variable TOOLKIT_CACHE"
)


class Commands(TyperGroup):
    """All commands; failures of any of them are told in one place."""

    def invoke(self, ctx: Any) -> Any:
        with told(debug=bool(ctx.params.get("debug"))):
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result


app = typer.Typer(
    cls=Commands, add_completion=False, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False
)
app.command()(run)
app.command()(validate)
app.command()(report)
app.command()(inspect)
app.command()(predict)
app.command()(export)
app.add_typer(models, name="models")


def main() -> None:
    """The entry point of the `toolkit` script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that lacks a character shows `?`
    app(prog_name="toolkit")


def _version(asked: bool) -> None:
    if asked:
        from toolkit import __version__

        typer.echo(f"toolkit {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show warnings of libraries, and tracebacks of expected errors too.")
    ] = False,
) -> None:
    """Which way of adapting a foundation model wins on your task: prompting, retrieval, LoRA, or a stack of them.

    \b
    First steps:
      toolkit run quickstart              compare four strategies on a small task
      toolkit validate my-task/           check your own data
      toolkit run my-recipe.yaml --limit 8
    """
    for name, value in (QUIET | PATIENCE).items():
        os.environ.setdefault(name, value)
    if not debug:
        warnings.simplefilter("ignore")
        if not logging.getLogger().handlers:
            logging.getLogger().addHandler(logging.NullHandler())  # else Python prints libraries' warnings itself


@contextmanager
def told(debug: bool = False) -> Iterator[None]:
    """Turns what a command raises into a message and an exit code; lets defects through.

    Raises:
        typer.Exit: 2 for what the user can put right, 130 for an interruption.
    """
    try:
        yield
    except ToolkitError as error:
        _fail(str(error), debug)
    except KeyboardInterrupt:
        typer.echo("interrupted; run the same command again, without `--fresh`, to go on", err=True)
        raise typer.Exit(130) from None
    except BrokenPipeError:
        _forget_output()
        raise typer.Exit(1) from None
    except MemoryError:
        _fail(OUT_OF_MEMORY, debug)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        _fail(NO_SPACE.format(place=f" ({error.filename})" if error.filename else ""), debug)
    except RuntimeError as error:
        if not _is_out_of_memory(error):
            raise
        _fail(OUT_OF_MEMORY, debug)


def _fail(message: str, debug: bool) -> None:
    if debug:
        traceback.print_exc()
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(2) from None


def _is_out_of_memory(error: RuntimeError) -> bool:
    """torch says it in words, on the CPU and on the GPU alike."""
    text = str(error).lower()
    return "out of memory" in text or "can't allocate memory" in text


def _forget_output() -> None:
    """The reader went away: what is still buffered must not fail again when Python ends."""
    with suppress(OSError, ValueError):  # a captured output has no file behind it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
