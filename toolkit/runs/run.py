"""The road on one page: recipe -> task and model -> fit -> answer -> score table -> contrasts -> verdict -> report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.comparison.fairness import check_base
from toolkit.errors import FairnessError
from toolkit.evaluation import score_outputs, usage_rows, write_scores, write_usage
from toolkit.inference import FoundationModel
from toolkit.json_lines import read_lines
from toolkit.meter import Listener, Meter
from toolkit.models.whole import holds_all_weights
from toolkit.recipe import Recipe, load_recipe
from toolkit.resources import cache_folder
from toolkit.runs.after import merge_report, prompt_report, time_one_by_one
from toolkit.runs.chunks import answer_in_chunks
from toolkit.runs.folder import RunFolder, opened
from toolkit.runs.hosted import check_keys, expires, tell_accounts
from toolkit.runs.ledger import Costed, ledger
from toolkit.runs.limits import machine_limits
from toolkit.runs.manifest import manifest
from toolkit.runs.prepare import ModelLoader, Prepared, prepare, seeds_of
from toolkit.runs.records import pretty
from toolkit.runs.summary import Judged, compare
from toolkit.runs.tracked import tracked, trackers_of
from toolkit.store import Store, key_of, write_atomically
from toolkit.strategies.adapter import Answerer
from toolkit.strategies.fitting import Fitted, fit
from toolkit.strategies.strategy import Strategy, in_order_of_use
from toolkit.tasks.example import Example
from toolkit.tasks.output import Output
from toolkit.tasks.splits import sample
from toolkit.tracking import Tracker


@dataclass(frozen=True)
class Answered:
    """One fitted strategy and seed with its outputs on the test set."""

    strategy: Strategy
    seed: int | None
    fitted: Fitted
    outputs: tuple[Output, ...]


@dataclass(frozen=True)
class RunResult:
    """Where a run lies, and its comparison as in `comparison.json`."""

    folder: Path
    comparison: Mapping[str, Any]
    ledger: Mapping[str, Any]


def run(
    recipe: str | Path | Recipe,
    overrides: Sequence[str] = (),
    out: Path | None = None,
    fresh: bool = False,
    replace: bool = False,
    listener: Listener | None = None,
    load: ModelLoader | None = None,
    store: Path | None = None,
    trackers: Sequence[str | Tracker] = (),
) -> RunResult:
    """Runs a recipe and leaves the files of a run folder.

    Args:
        recipe: a path, a shipped recipe's name, or a loaded recipe.
        overrides: `key=value` by dotted path (`limit=8` takes a seeded sample and marks the run SMOKE).
        out: the run folder; `runs/<recipe>-<digest>` by default. The same command goes on where a killed one stood.
        fresh: ignore what the Store and the folder hold: compute everything anew.
        replace: move another recipe's run in `out` aside.
        listener: told of every event, for a live view.
        load: from a model's name to a model; for scripted and hosted models.
        store: the Store's folder; the user's cache by default.
        trackers: told of trainings besides `training.jsonl`: `tensorboard`, `mlflow`, or a `Tracker` of your own.

    Raises:
        ToolkitError: one message a person can act on; finished work is kept.
    """
    loaded = recipe if isinstance(recipe, Recipe) else load_recipe(recipe, overrides)
    root = out if out is not None else Path("runs") / f"{loaded.name}-{loaded.digest[:8]}"
    chosen = trackers_of(trackers, RunFolder(root))  # one that is not installed is told before anything is computed
    with opened(root, loaded, replace) as folder, tracked(chosen, loaded, folder.listener(listener)) as told:
        kept = Store(store if store is not None else cache_folder() / "store", read=not fresh)
        with machine_limits(root):
            result = _run(loaded, folder, kept, Meter(told), load)
        told.conclude(result.comparison)
        return result


def _run(recipe: Recipe, folder: RunFolder, store: Store, meter: Meter, load: ModelLoader | None) -> RunResult:
    prepared = prepare(recipe, store, meter, load)
    recipe = prepared.recipe
    check_keys(prepared.models.values())
    if not store.read:
        folder.forget()
    examples = prepared.task.test
    if recipe.limit is not None and recipe.limit < len(examples):
        examples = sample(examples, recipe.limit, recipe.seeds[0])
    folder.begin(pretty(manifest(prepared, len(examples))))
    answered = _answer_all(prepared, examples, folder, store, meter)
    tell_accounts(prepared.models.values(), meter)
    scorings = store.count_scoring(prepared.task.test_digest, _counted_as(recipe))
    meter.event("statistics", strategies=len(answered))
    _write_tables(prepared, examples, answered, folder)
    merges = _weigh(prepared, answered, folder, store, meter)
    comparison = compare(prepared, folder.scores, folder.usage, _judged(answered), len(examples), scorings, merges)
    write_atomically(folder.comparison, pretty(comparison))
    _time(prepared, examples, answered, folder, meter)
    costs = _ledger(prepared, answered, folder)
    write_atomically(folder.ledger, pretty(costs))
    from toolkit.report import write_report

    write_report(folder.root)
    meter.event("done", report=str(folder.report))
    return RunResult(folder.root, comparison, costs)


def _counted_as(recipe: Recipe) -> str:
    """One scoring of the test set: another thing in a place that the recipe names is another one."""
    settings = [adapter.settings for strategy in recipe.strategies for adapter in strategy.adapters]
    contents = [dict(one.content()) for one in settings if one.places]
    return key_of({"recipe": recipe.digest, "contents": contents}) if contents else recipe.digest


def _answer_all(
    prepared: Prepared, examples: Sequence[Example], folder: RunFolder, store: Store, meter: Meter
) -> list[Answered]:
    """Every strategy and seed, in an order that respects `uses`; the base model is checked after each."""
    recipe = prepared.recipe
    done: dict[tuple[str, int | None], Answered] = {}
    for strategy in in_order_of_use(recipe.strategies):
        bench = prepared.benches[strategy.name]
        for seed in seeds_of(strategy, recipe):
            meter.event("strategy", strategy=strategy.name, seed=seed, label=strategy.label())

            def other(name: str, seed: int | None = seed) -> Answerer:
                found = done.get((name, seed)) or done.get((name, None)) or done[(name, recipe.seeds[0])]
                return found.fitted.system

            with _base_unchanged(prepared, strategy.name, seed, folder, store):
                fitted = fit(strategy, seed, bench.seeded(seed), folder.system(strategy.name, seed), other)
            with _base_unchanged(prepared, strategy.name, seed, folder, store):
                path = folder.outputs(strategy.name, seed)
                kept = None if expires(strategy, recipe, prepared.benches) else store
                size, models = recipe.chunk_examples, prepared.models.values()
                outputs = answer_in_chunks(fitted.system, examples, size, path, kept, meter, seed, models)
            done[(strategy.name, seed)] = Answered(strategy, seed, fitted, tuple(outputs))
    order = {strategy.name: place for place, strategy in enumerate(recipe.strategies)}
    return sorted(done.values(), key=lambda item: (order[item.strategy.name], item.seed or 0))


@contextmanager
def _base_unchanged(
    prepared: Prepared, strategy: str, seed: int | None, folder: RunFolder, store: Store
) -> Iterator[None]:
    """Refuses a strategy that changes a base model in the block, and removes what it left."""
    before = {name: _base_state(model) for name, model in prepared.models.items()}
    yield
    try:
        for name, model in prepared.models.items():
            check_base(before[name], _base_state(model), strategy)
    except FairnessError:
        folder.unkeep(strategy, seed, store)
        raise


def _write_tables(
    prepared: Prepared, examples: Sequence[Example], answered: Sequence[Answered], folder: RunFolder
) -> None:
    scores, usage = [], []
    for item in answered:
        bench = prepared.benches[item.strategy.name]
        scores += score_outputs(
            item.strategy.name,
            bench.model.name,
            bench.conditions.answer_by,
            item.seed,
            examples,
            item.outputs,
            prepared.metrics,
            prepared.task.contract,
        )
        usage += usage_rows(item.strategy.name, item.seed, item.outputs)
    write_scores(scores, folder.scores)
    write_usage(usage, folder.usage)


def _weigh(
    prepared: Prepared, answered: Sequence[Answered], folder: RunFolder, store: Store, meter: Meter
) -> dict[str, dict[str, Any]]:
    """Leaves beside tuned systems the prompt they expect, and of each strategy's first what merging would change."""
    merges: dict[str, dict[str, Any]] = {}
    for item in answered:
        name, system = item.strategy.name, item.fitted.system
        if system.weights is None:
            continue
        place = folder.system(name, item.seed)
        prompt_report(system, prepared.task.without_test(), place / "prompt.json")
        first = item.seed in (None, prepared.recipe.seeds[0])
        if first and not holds_all_weights(system.weights.folder):  # which have nothing to be merged
            model, asked = prepared.benches[name].model, prepared.task.validation[: prepared.recipe.limit]
            report = merge_report(system, model, asked, place / "merge.json", store, meter)
            if report is not None:
                merges[name] = report
    return merges


def _judged(answered: Sequence[Answered]) -> list[Judged]:
    by_name: dict[str, list[Answered]] = {}
    for item in answered:
        by_name.setdefault(item.strategy.name, []).append(item)
    return [
        Judged(items[0].strategy, tuple(item.seed for item in items), max(item.fitted.trials for item in items))
        for items in by_name.values()
    ]


def _time(
    prepared: Prepared, examples: Sequence[Example], answered: Sequence[Answered], folder: RunFolder, meter: Meter
) -> None:
    """The timed pass: the first seed of every strategy that is no control."""
    timings = read_lines(folder.timings)
    for item in answered:
        if item.strategy.control or item.seed not in (None, prepared.recipe.seeds[0]):
            continue
        system = item.fitted.system
        known = sum(row["stage"] == "latency" and row["system"] == system.key for row in timings)
        chosen = examples[: prepared.recipe.timing_examples]
        time_one_by_one(system, chosen, item.seed, known, prepared.models.values(), meter)


def _ledger(prepared: Prepared, answered: Sequence[Answered], folder: RunFolder) -> dict[str, Any]:
    from toolkit.evaluation import read_usage

    by_name: dict[str, list[Fitted]] = {}
    for item in answered:
        by_name.setdefault(item.strategy.name, []).append(item.fitted)
    costed = [Costed(name, fitted) for name, fitted in by_name.items()]
    return ledger(costed, read_usage(folder.usage), read_lines(folder.timings))


def _base_state(model: FoundationModel) -> str:
    """Of a local model's tensors, modules, modes and `requires_grad`; a model without any has nothing to change."""
    from toolkit.inference import LocalModel

    if not isinstance(model, LocalModel):
        return ""
    from toolkit.models import tensors_digest

    modules = [
        [name, type(item).__module__, type(item).__qualname__, item.training]
        for name, item in model.module.named_modules()
    ]
    wanted = [name for name, parameter in model.module.named_parameters() if parameter.requires_grad]
    return key_of({"tensors": tensors_digest(model.module), "modules": modules, "requires_grad": wanted})
