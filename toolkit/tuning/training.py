"""Training, top to bottom: check, plan, choose, forecast, step, save.

The loss of a step is the mean over its supervised tokens (or its pairs), however many forward passes it is accumulated
from, and by however many processes. There is no autocast: what is trained is fp32 and cast where it is used, so
training computes what answering computes.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, cast

from toolkit.errors import ModelError
from toolkit.meter import Meter
from toolkit.models.adapted import adapter_digest
from toolkit.models.four_bit import parameter_count
from toolkit.rendering.prompt import Preference, TrainingSequence
from toolkit.tuning import checkpoint
from toolkit.tuning.adapter import resolved_rank
from toolkit.tuning.amounts import Item
from toolkit.tuning.batches import Rows, plan
from toolkit.tuning.checks import check_items
from toolkit.tuning.forecast import Forecast, prepare
from toolkit.tuning.loop import Loop
from toolkit.tuning.methods import why_not_tunable
from toolkit.tuning.micro_batches import MicroBatches
from toolkit.tuning.objective import CrossEntropy, DirectPreference, Objective
from toolkit.tuning.parallel.helpers import ask, waiting
from toolkit.tuning.parallel.processes import Processes
from toolkit.tuning.parallel.shares import check_same_start, check_same_weights, resume_everywhere
from toolkit.tuning.places import Places
from toolkit.tuning.progress import StepReport
from toolkit.tuning.schedule import adamw
from toolkit.tuning.selection import Look, Selection, Validate, numbers_only
from toolkit.tuning.settings import TuneSettings
from toolkit.tuning.steps.choosing import choose
from toolkit.tuning.steps.step import Step
from toolkit.tuning.trainable import Trainable, trainable


@dataclass(frozen=True)
class TrainingResult:
    """What a training left and took.

    Attributes:
        folder: holds what was trained (an adapter in PEFT's format, or all weights) and `training.json`.
        digest: of the trained tensors and their configuration.
        steps: that were taken; fewer than planned where patience ended.
        sequences: that there were to learn from, or preferences.
        losses: of each step: the mean over its supervised tokens in nats, or over its pairs.
        looks: at validation, each as (steps before it, value).
        kept_step: after how many steps the state was what was kept.
        supervised_tokens, seen_tokens: over all steps; padding is in neither.
        seconds: of this call.
        resumed_seconds: of the calls before, up to the checkpoint from which this one went on.
        rank: as it was set, or chosen; None where all weights were trained.
        notices: what was allowed but is rarely meant.
        how: what computed the steps, and why not something faster.
    """

    folder: Path
    digest: str
    steps: int
    sequences: int
    losses: tuple[float, ...]
    looks: tuple[tuple[int, float], ...]
    kept_step: int
    supervised_tokens: int
    seen_tokens: int
    learning_rate: float
    trainable_parameters: int
    total_parameters: int
    seconds: float
    resumed_seconds: float
    rank: int | None
    notices: tuple[str, ...]
    how: str


@dataclass(frozen=True)
class Watch:
    """Who is told, and asked, while a training goes on."""

    on_forecast: Callable[[Forecast], None]
    on_step: Callable[[StepReport], None]
    on_look: Callable[[Look], None]
    validate: Validate | None


def train(
    module: Any,
    sequences: Sequence[Item],
    settings: TuneSettings | None = None,
    folder: Path | str = "adapter",
    seed: int = 0,
    base_name: str | None = None,
    on_forecast: Callable[[Forecast], None] | None = None,
    on_step: Callable[[StepReport], None] | None = None,
    on_look: Callable[[Look], None] | None = None,
    validate: Validate | None = None,
    stop: Sequence[int] = (),
    bos: int | None = None,
    names: Sequence[str] | None = None,
    processes: Processes | None = None,
    work: Path | str | None = None,
) -> TrainingResult:
    """Trains on sequences, or on preferences, and saves what was trained. The module is left as it was, to the bit.

    A call that was killed goes on from its last checkpoint when repeated, and ends with the same bytes; but for one
    whose passes were halved before it was killed, as the memory did not suffice.

    Args:
        module: a transformers causal language model in float32 or bfloat16, or in 4 bits computing in one of these.
        sequences: from a `Renderer`, whose tokeniser must be the model's, as a list or a `SequenceFile`; or a list of
            preferences, to learn to tell the chosen answer from the rejected one (DPO; the module is the reference).
        base_name: the base's name for the adapter's own configuration.
        on_forecast: told before the first step what the training is expected to take.
        on_step, on_look: told of each optimiser step, and of each look at validation.
        validate: of a state in a folder (`load_adapter(module, folder)` loads it), how good it is on validation, for
            `validate_every`. More is better: give a loss or an error rate with the opposite sign.
        stop, bos: the `Renderer`'s; every supervised answer must end with `stop`, and no sequence may open with two
            `bos`. Not checked where they are not given.
        names: of the sequences or preferences, for errors; numbers from 0 by default.
        processes: from `start_processes`; each makes this call with the same arguments, the first alone writes, looks
            at validation and is told. Where None, helpers that wait take part.
        work: where the checkpoint and the states looked at lie. It is left to the caller, who removes it once what was
            trained is safe: repeated until then, the call takes no step again (unless `checkpoint_every` is 0). Where
            None they lie in `folder`, and are removed with the end.

    Raises:
        DataError: there is nothing to learn from, or sequences have a fault that `check_items` names.
        ModelError: the model cannot be tuned, or the loss is no longer a number.
        RunError: the folder cannot be written, or another process failed.
    """
    settings, places = settings or TuneSettings(), Places(Path(folder), None if work is None else Path(work))
    processes = processes or waiting()
    watch = Watch(on_forecast or _silent, on_step or _silent, on_look or _silent, validate)
    measured: dict[str, Any] = {}
    with processes.together(), Meter(lambda _, fields: measured.update(fields)).stage("training"):
        _check_module(module, settings)
        check_items(module, sequences, stop, bos, names)
        ask(processes, module, sequences, settings, seed)
        result = _train(module, sequences, settings, places, seed, base_name, watch, processes)
        told = [adapter_digest(places.folder), result["looks"], result["kept_step"]] if processes.is_main else None
        digest, looks, kept_step = json.loads(processes.from_main(None if told is None else json.dumps(told)))
    result |= {"looks": tuple((step, value) for step, value in looks), "kept_step": kept_step}
    return TrainingResult(folder=places.folder, digest=digest, seconds=measured["seconds"], **result)


def _train(
    module: Any,
    items: Sequence[Item],
    settings: TuneSettings,
    places: Places,
    seed: int,
    base_name: str | None,
    watch: Watch,
    processes: Processes,
) -> dict[str, Any]:
    """The training itself; gives the result but for its folder, digest and seconds."""
    started = time.perf_counter()
    if processes.is_main:
        places.prepare()
    objective = _objective(items, settings)
    steps = plan(objective.lengths, settings, seed)
    trained, rank = _trainable(module, settings, seed, objective, steps)
    step, weights, how = choose(
        trained.view.train(), settings.dropout, max(objective.lengths), neftune_alpha=settings.neftune_alpha
    )
    micro_batches, optimiser = MicroBatches(step, weights, objective, settings), adamw(weights, settings)
    if isinstance(objective, DirectPreference):
        objective.reference = _reference(objective, step, micro_batches)
    validate = numbers_only(watch.validate) if processes.is_main else _elsewhere
    save = partial(trained.save, base_name=base_name)
    selection = Selection(places.work, settings, len(steps), save, validate, watch.on_look)
    key = checkpoint.training_key(module, items, settings, seed, weights.shapes)
    check_same_start(processes, module, key, how, weights.vector)
    losses, selection.looks, before = resume_everywhere(
        processes, places.work, key, weights.vector, optimiser, lambda done: selection.has(done.looks)
    )
    weights.publish()
    preferences = isinstance(objective, DirectPreference)
    peak_rate = settings.resolved_learning_rate(module.config.get_text_config(), len(steps), preferences)

    def write(done: checkpoint.State) -> None:
        spent = before + time.perf_counter() - started
        checkpoint.write(places.work, key, weights.vector, optimiser, done._replace(seconds=spent))

    loop = Loop(
        module, settings, seed, processes, objective, steps, micro_batches, weights, optimiser, peak_rate, selection,
        write, watch.on_step,
    )  # fmt: skip
    everything = parameter_count(module) + (0 if settings.method == "full" else len(weights.vector))
    ahead = prepare(loop, step, len(losses), everything)
    if processes.is_main:
        watch.on_forecast(ahead)
    loop.run(losses)
    check_same_weights(processes, weights.vector)
    result = {**_result(loop, losses, everything), "rank": rank, "notices": settings.notices(preferences)}
    if processes.is_main:
        several = {"processes": processes.count} if processes.count > 1 else {}
        facts = {"settings": settings.model_dump(mode="json"), "seed": seed, "step": how, **several, **result}
        places.deliver(selection, facts)
    return {**result, "how": how, "resumed_seconds": before}


def _result(loop: Loop, losses: Sequence[float], parameters: int) -> dict[str, Any]:
    """What a finished loop says, for the record; `parameters` are those of the base and of what is trained."""
    selection = loop.selection
    return {
        **_amounts(loop.steps[: len(losses)], loop.objective),
        "losses": tuple(losses),
        "looks": tuple(selection.looks),
        "kept_step": len(losses) if selection.best is None else selection.best,
        "learning_rate": loop.peak_rate,
        "trainable_parameters": len(loop.weights.vector),
        "total_parameters": parameters,
    }


def _trainable(
    module: Any, settings: TuneSettings, seed: int, objective: Objective, steps: Sequence[Rows]
) -> tuple[Trainable, int | None]:
    """What is trained, and its rank; some methods start from the first sequences."""
    if settings.method == "full":
        return trainable(module, settings, seed, ()), None
    rank = resolved_rank(module, settings, sum(objective.supervised))
    first = chain.from_iterable(objective.sequences((row,)) for rows in steps for row in rows)
    ranked = settings.model_copy(update={"rank": rank})
    return trainable(module, ranked, seed, islice(first, objective.rows)), rank


def _objective(items: Sequence[Item], settings: TuneSettings) -> Objective:
    if isinstance(items[0], Preference):
        return DirectPreference(cast("Sequence[Preference]", items), settings.dpo_beta)
    return CrossEntropy(cast("Sequence[TrainingSequence]", items))


def _reference(objective: DirectPreference, step: Step, micro_batches: MicroBatches) -> list[tuple[float, float]]:
    """Each pair's log-likelihoods before the first step, when what is trained still adds nothing."""

    def by_row(cut: Sequence[Rows]) -> dict[int, tuple[float, float]]:
        found: dict[int, tuple[float, float]] = {}
        for rows in cut:
            losses = step.token_losses(objective.sequences(rows))
            found |= zip(rows, objective.likelihoods(rows, losses), strict=True)
        return found

    found = micro_batches.within_memory(tuple(range(objective.rows)), by_row)
    return [found[row] for row in range(objective.rows)]


def _amounts(steps: Sequence[Rows], objective: Objective) -> dict[str, int]:
    """How much a training took in."""
    return {
        "steps": len(steps),
        "sequences": objective.rows,
        "supervised_tokens": sum(objective.supervised[row] for rows in steps for row in rows),
        "seen_tokens": sum(objective.lengths[row] for rows in steps for row in rows),
    }


def _silent(_: Forecast | StepReport | Look) -> None:
    """Tells nobody."""


def _elsewhere(_: Path) -> float:
    """Process 0 looks at validation, not this one."""
    return math.nan


def _check_module(module: Any, settings: TuneSettings) -> None:
    if reason := why_not_tunable(module, settings.method):
        raise ModelError(reason)
