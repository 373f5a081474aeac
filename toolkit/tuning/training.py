"""LoRA training, top to bottom: check, plan, step, save.

The loss of a step is the mean over its supervised tokens, however many forward passes it is accumulated from. There is
no autocast: the adapter is fp32 and cast where it is used, so training computes what answering computes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.errors import ModelError
from toolkit.meter import Meter
from toolkit.models.adapted import adapter_digest, cuda_devices
from toolkit.rendering.prompt import TrainingSequence
from toolkit.tuning import checkpoint
from toolkit.tuning.adapter import adapter_tensors, new_adapter, resolved_rank, save_adapter, write_atomically
from toolkit.tuning.batches import Rows, plan
from toolkit.tuning.checks import check_sequences
from toolkit.tuning.data_parallel import chance_seed, check_same_start, check_same_weights, own_rows, resume_everywhere
from toolkit.tuning.flat import FlatWeights
from toolkit.tuning.loss import supervised_count
from toolkit.tuning.methods import REWRITING
from toolkit.tuning.micro_batches import MicroBatches
from toolkit.tuning.processes import Processes
from toolkit.tuning.settings import TuneSettings
from toolkit.tuning.step import choose
from toolkit.tuning.workers import ask, waiting

OnStep = Callable[[int, int, float, int], None]
"""Told after each step: its number (from 1), all steps, its loss (nats a token), its tokens (padding not counted)."""

SUMMARY = "training.json"


@dataclass(frozen=True)
class TrainingResult:
    """What a training left and took.

    Attributes:
        folder: holds the adapter in PEFT's format and `training.json`.
        digest: of the adapter's tensors and configuration.
        losses: mean over the supervised tokens of each step, in nats.
        supervised_tokens, seen_tokens: over all steps; padding is in neither.
        seconds: of this call; steps done before a resumption are not in it.
        rank: as it was set, or chosen.
        notices: what was allowed but is rarely meant.
        how: what computed the steps, and why not something faster.
    """

    folder: Path
    digest: str
    steps: int
    losses: tuple[float, ...]
    supervised_tokens: int
    seen_tokens: int
    learning_rate: float
    trainable_parameters: int
    total_parameters: int
    seconds: float
    rank: int
    notices: tuple[str, ...]
    how: str


def train(
    module: Any,
    sequences: Sequence[TrainingSequence],
    settings: TuneSettings | None = None,
    folder: Path | str = "adapter",
    seed: int = 0,
    base_name: str | None = None,
    on_step: OnStep | None = None,
    stop: Sequence[int] = (),
    bos: int | None = None,
    processes: Processes | None = None,
) -> TrainingResult:
    """Trains a LoRA adapter on sequences and saves it. The module is left as it was, to the bit.

    A call that was killed goes on from its last checkpoint when repeated, and ends with the same bytes.

    Args:
        module: a transformers causal language model in float32 or bfloat16.
        sequences: from a `Renderer`, whose tokeniser must be the model's.
        base_name: the base's name for the adapter's own configuration.
        stop, bos: the `Renderer`'s; every supervised answer must end with `stop`, and no sequence may open with two
            `bos`. Not checked where they are not given.
        processes: from `start_processes`; each makes this call with the same arguments, the first alone writes and is
            told of steps. Where None, helpers that wait take part.

    Raises:
        DataError: there is nothing to learn from, or sequences have a fault that `check_sequences` names.
        ModelError: the model cannot be tuned, or the loss is no longer a number.
        RunError: another process failed.
    """
    settings, folder = settings or TuneSettings(), Path(folder)
    processes = processes or waiting()
    measured: dict[str, Any] = {}
    with processes.together(), Meter(lambda _, fields: measured.update(fields)).stage("training"):
        _check_module(module)
        check_sequences(module, sequences, stop, bos)
        ask(processes, module, sequences, settings, seed)
        if processes.is_main:
            (folder / SUMMARY).unlink(missing_ok=True)  # it stands for a finished training
        result = _train(module, sequences, settings, folder, seed, base_name, on_step or _silent, processes)
        digest = processes.from_main(adapter_digest(folder) if processes.is_main else None)
    return TrainingResult(folder=folder, digest=digest, seconds=measured["seconds"], **result)


def _train(
    module: Any,
    sequences: Sequence[TrainingSequence],
    settings: TuneSettings,
    folder: Path,
    seed: int,
    base_name: str | None,
    on_step: OnStep,
    processes: Processes,
) -> dict[str, Any]:
    """The training itself; gives the fields of the result that a repetition would give too."""
    import torch

    lengths = [len(sequence.token_ids) for sequence in sequences]
    steps = plan(lengths, settings, seed)
    parameters = sum(parameter.numel() for parameter in module.parameters())
    peak_rate = settings.resolved_learning_rate(parameters)
    rank = resolved_rank(module, settings, sum(map(supervised_count, sequences)))
    adapted = new_adapter(module, settings.model_copy(update={"rank": rank}), seed)
    start = adapter_tensors(adapted) if settings.method in REWRITING else None
    view = adapted.get_base_model().train()
    step, weights, how = choose(view, adapted, settings.dropout, max(lengths), neftune_alpha=settings.neftune_alpha)
    micro_batches = MicroBatches(step, weights, sequences, settings)
    optimiser = _optimiser(weights, settings)
    key = checkpoint.training_key(module, sequences, settings, seed)
    check_same_start(processes, module, key, how, weights.vector)
    losses = resume_everywhere(processes, folder, key, weights.vector, optimiser)
    first = len(losses)

    for number in range(first, len(steps)):
        rate = peak_rate * rate_share(number, len(steps), settings)
        for group in optimiser.param_groups:
            group["lr"] = rate * group["ratio"]
        with torch.random.fork_rng(devices=cuda_devices(module)):
            torch.manual_seed(chance_seed(seed, number, processes))
            loss = micro_batches.accumulate(own_rows(steps[number], lengths, processes), steps[number])
        loss = processes.sum_(weights.gradient, loss)
        norm = float(torch.nn.utils.clip_grad_norm_([weights.vector], settings.clip))
        _check_finite(loss, norm, number, len(steps), rate)
        optimiser.step()
        losses.append(loss)
        if number == first:
            check_same_weights(processes, weights.vector)
        done = number + 1
        if not processes.is_main:
            continue
        if settings.checkpoint_every and done % settings.checkpoint_every == 0:
            checkpoint.write(folder, key, weights.vector, optimiser, losses)
        on_step(done, len(steps), loss, _total(steps[number:done], lengths))

    result: dict[str, Any] = {
        **_amounts(steps, sequences),
        "losses": tuple(losses),
        "learning_rate": peak_rate,
        "trainable_parameters": len(weights.vector),
        "total_parameters": parameters + len(weights.vector),
        "rank": rank,
        "notices": settings.notices(),
    }
    check_same_weights(processes, weights.vector)
    if processes.is_main:
        several = {"processes": processes.count} if processes.count > 1 else {}
        facts = {"settings": settings.model_dump(mode="json"), "seed": seed, "step": how, **several, **result}
        save_adapter(adapted, folder, base_name, start)
        _write_summary(folder, facts)
        checkpoint.remove(folder)
    return {**result, "how": how}


def _amounts(steps: Sequence[Rows], sequences: Sequence[TrainingSequence]) -> dict[str, int]:
    """How much a training takes in."""
    return {
        "steps": len(steps),
        "supervised_tokens": _total(steps, [supervised_count(sequence) for sequence in sequences]),
        "seen_tokens": _total(steps, [len(sequence.token_ids) for sequence in sequences]),
    }


def _write_summary(folder: Path, summary: dict[str, Any]) -> None:
    """Last of the adapter's files, and without clocks, so that a repetition writes the same bytes."""
    write_atomically(folder / SUMMARY, (json.dumps(summary, indent=2, sort_keys=True) + "\n").encode())


def _silent(step: int, steps: int, loss: float, tokens: int) -> None:
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


def _check_module(module: Any) -> None:
    import torch

    if module.dtype not in (torch.float32, torch.bfloat16):
        raise ModelError(f"weights in {module.dtype} cannot be tuned: load the model in float32 or bfloat16")
    if len({parameter.device for parameter in module.parameters()}) > 1:
        raise ModelError("the model is spread over several devices: load it on one to tune it")


def _check_finite(loss: float, norm: float, number: int, steps: int, rate: float) -> None:
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise ModelError(
            f"step {number + 1} of {steps}: the loss is {loss} and its gradient's norm {norm}; "
            f"lower `learning_rate` (it is {rate:.1e} at this step) or `clip`, or load the model in float32"
        )


def _total(steps: Sequence[Rows], amounts: Sequence[int]) -> int:
    """The sum over all sequences of all steps of one amount a sequence."""
    return sum(amounts[row] for rows in steps for row in rows)
