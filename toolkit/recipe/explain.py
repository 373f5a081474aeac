"""What pydantic finds, in plain language: what must be, what was found, and the nearest match."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar, get_args

from pydantic import BaseModel, JsonValue, ValidationError
from pydantic_core import ErrorDetails

from toolkit.errors import nearest
from toolkit.recipe.document import Document, Place, Problem

Settings = TypeVar("Settings", bound=BaseModel)

_MUST = {
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": "must be text",
    "path_type": "must be a path",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "set_type": "must be a list",
    "frozen_set_type": "must be a list",
    "dict_type": "must be a mapping of keys to values",
    "model_type": "must be a mapping of keys to values",
    "model_attributes_type": "must be a mapping of keys to values",
    "literal_error": "must be {expected}",
    "enum": "must be {expected}",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "string_too_short": "must have at least {min_length} character(s)",
    "string_too_long": "must have at most {max_length} character(s)",
    "string_pattern_mismatch": "must match {pattern}",
    "too_short": "must hold at least {min_length} item(s)",
    "too_long": "must hold at most {max_length} item(s)",
}


class _Finding(NamedTuple):
    """One error: what must be, and (where that helps) what was found and what was probably meant."""

    place: Place
    must: str
    found: str = ""
    meant: str = ""


def validated(
    model: type[Settings], value: JsonValue, document: Document, place: Place = ()
) -> Settings | list[Problem]:
    """The value at a place of a document as a model, or everything that is wrong with it.

    Read as JSON, in which a list is good for a tuple even where the model is strict about types.
    """
    try:
        return model.model_validate_json(json.dumps(value))
    except ValidationError as error:
        grouped = _grouped(_findings(error.errors(include_url=False), model, value))
    problems = []
    for where, findings in grouped.items():
        first, *others = dict.fromkeys(finding.must for finding in findings)
        must = " or ".join([first, *(other.removeprefix("must be ") for other in others)])
        found_there = next((finding.found for finding in findings if finding.found), "")
        meant = next((finding.meant for finding in findings if finding.meant), "")
        problems.append(document.problem((*place, *where), f"{must}{found_there}{meant}"))
    return problems


def found_text(value: JsonValue) -> str:
    """A value as an error shows it: short, and in the words of YAML."""
    if isinstance(value, Mapping):
        return f"a mapping with {', '.join(value)}" if value else "an empty mapping"
    if isinstance(value, list):
        return f"a list of {len(value)}" if value else "an empty list"
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f"'{value}'" if len(value) <= 60 else f"'{value[:57]}...'"
    return str(value)


def _findings(errors: Iterable[ErrorDetails], model: type[BaseModel], value: JsonValue) -> Iterator[_Finding]:
    """The errors in plain words; a key that is missing because it was misspelt is told once, as misspelt."""
    items = [(item, _located(item, value)) for item in errors]
    meant = set()
    for item, place in items:
        if item["type"] == "extra_forbidden":
            allowed = _keys_at(model, place[:-1])
            hint = nearest(str(place[-1]), allowed)
            meant.add((*place[:-1], *re.findall(r"'(.*)'", hint)))
            yield _Finding(place, f"unknown key{hint}; allowed: {', '.join(allowed) or 'none'}")
    for item, place in items:
        if item["type"] == "missing":
            if place not in meant:
                yield _Finding(place, "is missing")
        elif item["type"] in _MUST:
            must = _MUST[item["type"]].format(**{key: _short(limit) for key, limit in item.get("ctx", {}).items()})
            yield _Finding(place, must, f", found {found_text(item['input'])}", _near(item))
        elif item["type"] in ("value_error", "assertion_error"):
            yield _Finding(place, item["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, "))
        elif item["type"] != "extra_forbidden":
            must = item["msg"].replace("Input should", "must", 1)
            yield _Finding(place, must, f", found {found_text(item['input'])}")


def _short(limit: Any) -> Any:
    """0.0 as 0: a limit as a person would write it."""
    return int(limit) if isinstance(limit, float) and limit.is_integer() else limit


def _near(item: ErrorDetails) -> str:
    expected = re.findall(r"'([^']*)'", str(item.get("ctx", {}).get("expected", "")))
    return nearest(item["input"], expected) if isinstance(item["input"], str) else ""


def _located(item: ErrorDetails, value: JsonValue) -> Place:
    """The error's place without the branches of unions and the like, which pydantic names among the keys."""
    place: list[str | int] = []
    here = value
    for part in item["loc"]:
        inner: dict[str | int, JsonValue] = {}
        if isinstance(here, dict):
            inner.update(here)
        elif isinstance(here, list):
            inner.update(enumerate(here))
        if part in inner:
            here = inner[part]
            place.append(part)
    if item["type"] == "missing":
        place.append(item["loc"][-1])
    return tuple(place)


def _grouped(findings: Iterable[_Finding]) -> dict[Place, list[_Finding]]:
    """By place. Of a union (`text or mapping`) only the branch that went deepest into the value is told."""
    groups: dict[Place, list[_Finding]] = {}
    for finding in findings:
        groups.setdefault(finding.place, []).append(finding)

    def deeper(place: Place) -> bool:
        return any(len(other) > len(place) and other[: len(place)] == place for other in groups)

    return {
        place: group
        for place, group in groups.items()
        if not (deeper(place) and all(", found a" in finding.found for finding in group))
    }


def _keys_at(model: type[BaseModel], place: Place) -> list[str]:
    """The keys allowed in the mapping at a place of a model."""
    models = [model]
    for part in place:
        fields = [item for known in models for item in known.model_fields.items()]
        inner = [
            model for name, field in fields if part in (name, field.alias) for model in _models_in(field.annotation)
        ]
        models = inner or models
    return list(dict.fromkeys(field.alias or name for known in models for name, field in known.model_fields.items()))


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in get_args(annotation) for model in _models_in(inner)]
