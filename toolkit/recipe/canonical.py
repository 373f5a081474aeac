"""One writing of a recipe: everything resolved, in one order. Its digest names the run."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence

from pydantic import JsonValue
from ruamel.yaml import YAML
from ruamel.yaml.nodes import Node
from ruamel.yaml.representer import SafeRepresenter

from toolkit.recipe.recipe import StrategyOverrides
from toolkit.recipe.schema import RecipeFile
from toolkit.strategies.strategy import Strategy

_DECIDES_NOTHING = ("name", "description")


class _Representer(SafeRepresenter):
    """Quotes what ruamel would write plainly and read as something else: a key's mark, and a line's end of Unicode."""

    def represent_str(self, data: str) -> Node:
        style = '"' if data.startswith("?") or "\x85" in data else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_Representer.add_representer(str, _Representer.represent_str)


def canonical_content(
    file: RecipeFile, strategies: Sequence[Strategy], overrides: Mapping[str, StrategyOverrides]
) -> dict[str, JsonValue]:
    """A recipe with every default filled in and every adapter's settings whole; absent keys stay absent."""
    content: dict[str, JsonValue] = file.model_dump(mode="json", by_alias=True)
    content["strategies"] = {
        strategy.name: [*_settings(overrides[strategy.name]), *_adapters(strategy)] for strategy in strategies
    }
    return {key: value for key, value in content.items() if value is not None}


def canonical_text(content: Mapping[str, JsonValue]) -> str:
    """The content as YAML."""
    yaml = YAML(typ="safe", pure=True)
    yaml.Representer = _Representer
    yaml.default_flow_style = None
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]  # typed as None by ruamel
    yaml.width = 120
    written = io.StringIO()
    yaml.dump(dict(content), written)
    return written.getvalue()


def canonical_digest(content: Mapping[str, JsonValue]) -> str:
    """sha256 of what decides the results, whatever the order of keys."""
    deciding = {key: value for key, value in content.items() if key not in _DECIDES_NOTHING}
    return hashlib.sha256(json.dumps(deciding, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def _settings(overrides: StrategyOverrides) -> list[JsonValue]:
    values = {"model": overrides.model, "template": overrides.template, "answer_by": overrides.answer_by}
    entries: list[JsonValue] = [{key: value} for key, value in values.items() if value is not None]
    if overrides.decoding is not None:
        entries.append({"decoding": overrides.decoding.model_dump(mode="json", exclude_none=True)})
    return entries


def _adapters(strategy: Strategy) -> list[JsonValue]:
    return [{adapter.kind: adapter.settings.model_dump(mode="json", by_alias=True)} for adapter in strategy.adapters]
