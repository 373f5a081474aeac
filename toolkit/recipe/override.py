"""Overrides: `key=value` by dotted path, applied to a recipe before it is checked."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import JsonValue

from toolkit.errors import nearest
from toolkit.recipe.document import Document, Origin, Place, Problem, Reader, problem_at
from toolkit.recipe.explain import found_text
from toolkit.recipe.schema import RecipeFile

_AFTER_ALL_LINES = 1_000_000_000


def apply(document: Document, override: str, number: int = 0) -> list[Problem]:
    """Puts the value of `key=value` into the document, and gives what stood in the way.

    `strategies.rag.0.retrieve.top_k=5` counts entries from 0; `strategies.rag.retrieve.top_k=5` finds the entry by its
    name. Keys that the recipe does not have yet are made; whether they may be there is found when it is checked.
    """
    origin = Origin(_AFTER_ALL_LINES + number, f"override '{override}'")
    path, equals, text = override.partition("=")
    parts = path.strip().split(".")
    if not equals or not all(parts):
        return [problem_at(origin, (), "must be written key=value, for example decoding.max_new_tokens=16")]
    if parts[0] not in RecipeFile.model_fields:
        keys = list(RecipeFile.model_fields)
        return [problem_at(origin, (parts[0],), f"unknown key{nearest(parts[0], keys)}; allowed: {', '.join(keys)}")]
    try:
        target = _Walk(document, origin).to(parts)
    except _NoWayError as error:
        return [error.problem]
    reader = Reader(lambda line: origin)
    value = reader.read(text, target.place)
    if reader.problems:
        return reader.problems
    document.forget(target.place)
    document.origins.update(reader.origins)
    target.put(value)
    return []


class _NoWayError(Exception):
    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.text)
        self.problem = problem


@dataclass(frozen=True)
class _Target:
    """The place of a value and the mapping or list that holds it."""

    holder: dict[str, JsonValue] | list[JsonValue]
    place: Place

    def put(self, value: JsonValue) -> None:
        key = self.place[-1]
        if isinstance(self.holder, list):
            self.holder[int(key)] = value
        else:
            self.holder[str(key)] = value


class _Walk:
    """Goes down a dotted path and makes mappings where there is nothing yet."""

    def __init__(self, document: Document, origin: Origin) -> None:
        self._document, self._origin = document, origin

    def to(self, parts: list[str]) -> _Target:
        """Raises _NoWayError where the path goes through a value that has no such part."""
        holder: JsonValue = self._document.data
        place: Place = ()
        pending = list(parts)
        while True:
            part = pending.pop(0)
            if isinstance(holder, list) and not part.isdecimal():
                pending.insert(0, part)
                part = self._entry_named(holder, part, place)
            if isinstance(holder, list):
                if int(part) >= len(holder):
                    raise self._no_way((*place, part), f"there is no such entry; {_entries(holder)}")
                target = _Target(holder, (*place, int(part)))
            elif isinstance(holder, dict):
                target = _Target(holder, (*place, part))
            else:
                raise self._no_way((*place, part), f"nothing can stand below {found_text(holder)}")
            if not pending:
                return target
            holder, place = self._below(target, pending[0]), target.place

    def _entry_named(self, entries: list[JsonValue], name: str, place: Place) -> str:
        """The index of a strategy's entry of that name, which must be the only one."""
        if place[:1] != ("strategies",) or len(place) != 2:
            raise self._no_way((*place, name), f"this is a list, a number must stand here; {_entries(entries)}")
        names = [next(iter(entry), "") if isinstance(entry, dict) else str(entry) for entry in entries]
        found = [index for index, known in enumerate(names) if known == name]
        if len(found) == 1:
            return str(found[0])
        if found:
            indices = " or ".join(map(str, found))
            raise self._no_way((*place, name), f"there are several: write {indices} in front of it")
        parts = ", ".join(names) or "none"
        raise self._no_way((*place, name), f"the strategy has no such part{nearest(name, names)}; parts: {parts}")

    def _below(self, target: _Target, following: str) -> JsonValue:
        """What the target holds; an empty mapping is put there where it holds nothing, or only an adapter's name."""
        key, holder = target.place[-1], target.holder
        present: JsonValue
        if isinstance(holder, list):
            present = holder[int(key)]
            if present == following:
                present = {following: None}
                target.put(present)
            return present
        present = holder.get(str(key))
        if present is not None:
            return present
        if target.place[:-1] == ("strategies",):
            hint = nearest(str(key), holder)
            raise self._no_way(target.place, f"there is no such strategy{hint}; strategies: {', '.join(holder)}")
        present = {}
        target.put(present)
        self._document.origins[target.place] = self._origin
        return present

    def _no_way(self, place: Place, message: str) -> _NoWayError:
        return _NoWayError(problem_at(self._origin, place, message))


def _entries(entries: list[JsonValue]) -> str:
    return f"entries: 0 to {len(entries) - 1}" if entries else "the list is empty"
