from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field

from toolkit.errors import RecipeError
from toolkit.recipe import load_recipe
from toolkit.strategies import strategy
from toolkit.strategies.adapter import Adapter

Write = Callable[[str], Path]


class PromptAdapter(Adapter):
    shots: int = Field(default=4, ge=0)
    select: Literal["random", "balanced", "nearest"] = "random"
    template: str | None = None


class RetrieveAdapter(Adapter):
    top_k: int = Field(default=3, ge=1)
    size_tokens: int = Field(default=160, ge=16)


class TuneAdapter(Adapter):
    rank: int = Field(default=16, ge=1)
    learning_rate: Literal["auto"] | float = "auto"
    modules: tuple[str, ...] = ()

    @property
    def seeded(self) -> bool:
        return True


class OracleAdapter(RetrieveAdapter):
    control: ClassVar[bool] = True


class Rule(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    threshold: float = 0.5


class CascadeAdapter(Adapter):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    first: str
    rule: Rule = Rule()

    def uses(self) -> tuple[str, ...]:
        return (self.first,)


ADAPTERS: dict[str, type[Adapter]] = {
    "prompt": PromptAdapter,
    "retrieve": RetrieveAdapter,
    "tune": TuneAdapter,
    "oracle": OracleAdapter,
    "cascade": CascadeAdapter,
}


@pytest.fixture(autouse=True)
def adapters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strategy, "installed_adapters", lambda: ADAPTERS)


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes a recipe into the working directory, so that errors call it `mine.yaml`."""
    monkeypatch.chdir(tmp_path)

    def written(text: str) -> Path:
        path = tmp_path / "mine.yaml"
        path.write_text(textwrap.dedent(text).lstrip("\n"), encoding="utf-8")
        return path

    return written


@pytest.fixture
def problems(write: Write) -> Callable[..., list[str]]:
    """The problems of a recipe, as listed."""

    def found(text: str, *overrides: str) -> list[str]:
        path = write(text)
        with pytest.raises(RecipeError) as caught:
            load_recipe(path, overrides)
        heading, _, rest = str(caught.value).partition("\n")
        if not rest:
            return [heading.removeprefix("recipe 'mine': ")]
        lines = [line.removeprefix("  - ") for line in rest.split("\n")]
        assert heading == f"recipe 'mine': {len(lines)} problems"
        return lines

    return found
