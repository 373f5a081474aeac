"""`toolkit predict`: a fitted strategy of a run answers new inputs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from toolkit.errors import DataError

if TYPE_CHECKING:
    from toolkit.runs.reopen import FinishedRun
    from toolkit.tasks.output import Output


def predict(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.", show_default=False)],
    strategy: Annotated[str, typer.Argument(metavar="STRATEGY", help="A strategy of the run.", show_default=False)],
    text: Annotated[
        str | None,
        typer.Argument(metavar="TEXT", help="The input; standard input where absent.", show_default=False),
    ] = None,
    jsonl: Annotated[
        bool, typer.Option("--jsonl", help="Standard input is JSON lines; so is the output, a line each.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the answer as a JSON record.")] = False,
) -> None:
    """Answer new inputs with a fitted strategy.

    The whole of standard input is one text. With --jsonl each of its lines is a JSON object: the task's inputs by
    name, or {"id": ..., "inputs": {...}} as in the task's own files. Records hold the answer, its status (answered,
    abstained, unparsable, error), the confidence, citations and retrieved passages.

    \b
    Examples:
      toolkit predict runs/handbook-1a2b3c4d lora_rag "How many days of leave are there?"
      toolkit predict runs/handbook-1a2b3c4d rag --json < question.txt
      toolkit predict runs/tickets-1a2b3c4d lora --jsonl < tickets.jsonl > routed.jsonl
    """
    from toolkit.console import notices
    from toolkit.runs.reopen import reopen

    if jsonl and text is not None:
        raise DataError("--jsonl reads standard input: leave out the text")
    given = None if text is not None else _standard_input(jsonl)
    finished = reopen(run, notices)
    if jsonl:
        for record in _answer_rows(finished, strategy, parse_rows((given or "").split("\n"))):
            typer.echo(json.dumps(record, ensure_ascii=False))
        return
    asked = text if text is not None else (given or "").strip()
    if not asked:
        raise DataError("there is no text to answer: give one, or pipe one in")
    _print(finished.predict(strategy, [finished.text_input(asked)])[0], as_json)


def parse_rows(lines: Iterable[str]) -> list[tuple[Any, Mapping[str, Any]]]:
    """(id or None, inputs) of each line that is not blank.

    Raises:
        DataError: a line is no JSON object; named by its number.
    """
    rows: list[tuple[Any, Mapping[str, Any]]] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            raise DataError(f"standard input:{number}: not JSON ({error})") from error
        if not isinstance(value, dict):
            raise DataError(f"standard input:{number}: expected an object of inputs, found {type(value).__name__}")
        wrapped = value.get("inputs")
        rows.append((value.get("id"), wrapped) if isinstance(wrapped, dict) else (None, value))
    if not rows:
        raise DataError("standard input holds no line")
    return rows


def record_of(output: Output) -> dict[str, Any]:
    """What a program wants to know of an answer."""
    record: dict[str, Any] = {
        "answer": output.answer,
        "status": output.status,
        "text": output.text,
        "confidence": output.confidence,
        "citations": list(output.citations),
        "retrieved": [asdict(passage) for passage in output.retrieved],
    }
    return record | ({"error": output.error} if output.error else {})


def _answer_rows(
    finished: FinishedRun, strategy: str, rows: list[tuple[Any, Mapping[str, Any]]]
) -> Iterable[dict[str, Any]]:
    outputs = finished.predict(strategy, [inputs for _, inputs in rows])
    for (identifier, _), output in zip(rows, outputs, strict=True):
        yield ({} if identifier is None else {"id": identifier}) | record_of(output)


def _standard_input(jsonl: bool) -> str:
    if sys.stdin.isatty():
        wanted = "JSON lines" if jsonl else "a text"
        raise DataError(f"nothing to answer: give {wanted} on standard input{'' if jsonl else ', or as an argument'}")
    try:
        return sys.stdin.read().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise DataError(f"standard input is not {error.encoding}: {error.reason} at byte {error.start}") from error


def _print(output: Output, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(record_of(output), ensure_ascii=False))
        return
    if output.status == "error":
        raise DataError(output.error or "the strategy gave an error")
    if output.status == "unparsable":
        typer.echo("note: this is no answer of the task's form; the model's own words follow", err=True)
    answer = output.answer if output.status == "answered" else output.text
    typer.echo(answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False))
