"""A recipe as plain values that remember where each of them was written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from pydantic import JsonValue
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from toolkit.errors import yaml_fault

Place = tuple[str | int, ...]
"""Keys and list indices from the top of the recipe down to a value."""

_PLAIN = "tag:yaml.org,2002:"
_TEXT = ("str", "timestamp", "merge", "value")


class Origin(NamedTuple):
    """Where a value was written: the order of its problem in the listing, and what to call the place."""

    order: int
    label: str


class Problem(NamedTuple):
    """One thing that is wrong, with its place already written out."""

    order: int
    text: str


def problem_at(origin: Origin, place: Place, message: str) -> Problem:
    """`file:line: key: message`."""
    key = dotted(place)
    return Problem(origin.order, f"{origin.label}: {key}: {message}" if key else f"{origin.label}: {message}")


def dotted(place: Place) -> str:
    """`strategies.rag.0.retrieve`: how a place is written in errors and overrides."""
    return ".".join(str(part) for part in place)


@dataclass
class Document:
    """The values of a recipe and the origin of each; overrides change both."""

    data: dict[str, JsonValue]
    origins: dict[Place, Origin] = field(default_factory=dict)

    def origin(self, place: Place) -> Origin:
        """Of the value at a place, or of the nearest value around it."""
        for end in range(len(place), 0, -1):
            if place[:end] in self.origins:
                return self.origins[place[:end]]
        return self.origins[()]

    def problem(self, place: Place, message: str) -> Problem:
        return problem_at(self.origin(place), place, message)

    def forget(self, place: Place) -> None:
        """Drops the origins at and below a place, before another value is put there."""
        for known in [known for known in self.origins if known[: len(place)] == place]:
            del self.origins[known]


class Reader:
    """Reads YAML 1.2 into plain values, the origin of each and the problems met.

    Args:
        origin: what a line, counted from 1, is called.
    """

    def __init__(self, origin: Callable[[int], Origin]) -> None:
        self._origin = origin
        self._open: set[int] = set()
        self._yaml = YAML(typ="safe", pure=True)
        self.origins: dict[Place, Origin] = {}
        self.problems: list[Problem] = []

    def read(self, text: str, place: Place = ()) -> JsonValue:
        """The value of a YAML text that stands at a place; None, with a problem noted, where it is not YAML."""
        self.origins[place] = self._origin(1)
        try:
            node = self._yaml.compose(text)
        except YAMLError as error:
            line, what = yaml_fault(error)
            self.problems.append(problem_at(self._origin(line), place, f"this is not valid YAML: {what}"))
            return None
        if node is None:
            return None
        self.origins[place] = self._origin(_line(node))
        return self._value(node, place)

    def _value(self, node: Node, place: Place) -> JsonValue:
        if id(node) in self._open:
            self._problem(node, place, "an alias (*) stands inside what it refers to")
            return None
        if isinstance(node, ScalarNode):
            return self._scalar(node, place)
        self._open.add(id(node))
        value: JsonValue = None
        if isinstance(node, MappingNode) and _kind(node) == "map":
            value = self._mapping(node, place)
        elif isinstance(node, SequenceNode) and _kind(node) == "seq":
            value = self._list(node, place)
        else:
            self._refuse_tag(node, place)
        self._open.remove(id(node))
        return value

    def _list(self, node: SequenceNode, place: Place) -> JsonValue:
        values: list[JsonValue] = []
        for index, item in enumerate(node.value):
            self.origins[(*place, index)] = self._origin(_line(item))
            values.append(self._value(item, (*place, index)))
        return values

    def _mapping(self, node: MappingNode, place: Place) -> JsonValue:
        values: dict[str, JsonValue] = {}
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, ScalarNode):
                self._problem(key_node, place, "a key must be a single word, found a list or a mapping")
                continue
            key = str(key_node.value)
            if key in values:
                self._problem(key_node, (*place, key), f"this key was given before, in line {lines[key]}")
                continue
            lines[key] = _line(key_node)
            self.origins[(*place, key)] = self._origin(lines[key])
            values[key] = self._value(value_node, (*place, key))
        return values

    def _scalar(self, node: ScalarNode, place: Place) -> JsonValue:
        """Dates stay text. Whatever has a tag of its own is refused: a recipe is plain data."""
        constructor = self._yaml.constructor
        kind = _kind(node)
        try:
            if kind == "int":
                return int(constructor.construct_yaml_int(node))
            if kind == "float":
                return float(constructor.construct_yaml_float(node))
            if kind == "bool":
                return bool(constructor.construct_yaml_bool(node))
        except (ValueError, KeyError):
            return str(node.value)
        if kind in _TEXT:
            return str(node.value)
        if kind != "null":
            self._refuse_tag(node, place)
        return None

    def _refuse_tag(self, node: Node, place: Place) -> None:
        tag = str(node.tag)
        shown = "!!" + tag.removeprefix(_PLAIN) if tag.startswith(_PLAIN) else tag
        self._problem(node, place, f"tags are not allowed, found {shown}")

    def _problem(self, node: Node, place: Place, message: str) -> None:
        self.problems.append(problem_at(self._origin(_line(node)), place, message))


def _line(node: Node) -> int:
    return int(node.start_mark.line) + 1


def _kind(node: Node) -> str:
    return str(node.tag).removeprefix(_PLAIN)
