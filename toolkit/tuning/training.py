"""Training, top to bottom: check, plan, step, save.

The loss of a step is the mean over its supervised tokens (or its pairs), however many forward passes it is accumulated
from. There is no autocast: what is trained is fp32 and cast where it is used, so training computes what answering
computes.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from toolkit.errors import ModelError
from toolkit.meter import Meter
from toolkit.models.adapted import adapter_digest, cuda_devices
from toolkit.models.four_bit import parameter_count
from toolkit.rendering.prompt import Preference, TrainingSequence
from toolkit.seeds import derive
from toolkit.tuning import checkpoint
from toolkit.tuning.adapter import resolved_rank, write_atomically
from toolkit.tuning.batches import Rows, plan
from toolkit.tuning.checks import check_items
from toolkit.tuning.choosing import choose
from toolkit.tuning.flat import FlatWeights
from toolkit.tuning.methods import why_not_in_4_bits
from toolkit.tuning.micro_batches import MicroBatches
from toolkit.tuning.objective import CrossEntropy, DirectPreference, Item, Objective
from toolkit.tuning.progress import StepReport, memory_bytes
from toolkit.tuning.selection import Look, Selection, Validate
from toolkit.tuning.settings import TuneSettings
from toolkit.tuning.step import Step
from toolkit.tuning.trainable import trainable

SUMMARY = "training.json"


@dataclass(frozen=True)
class TrainingResult:
    """What a training left and took.

    Attributes:
        folder: holds what was trained (an adapter in PEFT's format, or all weights) and `training.json`.
        digest: of the trained tensors and their configuration.
        steps: that were taken; fewer than planned where patience ended.
        losses: of each step: the mean over its supervised tokens in nats, or over its pairs.
        looks: at validation, each as (steps before it, value).
        kept_step: after how many steps the state was what was kept.
        supervised_tokens, seen_tokens: over all steps; padding is in neither.
        seconds: of this call; steps done before a resumption are not in it.
        rank: as it was set, or chosen; None where all weights were trained.
        notices: what was allowed but is rarely meant.
        how: what computed the steps, and why not something faster.
    """

    folder: Path
    digest: str
    steps: int
    losses: tuple[float, ...]
    looks: tuple[tuple[int, float], ...]
    kept_step: int
    supervised_tokens: int
    seen_tokens: int
    learning_rate: float
    trainable_parameters: int
    total_parameters: int
    seconds: float
    rank: int | None
    notices: tuple[str, ...]
    how: str


@dataclass(frozen=True)
class Watch:
    """Who is told, and asked, while a training goes on."""

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
    on_step: Callable[[StepReport], None] | None = None,
    on_look: Callable[[Look], None] | None = None,
    validate: Validate | None = None,
    stop: Sequence[int] = (),
    bos: int | None = None,
    names: Sequence[str] | None = None,
) -> TrainingResult:
    """Trains on sequences, or on preferences, and saves what was trained. The module is left as it was, to the bit.

    A call that was killed goes on from its last checkpoint when repeated, and ends with the same bytes.

    Args:
        module: a transformers causal language model in float32 or bfloat16, or in 4 bits computing in one of these.
        sequences: from a `Renderer`, whose tokeniser must be the model's; or preferences, of which the model learns to
            tell the chosen answer from the rejected one (DPO; the reference is the module itself).
        base_name: the base's name for the adapter's own configuration.
        on_step, on_look: told of each optimiser step, and of each look at validation.
        validate: the metric on validation of a state in a folder, for `validate_every`.
        stop, bos: the `Renderer`'s; every supervised answer must end with `stop`, and no sequence may open with two
            `bos`. Not checked where they are not given.
        names: of the sequences or preferences, for errors; numbers from 0 by default.

    Raises:
        DataError: there is nothing to learn from, or sequences have a fault that `check_items` names.
        ModelError: the model cannot be tuned, or the loss is no longer a number.
    """
    settings, folder = settings or TuneSettings(), Path(folder)
    _check_module(module, settings)
    check_items(module, sequences, stop, bos, names)
    (folder / SUMMARY).unlink(missing_ok=True)  # it stands for a finished training
    measured: dict[str, Any] = {}
    watch = Watch(on_step or _silent, on_look or _silent, validate)
    with Meter(lambda _, fields: measured.update(fields)).stage("training"):
        result = _train(module, sequences, settings, folder, seed, base_name, watch)
    return TrainingResult(folder=folder, digest=adapter_digest(folder), seconds=measured["seconds"], **result)


def _train(
    module: Any,
    items: Sequence[Item],
    settings: TuneSettings,
    folder: Path,
    seed: int,
    base_name: str | None,
    watch: Watch,
) -> dict[str, Any]:
    """The training itself; gives the fields of the result that a repetition would give too."""
    objective = _objective(items, settings)
    steps = plan(objective.lengths, settings, seed)
    parameters = parameter_count(module)
    peak_rate = settings.resolved_learning_rate(parameters, isinstance(objective, DirectPreference))
    rank = resolved_rank(module, settings, sum(objective.supervised))
    trained = trainable(module, settings.model_copy(update={"rank": rank}), seed)
    step, weights, how = choose(
        trained.view.train(), settings.dropout, max(objective.lengths), neftune_alpha=settings.neftune_alpha
    )
    micro_batches = MicroBatches(step, weights, objective, settings)
    if isinstance(objective, DirectPreference):
        objective.reference = _reference(objective, step, micro_batches)
    optimiser = _optimiser(weights, settings)
    selection = Selection(
        folder, settings, len(steps), partial(trained.save, base_name=base_name), watch.validate, watch.on_look
    )
    key = checkpoint.training_key(module, items, settings, seed)
    losses, looks = checkpoint.resume(folder, key, weights.vector, optimiser, lambda done: selection.has(done.looks))
    weights.publish()
    selection.looks = looks
    write = partial(checkpoint.write, folder, key, weights.vector, optimiser)
    selection.look(len(losses))

    for number in range(len(losses), len(steps)):
        if selection.stops:
            break
        started = time.perf_counter()
        rate = peak_rate * rate_share(number, len(steps), settings)
        for group in optimiser.param_groups:
            group["lr"] = rate * group["ratio"]
        loss, norm = _step(
            module, micro_batches, weights, steps[number], settings, derive(seed, f"dropout of step {number}")
        )
        _check_finite(loss, norm, number, len(steps), rate)
        optimiser.step()
        weights.publish()
        losses.append(loss)
        done, seconds = number + 1, time.perf_counter() - started
        if settings.checkpoint_every and done % settings.checkpoint_every == 0:
            write(checkpoint.State(losses, selection.looks))
        tokens, supervised = (_total(steps[number:done], some) for some in (objective.lengths, objective.supervised))
        watch.on_step(StepReport(done, len(steps), loss, tokens, supervised, rate, norm, seconds, memory_bytes(module)))
        if selection.look(done):
            write(checkpoint.State(losses, selection.looks))
            selection.prune()

    taken = steps[: len(losses)]
    result: dict[str, Any] = {
        "steps": len(taken),
        "losses": tuple(losses),
        "looks": tuple(selection.looks),
        "kept_step": len(taken) if selection.best is None else selection.best,
        "supervised_tokens": _total(taken, objective.supervised),
        "seen_tokens": _total(taken, objective.lengths),
        "learning_rate": peak_rate,
        "trainable_parameters": len(weights.vector),
        "total_parameters": parameters + (0 if settings.method == "full" else len(weights.vector)),
        "rank": None if settings.method == "full" else rank,
        "notices": settings.notices(isinstance(objective, DirectPreference)),
    }
    selection.deliver()
    _write_summary(folder, {"settings": settings.model_dump(mode="json"), "seed": seed, "step": how, **result})
    selection.remove()
    checkpoint.remove(folder)
    return {**result, "how": how}


def _step(
    module: Any, micro_batches: MicroBatches, weights: FlatWeights, rows: Rows, settings: TuneSettings, seed: int
) -> tuple[float, float]:
    """A step's gradient, clipped: its loss, and the gradient's norm before."""
    import torch

    with torch.random.fork_rng(devices=cuda_devices(module)):
        torch.manual_seed(seed)
        loss = micro_batches.accumulate(rows)
    return loss, float(torch.nn.utils.clip_grad_norm_([weights.vector], settings.clip))


def _objective(items: Sequence[Item], settings: TuneSettings) -> Objective:
    pairs = [item for item in items if isinstance(item, Preference)]
    if pairs:
        return DirectPreference(pairs, settings.dpo_beta)
    return CrossEntropy([item for item in items if isinstance(item, TrainingSequence)])


def _reference(objective: DirectPreference, step: Step, micro_batches: MicroBatches) -> list[tuple[float, float]]:
    """Each pair's log-likelihoods before the first step, when what is trained still adds nothing."""
    found: dict[int, tuple[float, float]] = {}
    for rows in micro_batches.cut(tuple(range(objective.rows))):
        losses = step.token_losses(objective.sequences(rows))
        found |= zip(rows, objective.likelihoods(rows, losses), strict=True)
    return [found[row] for row in range(objective.rows)]


def _write_summary(folder: Path, summary: dict[str, Any]) -> None:
    """Last of the adapter's files, and without clocks, so that a repetition writes the same bytes."""
    write_atomically(folder / SUMMARY, (json.dumps(summary, indent=2, sort_keys=True) + "\n").encode())


def _silent(_: StepReport | Look) -> None:
    """Tells nobody."""


def rate_share(step: int, steps: int, settings: TuneSettings) -> float:
    """The learning rate of a step (from 0) as a share of the peak: a linear rise, then the schedule; never 0."""
    warmup = math.ceil(settings.warmup_share * steps) if settings.warmup_share else 0
    if step < warmup:
        return (step + 1) / (warmup + 1)
    left = (steps - step) / (steps - warmup)
    if settings.schedule == "linear":
        return left
    return 1.0 if settings.schedule == "constant" else (1 - math.cos(math.pi * left)) / 2


def _optimiser(weights: FlatWeights, settings: TuneSettings) -> Any:
    """AdamW on one vector; with LoRA+ on its two halves, all B being the second, each with its own rate."""
    import torch

    groups: list[dict[str, Any]] = [{"params": [weights.vector], "ratio": 1.0}]
    if settings.b_rate_ratio != 1:
        others, ups = weights.halves()
        groups = [{"params": [others], "ratio": 1.0}, {"params": [ups], "ratio": settings.b_rate_ratio}]
    betas = (settings.beta1, settings.beta2)
    return torch.optim.AdamW(groups, betas=betas, weight_decay=settings.weight_decay, fused=True)


def _check_module(module: Any, settings: TuneSettings) -> None:
    import torch

    if module.dtype not in (torch.float32, torch.bfloat16):
        raise ModelError(f"weights in {module.dtype} cannot be tuned: load the model in float32 or bfloat16")
    if len({parameter.device for parameter in module.parameters()}) > 1:
        raise ModelError("the model is spread over several devices: load it on one to tune it")
    if reason := why_not_in_4_bits(module, settings.method):
        raise ModelError(reason)


def _check_finite(loss: float, norm: float, number: int, steps: int, rate: float) -> None:
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise ModelError(
            f"step {number + 1} of {steps}: the loss is {loss} and its gradient's norm {norm}; "
            f"lower `learning_rate` (it is {rate:.1e} at this step) or `clip`, or load the model in float32"
        )


def _total(steps: Sequence[Rows], amounts: Sequence[int]) -> int:
    """The sum over all sequences of all steps of one amount a sequence."""
    return sum(amounts[row] for rows in steps for row in rows)
