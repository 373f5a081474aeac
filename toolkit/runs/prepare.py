"""From a recipe to what strategies are fitted with: task, models, conditions, benches. Nothing is computed yet."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, get_args

from toolkit.comparison.fairness import FactorSheet, check_contrast, check_lengths, check_splits, check_trials_ahead
from toolkit.errors import RecipeError, listing
from toolkit.evaluation import metrics_for
from toolkit.evaluation.metric import Metric
from toolkit.inference import FoundationModel, LocalModel, RemoteModel, Sampling
from toolkit.meter import Meter
from toolkit.recipe import Recipe
from toolkit.recipe.schema import Decoding
from toolkit.rendering import Template
from toolkit.rendering.template import check_inputs
from toolkit.runs.checks import check_adapters, check_contrasts, check_lessons, declares
from toolkit.runs.environment import environment, versions
from toolkit.runs.hosted import check_tunable, falls_back, with_fallbacks
from toolkit.store import Store
from toolkit.strategies.bench import Bench
from toolkit.strategies.strategy import Strategy
from toolkit.strategies.system import AnswerBy, Conditions, Likelihood, written_choices
from toolkit.tasks.load import load_task
from toolkit.tasks.task import Task

if TYPE_CHECKING:
    from toolkit.retrieval import Encoder

ModelLoader = Callable[[str], FoundationModel]


@dataclass(frozen=True)
class Prepared:
    """A recipe made ready.

    Attributes:
        benches: by strategy; strategies under the same model and conditions share one.
        sheets: the factor sheet of each strategy.
        metrics: the primary one first.
    """

    recipe: Recipe
    task: Task
    benches: Mapping[str, Bench]
    sheets: Mapping[str, FactorSheet]
    metrics: tuple[Metric, ...]

    @property
    def models(self) -> dict[str, FoundationModel]:
        """By name; two folders of one name are told apart by their digests."""
        found: dict[str, FoundationModel] = {}
        for model in (bench.model for bench in self.benches.values()):
            taken = found.setdefault(model.name, model)
            if taken is not model:
                found[f"{model.name} ({model.digest[:12]})"] = model
        return found


def prepare(
    recipe: Recipe, store: Store, meter: Meter, load: ModelLoader | None = None, finished: bool = False
) -> Prepared:
    """Loads the task and the models and checks everything that can be checked before a model call.

    Args:
        load: from a catalog name to a model; by default through `toolkit.models`, local or served.
        finished: all parts are fitted, so that what only fitting needs may be gone.

    Raises:
        ToolkitError: all that is wrong with the recipe's task, adapters, splits, contrasts or lengths.
    """
    task = load_task(recipe.task, recipe.path)
    if recipe.metrics:
        task = replace(task, metrics=tuple(recipe.metrics))
    metrics = metrics_for(task.metrics, task.contract)
    check_contrasts(recipe, metrics)
    check_splits(task)
    recipe = replace(recipe, strategies=tuple(strategy.beside(recipe.path) for strategy in recipe.strategies))
    if not finished:
        check_adapters(recipe, task)
    with meter.stage("load"):
        load_once = lru_cache(maxsize=None)(load or (lambda name: load_model(name, recipe, store, meter)))
        embedder = _embedder(recipe, meter)
        benches = _benches(recipe, task, metrics[0], store, meter, load_once, embedder)
    if not finished:
        check_tunable(recipe, benches)
        _tell_plain_paths(benches, meter)
    sheets = {name: factor_sheet(bench) for name, bench in benches.items()}
    recipe = replace(recipe, contrasts=with_fallbacks(recipe.contrasts, benches))
    trying = {one.name for one in recipe.strategies if any(adapter.settings.makes_trials for adapter in one.adapters)}
    for contrast in recipe.contrasts:
        check_contrast(contrast.a, contrast.b, sheets, contrast.varies)
        if not finished:
            check_trials_ahead(contrast.a, contrast.b, trying, recipe.unequal_trials)
    for strategy in recipe.strategies:
        if any(declares(adapter.settings, "corpus") for adapter in strategy.adapters):
            _ = benches[strategy.name].corpus_digest  # an unreadable corpus is told before anything is computed
    if recipe.over_length == "stop":
        _check_lengths(task, benches)
    if not finished:
        check_lessons(recipe, benches)
    return Prepared(recipe, task, benches, sheets, metrics)


def load_model(name: str, recipe: Recipe, store: Store, meter: Meter) -> FoundationModel:
    """A catalog entry's model: behind a server, which is not asked anything yet, or with its weights in this process.

    Args:
        store: keeps what the server answers.
    """
    from toolkit.models import resolve

    entry = resolve(name, "model", recipe.path)
    if entry.source.endpoint is None:
        return load_local(name, recipe, meter)
    model = RemoteModel.of(entry, store, lambda text: meter.event("notice", text=text, settled=True))
    meter.event("model", model=name, url=model.endpoint.url, served=list(model.endpoint.models))
    return model


def load_local(name: str, recipe: Recipe, meter: Meter) -> FoundationModel:
    """A catalog entry's weights in this process."""
    from toolkit.models import load_pretrained, resolve, tune_cpu

    tune_cpu()

    def notice(text: str) -> None:
        meter.event("notice", text=text)

    loaded = load_pretrained(resolve(name, "model", recipe.path), recipe.dtype, recipe.device, notice)
    meter.event("model", model=loaded.name, dtype=loaded.dtype, why=loaded.dtype_reason, device=loaded.device)
    return LocalModel.of(loaded, recipe.batch_tokens)


def factor_sheet(bench: Bench) -> FactorSheet:
    conditions = bench.conditions
    return FactorSheet(
        model=f"{bench.model.name} ({bench.model.digest[:12]}{falls_back(bench.model)})",
        dtype=str(bench.environment["dtype"]),
        decoding=_decoding_in_words(conditions.sampling),
        answer_by=str(conditions.likelihood) if conditions.answer_by == "likelihood" else conditions.answer_by,
        template=f"{conditions.template.name} ({conditions.template.digest[:12]})",
    )


def _decoding_in_words(sampling: Sampling) -> str:
    words = [f"at most {sampling.max_new_tokens} new tokens"]
    if sampling.temperature == 0:
        words.append("greedy")
    else:
        words.append(f"temperature {sampling.temperature:g}")
        words += [f"top-p {sampling.top_p:g}"] if sampling.top_p < 1 else []
        words += [f"{sampling.samples} samples"] if sampling.samples > 1 else []
    words += [f"up to {text!r}" for text in sampling.stop]
    return ", ".join(words)


def _benches(
    recipe: Recipe,
    task: Task,
    primary: Metric,
    store: Store,
    meter: Meter,
    load: ModelLoader,
    embedder: Callable[[], Encoder] | None,
) -> dict[str, Bench]:
    fitting_task = task.without_test()
    made: dict[tuple[str, str, str | None, Decoding], Bench] = {}
    benches = {}
    for strategy in recipe.strategies:
        own = recipe.overrides[strategy.name]
        name = recipe.model_of(strategy.name)
        template = own.template or recipe.template
        answer_by = own.answer_by or recipe.answer_by
        decoding = recipe.decoding_of(strategy.name)
        wanted = (name, template, answer_by, decoding)
        if wanted not in made:
            model = load(name)
            conditions = Conditions(
                template=Template.load(template, recipe.path),
                contract=task.contract,
                answer_by=_answer_by(answer_by, task, model),
                sampling=Sampling(**dict(decoding)),
                likelihood=Likelihood(**dict(recipe.likelihood)),
                shared_groups=task.shared_groups is not None,
                over_length=recipe.over_length,
            )
            _check_conditions(recipe, strategy.name, conditions)
            check_inputs(conditions.template, task.test[0].inputs, task.contract.labels)
            facts = environment(model, recipe)
            made[wanted] = Bench(fitting_task, model, conditions, facts, versions(), embedder, primary, store, meter)
        benches[strategy.name] = made[wanted]
    scored = any(bench.conditions.answer_by == "likelihood" for bench in benches.values())
    if Likelihood(**dict(recipe.likelihood)) != Likelihood() and not scored:
        raise RecipeError(
            f"{recipe.where('likelihood')}: all answers are generated here, none is scored; set answer_by: likelihood"
        )
    return benches


def _check_conditions(recipe: Recipe, strategy: str, conditions: Conditions) -> None:
    """Settings that would have no effect are errors: a reader would believe that they had one."""
    sampling, problems = conditions.sampling, []
    if sampling.samples > 1 and sampling.temperature == 0:
        problems.append("decoding.samples: greedy answers are all alike; set decoding.temperature above 0")
    if sampling.temperature > 0 and conditions.answer_by == "likelihood":
        problems.append("decoding.temperature: choices are scored, not drawn; set answer_by: generation")
    if sampling.top_p < 1 and sampling.temperature == 0:
        problems.append("decoding.top_p: greedy answers are not drawn; set decoding.temperature above 0")
    if sampling.stop and conditions.answer_by == "likelihood":
        problems.append("decoding.stop: choices are scored, not written; set answer_by: generation")
    if problems:
        raise RecipeError(listing(problems, recipe.where("strategies", strategy)))


def _answer_by(asked: str | None, task: Task, model: FoundationModel) -> AnswerBy:
    if asked is None:
        return "likelihood" if task.contract.kind == "choice" and model.can_score else "generation"
    if asked not in get_args(AnswerBy):
        raise RecipeError(f"answer_by: '{asked}' is none of {', '.join(get_args(AnswerBy))}")
    if asked == "likelihood" and task.contract.kind != "choice":
        raise RecipeError("answer_by: likelihood needs a choice task; use generation")
    if asked == "likelihood" and not model.can_score:
        raise RecipeError(f"answer_by: the model '{model.name}' cannot score choices; use `answer_by: generation`")
    return "likelihood" if asked == "likelihood" else "generation"


def _embedder(recipe: Recipe, meter: Meter) -> Callable[[], Encoder] | None:
    if recipe.embedder is None:
        return None
    from toolkit.models import resolve

    entry = resolve(recipe.embedder, "embedder", recipe.path)  # a wrong name is told before anything is computed

    @lru_cache(maxsize=1)
    def load() -> Encoder:
        from toolkit.models import fetch_weights
        from toolkit.retrieval import Encoder

        def notice(text: str) -> None:
            meter.event("notice", text=text)

        return Encoder.load(str(fetch_weights(entry, notice).folder))

    return load


def _tell_plain_paths(benches: Mapping[str, Bench], meter: Meter) -> None:
    """Whoever waits for such a model should know why."""
    models = {id(bench.model): bench.model for bench in benches.values()}
    for model in models.values():
        if isinstance(model, LocalModel) and model.why_plain is not None:
            text = (
                f"'{model.name}' answers row by row, several times slower and with the same numbers: {model.why_plain}"
            )
            meter.event("notice", text=text, settled=True)


def _check_lengths(task: Task, benches: Mapping[str, Bench]) -> None:
    checked: set[int] = set()
    for bench in benches.values():
        context = bench.model.context_tokens
        if id(bench) in checked or context is None:
            continue
        checked.add(id(bench))
        renderer, reserved = bench.model.renderer, bench.conditions.sampling.max_new_tokens
        if bench.conditions.answer_by == "likelihood":
            reserved = max(map(len, renderer.continuations(written_choices(task.contract, task.test[0]))))
        examples = (*task.train, *task.validation, *task.test)
        check_lengths(examples, task, bench.conditions.template, renderer, context - reserved)


def seeds_of(strategy: Strategy, recipe: Recipe) -> tuple[int | None, ...]:
    """The recipe's seeds, or one run without a seed where none matters to it or to a strategy it uses.

    A seed matters to adapters that say so, and to all strategies whose answers are drawn.
    """
    pending, seen = [strategy], {strategy.name}
    while pending:
        item = pending.pop()
        if item.seeded or recipe.decoding_of(item.name).temperature > 0:
            return tuple(recipe.seeds)
        pending += [recipe.strategy(name) for name in item.uses if name not in seen]
        seen |= set(item.uses)
    return (None,)
