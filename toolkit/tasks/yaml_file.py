"""Reading a YAML file into a model, with the line of everything that is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from toolkit.errors import yaml_fault
from toolkit.tasks.problems import Location, described, shown

Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class YamlFile(Generic[Model]):
    """A file as a model, and its lines."""

    path: Path
    content: Model
    tree: Any

    def where(self, *key: str) -> str:
        """`file:line` of a key."""
        return f"{shown(self.path)}:{_line(self.tree, key)}"


def read_yaml(path: Path, model: type[Model], problems: list[str]) -> YamlFile[Model] | None:
    """The file as a model; None, with every reason and its line added to `problems`, where it is none."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        text = path.read_text(encoding="utf-8-sig")
        content = YAML(typ="safe", pure=True).load(text)
        tree = YAML(typ="safe", pure=True).compose(text)
    except (YAMLError, UnicodeDecodeError) as error:
        line, what = yaml_fault(error)
        problems.append(f"{shown(path)}:{line}: not valid YAML: {what}")
        return None
    except OSError as error:
        problems.append(f"{shown(path)}: cannot be read: {error.strerror}")
        return None
    if not isinstance(content, dict):
        problems.append(f"{shown(path)}:1: expected the keys {', '.join(model.model_fields)}")
        return None
    try:
        return YamlFile(path, model.model_validate(content), tree)
    except ValidationError as error:
        problems.extend(f"{shown(path)}:{_line(tree, where)}: {message}" for where, message in described(error, model))
        return None


def _line(node: Any, location: Location) -> int:
    """The line (from 1) of a key or item; of what holds it, where it is missing."""
    from ruamel.yaml.nodes import MappingNode, SequenceNode

    line = int(node.start_mark.line) + 1
    for part in location:
        if isinstance(node, MappingNode):
            pairs = {key.value: (key, value) for key, value in node.value}
            if str(part) not in pairs:
                return line
            key, node = pairs[str(part)]
            line = int(key.start_mark.line) + 1
        elif isinstance(node, SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = int(node.start_mark.line) + 1
    return line
