"""`toolkit export`: a strategy's tuned weights, ready to use without this toolkit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from toolkit.errors import RunError, nearest

if TYPE_CHECKING:
    from toolkit.strategies.tuned import Tuned

DTYPES = ("float32", "bfloat16")
CARD = "README.md"


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.", show_default=False)],
    strategy: Annotated[
        str, typer.Argument(metavar="STRATEGY", help="A strategy of the run that is tuned.", show_default=False)
    ],
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="A new folder; exports/<run>-<strategy> if absent.", show_default=False),
    ] = None,
    merged: Annotated[
        bool, typer.Option("--merged", help="A whole model; an adapter is merged into its weights.")
    ] = False,
    dtype: Annotated[
        str | None,
        typer.Option(metavar="DTYPE", help="Of merged weights: float32 (if absent) or bfloat16.", show_default=False),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="Of several seeds; the first if absent.", show_default=False)
    ] = None,
) -> None:
    """Hand over a strategy's tuned weights, with a model card.

    Without `--merged`: the adapter in PEFT's format, under its base's published name where there is one. With it: a
    whole model in transformers' format, tokenizer and chat template included. It is merged in float32; in bfloat16
    it takes half the space, and much of a small update is rounded away. The card (README.md) says how to load it,
    the prompt it expects, what it was trained on and how well it does.

    \b
    Examples:
      toolkit export runs/quickstart-1a2b3c4d lora
      toolkit export runs/quickstart-1a2b3c4d lora --merged --out models/handbook
    """
    if dtype is not None and dtype not in DTYPES:
        raise RunError(f"--dtype: '{dtype}' is none of {', '.join(DTYPES)}{nearest(dtype, DTYPES)}")
    if dtype is not None and not merged:
        raise RunError("--dtype is of merged weights: add `--merged`; an adapter is handed over as it was trained")
    from toolkit.report.card import card
    from toolkit.report.read import read_run
    from toolkit.runs.export import appearing, tuned_weights, write_adapter, write_merged

    tuned, wanted = tuned_weights(run, strategy, seed), (dtype or DTYPES[0]) if merged else None
    if tuned.whole and not merged:
        raise RunError(f"{tuned} has no adapter: all weights were trained; add `--merged` for the whole model")
    files = read_run(run)
    place = out if out is not None else _place(run, tuned, merged)
    with appearing(place) as folder:
        if wanted is None:
            write_adapter(tuned, folder)
        else:
            write_merged(tuned, folder, wanted, lambda text: typer.echo(text, err=True))
        (folder / CARD).write_text(card(files, tuned, wanted), encoding="utf-8")
    for line in lines(tuned, place, wanted):
        typer.echo(line)


def lines(tuned: Tuned, folder: Path, dtype: str | None) -> Iterator[str]:
    """What was handed over, what it belongs to and what it costs."""
    from toolkit.report.card import merging
    from toolkit.report.figures import size
    from toolkit.terminal import table

    base = tuned.base
    yield f"{tuned}: {tuned.strategy.label()}, on {base.name}"
    if dtype is None and base.revision is None:
        named_as = f"names {base.published}, which it was not measured on" if base.published else "names no base"
        yield f"it {named_as}; the card loads it on the weights it was measured on ({base.digest[:12]})"
    if dtype is not None:
        weights = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
        other = "; `--dtype bfloat16` takes half of that" if dtype == "float32" else ""
        yield f"{'all weights, in' if tuned.whole else 'merged into'} {dtype}, {size(weights)}{other}"
        if not tuned.whole:
            yield merging(tuned, dtype)
    yield from table([[path.name, size(path.stat().st_size)] for path in sorted(folder.iterdir())], right=(1,))
    yield f"card:   {folder / CARD}"
    yield f"folder: {folder}"


def _place(run: Path, tuned: Tuned, merged: bool) -> Path:
    seed = "" if tuned.seed is None else f"-seed-{tuned.seed}"
    return Path("exports") / f"{run.resolve().name}-{tuned.strategy.name}{seed}{'-merged' if merged else ''}"
