"""`toolkit models`: what models and embedders there are, and bringing their weights here."""

from __future__ import annotations

import os
import re
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from toolkit.terminal import table

if TYPE_CHECKING:
    from toolkit.models import EndpointSource, Entry

models = typer.Typer(
    help="List, fetch and show models and embedders.", no_args_is_help=True, rich_markup_mode=None, add_completion=False
)

NAME_HELP = "A catalogue name, a folder of weights, or hub:owner/name[@revision]."


@models.command("list")
def list_entries() -> None:
    """List models and embedders, and which are here already."""
    from toolkit.models import entries, is_cached

    rows = [["name", "kind", "source", "licence", "here"]]
    for entry in [*entries("model"), *entries("embedder")]:
        here = "served" if entry.source.endpoint is not None else "yes" if is_cached(entry) else "no"
        rows.append([entry.name, entry.kind, _short(str(entry.source)), entry.licence or "-", here])
    for line in table(rows):
        typer.echo(line)


@models.command()
def pull(
    names: Annotated[list[str], typer.Argument(metavar="NAME", help=NAME_HELP, show_default=False)],
) -> None:
    """Fetch weights, so that runs need no network.

    They are kept in the cache folder; the variable TOOLKIT_CACHE moves it.

    \b
    Example:
      toolkit models pull smollm2-135m-instruct-q4 all-minilm-l6-v2
    """
    from toolkit.models import fetch_weights

    found = [named(name) for name in names]  # all names are checked before anything is fetched
    for entry in found:
        if entry.source.endpoint is not None:
            typer.echo(f"{entry.name}: nothing to pull, it is served at {entry.source.endpoint.url}")
            continue
        fetched = fetch_weights(entry, lambda text: typer.echo(text, err=True))
        typer.echo(f"{entry.name}: {fetched.folder}")


@models.command()
def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help=NAME_HELP, show_default=False)],
) -> None:
    """Show where weights come from, and their digest."""
    from toolkit.models import fetch_weights, is_cached, weights_digest

    entry = named(name)
    rows = [["name", entry.name], ["kind", entry.kind], ["licence", entry.licence or "-"]]
    rows.append(["source", str(entry.source)])
    if entry.published is not None:
        rows.append(["made from", entry.published])
    if entry.note:
        rows.append(["note", entry.note.strip()])
    if entry.source.endpoint is not None:
        rows += _endpoint_rows(entry.source.endpoint)
    elif is_cached(entry):
        folder = fetch_weights(entry).folder
        rows += [["folder", str(folder)], ["digest", weights_digest(folder)]]
    else:
        rows.append(["folder", f"not here yet: toolkit models pull {name}"])
    for line in table(rows):
        typer.echo(line)


def _endpoint_rows(endpoint: EndpointSource) -> list[list[str]]:
    """How a served model is asked. Of its key only whether it is there."""
    variable, said = endpoint.key_env, "none"
    if variable is not None:
        said = f"in the environment variable {variable}, {'which is set' if os.environ.get(variable) else 'not set'}"
    rate = endpoint.requests_per_minute
    return [
        ["url", endpoint.url],
        ["model", " then ".join(endpoint.models)],
        ["api", endpoint.api],
        ["key", said],
        ["at once", f"{endpoint.concurrency} requests{'' if rate is None else f', {rate:g} a minute'}"],
        ["time-outs", f"{endpoint.connect_seconds:g} s to connect, {endpoint.timeout_seconds:g} s an answer"],
        ["retries", str(endpoint.retries)],
        ["answers", f"kept for {endpoint.expires_days:g} days"],
        ["digest", f"{endpoint.digest} (of these settings; the weights have none)"],
    ]


def _short(source: str) -> str:
    """A source with a commit cut to 12 digits; `show` gives all of them."""
    return re.sub(r"@([0-9a-f]{12})[0-9a-f]{28}$", r"@\1", source)


def named(name: str) -> Entry:
    """A model or embedder, whichever the name means.

    Raises:
        ModelError: neither; the message names the nearest match.
    """
    from toolkit.models import entries, read_entry, resolve

    path = Path(name)
    if path.suffix in (".yaml", ".yml") and path.is_file():
        return read_entry(path)
    embedders = [entry.name for entry in entries("embedder")]
    close = get_close_matches(name, [*(entry.name for entry in entries("model")), *embedders], n=1)
    return resolve(name, "embedder" if close and close[0] in embedders else "model")
