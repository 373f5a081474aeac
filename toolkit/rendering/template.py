"""Template: a YAML file of three Jinja texts that turns a draft into messages.

The sandbox is immutable and undefined names are errors, so a template can neither reach Python nor print nothing
where a value was meant. All text that depends on passages comes from `passages` alone and stands in one place, the
start of the last user message: without passages the same draft gives the same text with that slot cut out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import StrictUndefined, TemplateSyntaxError, meta
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import BaseModel, ConfigDict, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from toolkit.errors import DataError, nearest
from toolkit.resources import find

if TYPE_CHECKING:
    from jinja2 import Template as JinjaTemplate
    from pydantic import JsonValue

SEES: Mapping[str, tuple[str, ...]] = {
    "system": ("instruction", "labels"),
    "passages": ("passages", "inputs"),
    "user": ("inputs", "labels"),
}
"""What each text of a template may name."""


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    system: str
    passages: str
    user: str


@lru_cache(maxsize=1)
def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    del environment.filters["random"], environment.globals["lipsum"]  # the same draft gives the same text
    return environment


@lru_cache(maxsize=256)
def _compiled(text: str) -> JinjaTemplate:
    return _environment().from_string(text)


@dataclass(frozen=True)
class Template:
    """Three Jinja texts; `Template.load` reads and checks them before anything is rendered."""

    name: str
    system: str
    passages: str
    user: str

    def __post_init__(self) -> None:
        for part, allowed in SEES.items():
            try:
                named = meta.find_undeclared_variables(_environment().parse(getattr(self, part)))
            except TemplateSyntaxError as error:
                raise DataError(f"template '{self.name}', {part}, line {error.lineno}: {error.message}") from error
            for unknown in sorted(named - set(allowed)):
                raise DataError(
                    f"template '{self.name}', {part}: '{unknown}' is not available here; "
                    f"allowed: {', '.join(allowed)}{nearest(unknown, allowed)}"
                )

    @classmethod
    def load(cls, name: str, beside: Path | None = None) -> Template:
        """Read a template by path or by the name of a shipped one.

        Raises:
            DataError: not found, not YAML, unknown keys, or a text that names something it may not see.
        """
        path = find(name, "configs/prompts", beside)
        try:
            raw = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
            return cls(**_File.model_validate(raw).model_dump())
        except YAMLError as error:
            raise DataError(f"{path}: not valid YAML: {error}") from error
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"])
            raise DataError(f"{path}: {key}: {first['msg']}; allowed keys: name, system, passages, user") from error

    @cached_property
    def digest(self) -> str:
        joined = "\x00".join((self.system, self.passages, self.user))
        return hashlib.sha256(joined.encode()).hexdigest()

    def render(self, part: str, values: Mapping[str, Any]) -> str:
        """One text of the template. Raises DataError naming the template and the part."""
        try:
            return _compiled(getattr(self, part)).render(values)
        except SecurityError as error:
            raise DataError(f"template '{self.name}', {part}: not allowed in a template: {error}") from error
        except Exception as error:  # whatever an expression raises: a division by zero, a wrong type
            raise DataError(f"template '{self.name}', {part}: {error}") from error


def check_inputs(template: Template, inputs: Mapping[str, JsonValue], labels: Sequence[str] = ()) -> None:
    """Render the user text once with an example's inputs, so that a missing one is found before any model call.

    Raises:
        DataError: it does not render.
    """
    template.render("user", {"inputs": inputs, "labels": labels})
