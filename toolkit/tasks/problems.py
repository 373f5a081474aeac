"""Saying what is wrong with data: all problems at once, each with its place, what was found and what is allowed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import get_args

from pydantic import BaseModel, ValidationError

from toolkit.errors import DataError, listing, nearest

SHOWN = 20
"""Problems listed; the rest are counted."""

Location = tuple[int | str, ...]

_PLAIN = {
    "a valid string": "a text",
    "a valid tuple": "a list",
    "a valid dictionary": "a mapping of names to values",
    "a valid integer": "a whole number",
}
"""pydantic's words -> what people who write YAML and JSON say."""


def refuse(problems: Sequence[str], heading: str) -> None:
    """Raises a DataError that lists the first problems and counts all; does nothing where there are none."""
    if not problems:
        return
    lines = listing(problems, heading).split("\n")
    hidden = len(problems) - SHOWN
    if hidden > 0:
        lines = [*lines[: SHOWN + 1], f"  ... and {hidden} more"]
    raise DataError("\n".join(lines))


def shown(path: Path) -> str:
    """A path for people: relative where it lies below the working directory."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def excerpt(value: object, longest: int = 60) -> str:
    """A value on one line, cut where it is long."""
    text = repr(value)
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def described(error: ValidationError, model: type[BaseModel]) -> list[tuple[Location, str]]:
    """pydantic's findings as (where in the document, `key: what is wrong, what is allowed`)."""
    return [
        (item["loc"], _message(model, item["loc"], item["type"], item["msg"], item["input"]))
        for item in error.errors(include_url=False)
    ]


def _message(model: type[BaseModel], location: Location, kind: str, text: str, found: object) -> str:
    key = ".".join(str(part) for part in location)
    if kind == "extra_forbidden":
        allowed = list(_model_at(model, location[:-1]).model_fields)
        close = nearest(str(location[-1]), allowed)
        return f"unknown key '{key}'{close}; allowed: {', '.join(allowed)}"
    if kind == "missing":
        return f"the key '{key}' is missing"
    text = text.removeprefix("Value error, ")
    if kind == "value_error":
        return f"{key}: {text}" if key else text
    text = text[:1].lower() + text[1:]
    for jargon, plain in _PLAIN.items():
        text = text.replace(jargon, plain)
    return f"{key}: {text}, found {excerpt(found)}" if key else f"{text}, found {excerpt(found)}"


def _model_at(model: type[BaseModel], location: Location) -> type[BaseModel]:
    for part in location:
        field = model.model_fields.get(str(part))
        if field is not None:
            model = next(_models_in(field.annotation), model)
    return model


def _models_in(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models_in(part)


def escapes(path: Path, folder: Path) -> bool:
    """Whether a path, links followed, leaves a folder."""
    return not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))
