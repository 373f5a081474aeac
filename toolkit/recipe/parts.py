"""A recipe's strategies: lists of adapters, and of settings that belong to one strategy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import JsonValue

from toolkit.errors import RecipeError, nearest
from toolkit.recipe.document import Document, Place, Problem
from toolkit.recipe.explain import found_text, validated
from toolkit.recipe.recipe import StrategyOverrides
from toolkit.recipe.schema import StrategySettings
from toolkit.strategies.strategy import NamedAdapter, Strategy, adapter_class, in_order_of_use

SETTINGS = tuple(StrategySettings.model_fields)
"""Entries of a strategy that are no adapters."""


@dataclass
class Strategies:
    """The strategies that could be read, in the recipe's order, and what is wrong with the others."""

    found: dict[str, Strategy] = field(default_factory=dict)
    overrides: dict[str, StrategyOverrides] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def read_strategies(document: Document) -> Strategies:
    """All strategies of a recipe. What is no mapping of lists is left to the recipe's schema."""
    strategies = Strategies()
    written = document.data.get("strategies")
    if not isinstance(written, Mapping):
        return strategies
    for name, entries in written.items():
        if isinstance(entries, list):
            reader = _StrategyReader(document, name)
            strategy = reader.read(entries)
            strategies.problems += reader.problems
            if not reader.problems:
                strategies.found[name] = strategy
                strategies.overrides[name] = reader.overrides()
    strategies.problems += _unknown_uses(document, strategies.found, written)
    if not strategies.problems and len(strategies.found) == len(written):
        try:
            in_order_of_use(list(strategies.found.values()))
        except RecipeError as error:
            strategies.problems.append(document.problem(("strategies",), str(error)))
    return strategies


def _unknown_uses(document: Document, found: Mapping[str, Strategy], written: Mapping[str, JsonValue]) -> list[Problem]:
    return [
        document.problem(
            ("strategies", strategy.name),
            f"uses the strategy '{used}', which is not there{nearest(used, written)}; strategies: {', '.join(written)}",
        )
        for strategy in found.values()
        for used in strategy.uses
        if used not in written
    ]


class _StrategyReader:
    """Reads the entries of one strategy."""

    def __init__(self, document: Document, name: str) -> None:
        self.problems: list[Problem] = []
        self._document, self._name = document, name
        self._settings: dict[str, StrategySettings] = {}

    def read(self, entries: list[JsonValue]) -> Strategy:
        adapters = []
        for index, entry in enumerate(entries):
            place: Place = ("strategies", self._name, index)
            if isinstance(entry, str):
                adapters.append(self._adapter((*place, entry), entry, None))
            elif isinstance(entry, Mapping) and len(entry) == 1:
                kind, settings = next(iter(entry.items()))
                if kind in SETTINGS:
                    self._set((*place, kind), kind, settings)
                else:
                    adapters.append(self._adapter((*place, kind), kind, settings))
            else:
                self._problem(
                    place,
                    f"must be one adapter, as `name` or `name: {{settings}}`, found {found_text(entry)}",
                )
        return Strategy(self._name, tuple(adapter for adapter in adapters if adapter is not None))

    def overrides(self) -> StrategyOverrides:
        decoding = self._settings["decoding"].decoding if "decoding" in self._settings else None
        return StrategyOverrides(
            model=self._settings["model"].model if "model" in self._settings else None,
            template=self._settings["template"].template if "template" in self._settings else None,
            answer_by=self._settings["answer_by"].answer_by if "answer_by" in self._settings else None,
            decoding=decoding,
        )

    def _adapter(self, place: Place, kind: str, settings: JsonValue) -> NamedAdapter | None:
        try:
            adapter = adapter_class(kind)
        except RecipeError as error:
            others = f"a strategy may also set {', '.join(SETTINGS)}{nearest(kind, SETTINGS)}"
            self._problem(place, f"{error}; {others}")
            return None
        if settings is None:
            settings = {}
        if not isinstance(settings, Mapping):
            names = ", ".join(adapter.model_fields) or "none"
            self._problem(place, f"must be a mapping of settings, found {found_text(settings)}; settings: {names}")
            return None
        read = validated(adapter, settings, self._document, place)
        if isinstance(read, list):
            self.problems += read
            return None
        return NamedAdapter(kind, read)

    def _set(self, place: Place, key: str, value: JsonValue) -> None:
        if key in self._settings:
            self._problem(place, "is set twice in this strategy")
            return
        if value is None:
            self._problem(place, "must have a value, found nothing")
            return
        read = validated(StrategySettings, {key: value}, self._document, place[:-1])
        if isinstance(read, list):
            self.problems += read
            return
        self._settings[key] = read
        if read.model is not None:
            self._check_model(place, read.model)

    def _check_model(self, place: Place, name: str) -> None:
        models = self._document.data.get("models")
        names = list(models) if isinstance(models, Mapping) else []
        if name not in names:
            known = ", ".join(names) or "none"
            self._problem(place, f"'{name}' is no key of the recipe's `models`{nearest(name, names)}; keys: {known}")

    def _problem(self, place: Place, message: str) -> None:
        self.problems.append(self._document.problem(place, message))
