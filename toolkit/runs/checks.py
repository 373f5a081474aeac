"""What in a recipe's adapters and contrasts does not suit its task and models, before anything is computed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain

from toolkit.errors import RecipeError, listing, nearest
from toolkit.evaluation import Metric
from toolkit.inference import LocalModel
from toolkit.recipe import ContrastSpec, Recipe
from toolkit.strategies.adapter import Adapter, Dependency
from toolkit.strategies.bench import Bench
from toolkit.strategies.learning import Learn, check_rows
from toolkit.tasks.doctor_corpus import standing_in
from toolkit.tasks.task import Task

SHOWN_LEAKS = 5


def check_adapters(recipe: Recipe, task: Task) -> None:
    problems = [
        f"{recipe.where('strategies', strategy.name)}: {adapter.kind}: {problem}"
        for strategy in recipe.strategies
        for adapter in strategy.adapters
        for problem in (
            *adapter.settings.check(task.without_test()),
            *_missing(adapter.settings, recipe),
            *_leaks(adapter.settings, task),
        )
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


def _leaks(settings: Adapter, task: Task) -> list[str]:
    """Questions of test and validation that stand in what the adapter learns from besides the task."""
    questions = iter(settings.questions())
    first = next(questions, None)
    if first is None:
        return []
    tested = {example.id for example in task.test}
    found = [
        f"{place} asks word for word what the {'test' if example.id in tested else 'validation'} example "
        f"'{example.id}' asks; take that conversation out"
        for example, place in standing_in((*task.test, *task.validation), chain([first], questions))
    ]
    more = [f"and {len(found) - SHOWN_LEAKS} more"] if len(found) > SHOWN_LEAKS else []
    return [*found[:SHOWN_LEAKS], *more]


def check_lessons(recipe: Recipe, benches: Mapping[str, Bench]) -> None:
    """What tuning would learn of train's rows: faults that only the model's tokeniser and chat format show.

    Raises:
        ToolkitError: training would refuse them, an hour into a run.
    """
    seen: set[tuple[int, str]] = set()
    for strategy in recipe.strategies:
        bench = benches[strategy.name]
        if bench.model.renderer.chat is None:
            continue  # a hosted model, or one that is not here: nothing is known of its tokens
        left_out = recipe.over_length != "stop"  # what is too long
        module = bench.model.module if isinstance(bench.model, LocalModel) and not left_out else None
        for settings in (adapter.settings for adapter in strategy.adapters):
            learn: Learn = getattr(settings, "learn", "answers")
            if settings.tunes and settings.learns_answers and (id(bench), learn) not in seen:
                seen.add((id(bench), learn))
                check_rows(bench.task, bench.model.renderer, bench.conditions.template, learn, module)


def check_contrasts(recipe: Recipe, metrics: Sequence[Metric]) -> None:
    """Of each contrast its metric and margin; the first of the metrics is the primary one."""
    known = {metric.name: metric for metric in metrics}
    if problem := _too_wide(recipe.margin, metrics[0]):
        raise RecipeError(f"{recipe.where('margin')}: {problem}")
    problems = [
        f"{contrast.a} - {contrast.b}: {problem}"
        for contrast in recipe.contrasts
        for problem in _in_contrast(contrast, known, metrics[0])
    ]
    if problems:
        raise RecipeError(listing(problems, f"{recipe.where('contrasts')}: metrics are {', '.join(known)}"))


def _in_contrast(contrast: ContrastSpec, known: Mapping[str, Metric], primary: Metric) -> Iterator[str]:
    if contrast.metric is not None and contrast.metric not in known:
        yield f"'{contrast.metric}' is not measured{nearest(contrast.metric, list(known))}"
        return
    metric = primary if contrast.metric is None else known[contrast.metric]
    if metric.informational:
        yield f"'{metric.name}' ranks nothing: neither side can be better on it"
    if contrast.metric == primary.name:
        yield f"'{contrast.metric}' is the primary metric, on which contrasts are anyway: leave `metric` out"
    if problem := _too_wide(contrast.margin, metric):
        yield problem


def _too_wide(margin: float | None, metric: Metric) -> str | None:
    low, high = metric.bounds
    if margin is None or margin < high - low:
        return None
    return (
        f"the margin {margin:g} is as wide as {metric.name}, from {low:g} to {high:g}, so that any two would be "
        "equivalent: it is in the metric's own unit, where 0.02 is 2 points"
    )


def declares(settings: Adapter, dependency: Dependency) -> bool:
    """An adapter that does not say what it depends on is taken to depend on everything, and to need nothing."""
    return type(settings).depends_on is not Adapter.depends_on and dependency in settings.depends_on()


def _missing(settings: Adapter, recipe: Recipe) -> list[str]:
    if recipe.embedder is None and declares(settings, "encoder"):
        return ["needs an embedder and the recipe names none: add `embedder: all-minilm-l6-v2`"]
    return []
