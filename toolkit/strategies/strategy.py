"""Strategy: a name and an ordered list of adapters, as a recipe says it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.metadata import entry_points
from pathlib import Path

from toolkit.errors import RecipeError, nearest
from toolkit.strategies.adapter import Adapter

ENTRY_POINTS = "toolkit.adapters"


@dataclass(frozen=True)
class NamedAdapter:
    """An adapter under the name its recipe uses."""

    kind: str
    settings: Adapter


@dataclass(frozen=True)
class Strategy:
    """An ordered stack of adapters. Order matters: `[retrieve, tune]` is tuned on retrieved drafts."""

    name: str
    adapters: tuple[NamedAdapter, ...]

    @property
    def seeded(self) -> bool:
        return any(adapter.settings.seeded for adapter in self.adapters)

    @property
    def control(self) -> bool:
        return any(adapter.settings.control for adapter in self.adapters)

    @property
    def uses(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for adapter in self.adapters for name in adapter.settings.uses()))

    @property
    def trained_elsewhere(self) -> bool:
        return any(adapter.settings.trained_elsewhere for adapter in self.adapters)

    def beside(self, recipe: Path) -> Strategy:
        """The strategy as that recipe's: what its adapters name is also looked for beside the recipe's file."""
        return replace(
            self, adapters=tuple(NamedAdapter(item.kind, item.settings.beside(recipe)) for item in self.adapters)
        )

    def label(self) -> str:
        """`retrieve + tune`, or `no adaptation`."""
        return " + ".join(adapter.kind for adapter in self.adapters) or "no adaptation"


@lru_cache(maxsize=1)
def installed_adapters() -> Mapping[str, type[Adapter]]:
    """Adapters by name, ours and anyone's, from the entry points `toolkit.adapters`.

    Raises:
        RecipeError: an entry point does not load or is no Adapter.
    """
    found: dict[str, type[Adapter]] = {}
    for point in entry_points(group=ENTRY_POINTS):
        try:
            loaded = point.load()
        except (ImportError, AttributeError) as error:
            raise RecipeError(f"the adapter '{point.name}' ({point.value}) does not load: {error}") from error
        if not (isinstance(loaded, type) and issubclass(loaded, Adapter)):
            raise RecipeError(f"the adapter '{point.name}' ({point.value}) is no subclass of toolkit.Adapter")
        if found.get(point.name, loaded) is not loaded:
            raise RecipeError(f"two installed packages name an adapter '{point.name}'; one is {point.value}")
        found[point.name] = loaded
    return found


def adapter_class(kind: str) -> type[Adapter]:
    """The adapter a recipe names. Raises RecipeError with the nearest match."""
    installed = installed_adapters()
    if kind not in installed:
        raise RecipeError(
            f"unknown adapter '{kind}'{nearest(kind, installed)}; installed: {', '.join(sorted(installed))}"
        )
    return installed[kind]


def in_order_of_use(strategies: Sequence[Strategy]) -> list[Strategy]:
    """Strategies so that each comes after those it uses, the recipe's order otherwise kept.

    Raises:
        RecipeError: a name that is not there, or a circle.
    """
    by_name = {strategy.name: strategy for strategy in strategies}
    done: dict[str, Strategy] = {}

    def visit(strategy: Strategy, path: tuple[str, ...]) -> None:
        if strategy.name in done:
            return
        if strategy.name in path:
            raise RecipeError(f"strategies use each other in a circle: {' -> '.join((*path, strategy.name))}")
        for name in strategy.uses:
            if name not in by_name:
                hint = nearest(name, by_name)
                raise RecipeError(f"strategy '{strategy.name}' uses '{name}', which is not there{hint}")
            visit(by_name[name], (*path, strategy.name))
        done[strategy.name] = strategy

    for strategy in strategies:
        visit(strategy, ())
    return list(done.values())
