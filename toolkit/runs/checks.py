"""What in a recipe's adapters and contrasts does not suit its task and models, before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from toolkit.errors import RecipeError, listing, nearest
from toolkit.recipe import Recipe
from toolkit.strategies.adapter import Adapter, Dependency
from toolkit.strategies.bench import Bench
from toolkit.tasks.task import Task


def check_adapters(recipe: Recipe, task: Task) -> None:
    problems = [
        f"{recipe.where('strategies', strategy.name)}: {adapter.kind}: {problem}"
        for strategy in recipe.strategies
        for adapter in strategy.adapters
        for problem in (*adapter.settings.check(task.without_test()), *_missing(adapter.settings, recipe))
    ]
    for strategy in recipe.strategies:
        tuned = [adapter.kind for adapter in strategy.adapters if adapter.settings.tunes]
        if len(tuned) > 1:
            problems.append(
                f"{recipe.where('strategies', strategy.name)}: {' and '.join(tuned)} both bring weights, and a "
                "strategy takes one such part; to go on from an adapter, merge it and name that folder as `model:`"
            )
    if problems:
        raise RecipeError(listing(problems, "the recipe does not suit its task"))


def check_models(recipe: Recipe, benches: Mapping[str, Bench]) -> None:
    problems = [
        f"{recipe.where('strategies', strategy.name)}: {adapter.kind}: {problem}"
        for strategy in recipe.strategies
        for adapter in strategy.adapters
        for problem in adapter.settings.check_model(benches[strategy.name].model)
    ]
    if problems:
        raise RecipeError(listing(problems, "the recipe does not suit its models"))


def check_contrast_metrics(recipe: Recipe, known: Sequence[str]) -> None:
    problems = [
        f"{contrast.a} - {contrast.b}: '{contrast.metric}' is not measured{nearest(contrast.metric, known)}"
        for contrast in recipe.contrasts
        if contrast.metric is not None and contrast.metric not in known
    ]
    if problems:
        raise RecipeError(listing(problems, f"{recipe.where('contrasts')}: metrics are {', '.join(known)}"))


def declares(settings: Adapter, dependency: Dependency) -> bool:
    """An adapter that does not say what it depends on is taken to depend on everything, and to need nothing."""
    return type(settings).depends_on is not Adapter.depends_on and dependency in settings.depends_on()


def _missing(settings: Adapter, recipe: Recipe) -> list[str]:
    if recipe.embedder is None and declares(settings, "encoder"):
        return ["needs an embedder and the recipe names none: add `embedder: all-minilm-l6-v2`"]
    return []
