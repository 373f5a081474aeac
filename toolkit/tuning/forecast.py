"""What a training will take, said before its first step: memory by shapes, time by a short measured probe.

By the same figures it is decided whether a pass keeps all it needs backwards or only what enters each layer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch

from toolkit.models.adapted import cuda_devices
from toolkit.models.device_memory import free_memory_bytes, used_memory_bytes
from toolkit.models.four_bit import parameter_count
from toolkit.models.hardware import prepared_bytes
from toolkit.rendering.prompt import TrainingSequence
from toolkit.tuning.amounts import supervised_count
from toolkit.tuning.batches import Rows
from toolkit.tuning.flat import FlatWeights
from toolkit.tuning.loop import Loop
from toolkit.tuning.parallel.shares import own_rows
from toolkit.tuning.steps.step import Step

MOST_STEPS = 256
"""Steps that are looked at closely: evenly spaced ones, and the two that matter most to memory."""

PROBE_TOKENS = 512
"""Of the pass that is timed, or one row."""

USABLE_SHARE = 0.9
"""Of the free memory, before `gradient_checkpointing: auto` recomputes."""

SHAPES_A_PASS = 50
"""Of its products, new with every number of tokens: 38 counted where rows vary, twice as many in the first pass."""

_MOMENTS_BYTES, _WRITTEN_BYTES = 8, 20
"""A trained number's: AdamW's two moments; these copied, and a checkpoint of all three as it is written."""

_OPTIMISER_PASSES = 10
"""How often clipping and AdamW read or write as many numbers as a norm of the weights reads."""


@dataclass(frozen=True)
class Forecast:
    """What a training is expected to take.

    Attributes:
        trainable_parameters, total_parameters: the adapter's are in both.
        steps, step: in all, and the first of those still to take: not 1 after a resumption.
        supervised_share: of all steps' tokens.
        learning_rate: the peak.
        memory_bytes: the peak of the process, or on CUDA of what torch gives out; None where the system says nothing.
        free_bytes: what could be taken beside what is in use; None where the system does not say.
        seconds: from that step on, without looks at validation; None where not even the probe fits into memory.
        recompute: whether passes keep only what enters each layer.
        short: whether the memory is not expected to suffice.
    """

    trainable_parameters: int
    total_parameters: int
    steps: int
    step: int
    supervised_share: float
    learning_rate: float
    memory_bytes: int | None
    free_bytes: int | None
    seconds: float | None
    recompute: bool
    short: bool

    @property
    def notice(self) -> str | None:
        """What to do where the memory will not suffice."""
        if not self.short or self.memory_bytes is None or self.free_bytes is None:
            return None
        again = "" if self.recompute else "`gradient_checkpointing: on`, "
        return (
            f"training is expected to need {self.memory_bytes / 1e9:.1f} GB and {self.free_bytes / 1e9:.1f} GB are "
            f"free beside what is in use: set {again}a lower `micro_batch_tokens`, or cut the longest rows"
        )


def prepare(loop: Loop, step: Step, done: int, parameters: int) -> Forecast:
    """Forecasts a training, makes room for its largest pass, and sets whether activations are recomputed.

    The gradient is left at 0, and no global chance is used up.

    Args:
        done: steps taken before a resumption.
        parameters: of the base and of what is trained beside it.
    """
    left = range(done, len(loop.steps))
    near = _evenly(left)
    passes = _passes(loop, near)
    memory = _Memory(loop, step, [*passes, *_passes(loop, _largest(loop, left))])
    recompute = memory.recompute
    seconds: float | None = 0.0
    if passes:
        if recompute:
            step.recompute()
        with suppress(torch.OutOfMemoryError):  # the passes of the training are halved then, or say so themselves
            step.reserve(memory.kept(recompute))
        seconds = _seconds(loop, step, passes, len(left), len(left) / len(near))
    tokens, supervised = (
        sum(some[row] for rows in loop.steps for row in rows)
        for some in (loop.objective.lengths, loop.objective.supervised)
    )
    return Forecast(
        trainable_parameters=len(loop.weights.vector),
        total_parameters=parameters,
        steps=len(loop.steps),
        step=done + 1,
        supervised_share=supervised / tokens,
        learning_rate=loop.peak_rate,
        memory_bytes=None if memory.used is None else memory.used + memory.needed(recompute),
        free_bytes=memory.free,
        seconds=seconds,
        recompute=recompute,
        short=memory.free is not None and memory.needed(recompute) > memory.free,
    )


class _Memory:
    """What is in use and free before the first step, and what the largest of some passes needs more."""

    def __init__(self, loop: Loop, step: Step, passes: Sequence[Rows]) -> None:
        device, trained = loop.module.device, len(loop.weights.vector)
        self._on_cpu = device.type == "cpu"  # elsewhere no heap has holes and no product is prepared
        self.used, self.free = used_memory_bytes(device), free_memory_bytes(device)
        if self.free is not None and device.type == "cpu":
            self.free //= loop.processes.count
        self._asked, self._able = loop.settings.gradient_checkpointing, loop.module.supports_gradient_checkpointing
        self._moments, self._written = 0 if loop.optimiser.state else _MOMENTS_BYTES * trained, _WRITTEN_BYTES * trained
        read = [loop.objective.sequences(rows) for rows in passes]
        self._passes = {again: [step.memory(some, again) for some in read] for again in (False, True)}
        sizes = {step.tokens(some) for some in read}
        self._prepared = prepared_bytes(SHAPES_A_PASS * (1 + len(sizes))) if self._on_cpu else 0

    @property
    def recompute(self) -> bool:
        """As it was asked for, or where keeping everything would leave too little."""
        if self._asked != "auto":
            return self._asked == "on"
        return self._able and self.free is not None and self.needed(recompute=False) > USABLE_SHARE * self.free

    def needed(self, recompute: bool) -> int:
        """Beside what is in use: moments, prepared products, what the largest pass keeps, and what passes beside it."""
        passing = max((one.passing + self._on_cpu * one.holes for one in self._passes[recompute]), default=0)
        return self._moments + self._prepared + self.kept(recompute) + max(passing, self._written)

    def kept(self, recompute: bool) -> int:
        return max((one.kept for one in self._passes[recompute]), default=0)


def _evenly(steps: range) -> list[int]:
    """At most so many of them, from all over."""
    return list(steps[:: max(1, -(-len(steps) // MOST_STEPS))])


def _largest(loop: Loop, steps: range) -> set[int]:
    """The steps with the most tokens and with the longest row."""
    lengths = loop.objective.lengths
    if not steps:
        return set()
    return {
        max(steps, key=lambda step: sum(lengths[row] for row in loop.steps[step])),
        max(steps, key=lambda step: max(lengths[row] for row in loop.steps[step])),
    }


def _passes(loop: Loop, steps: Iterable[int]) -> list[Rows]:
    """What this process computes of some steps."""
    own = (own_rows(loop.steps[step], loop.objective.lengths, loop.processes) for step in steps)
    return [rows for some in own for rows in loop.micro_batches.cut(some)]


def _seconds(loop: Loop, step: Step, passes: Sequence[Rows], left: int, times: float) -> float | None:
    """For the steps that are left, so many times these passes."""
    read, work = loop.objective.sequences, _work(loop.module)
    probe = _probe(read(passes[0]))
    try:
        pace = _timed(loop.module, loop.weights, lambda: step(probe, 0.0)) / work(step, probe)
    except torch.OutOfMemoryError:  # the passes of the training are halved then, or say so themselves
        return None
    clock = time.perf_counter()
    loop.weights.vector.norm().item()
    optimising = _OPTIMISER_PASSES * (time.perf_counter() - clock)
    of_passes = pace * sum(work(step, read(rows)) for rows in passes)
    return times * of_passes + left * optimising


def _probe(sequences: Sequence[TrainingSequence]) -> list[TrainingSequence]:
    """The shortest rows of a pass, as many as the probe's tokens allow, or one."""
    found: list[TrainingSequence] = []
    for sequence in sorted(sequences, key=lambda one: len(one.token_ids)):
        if found and sum(len(one.token_ids) for one in (*found, sequence)) > PROBE_TOKENS:
            break
        found.append(sequence)
    return found


def _timed(module: Any, weights: FlatWeights, run: Callable[[], Any]) -> float:
    """Seconds of a second run: the first one meets cold caches."""
    with torch.random.fork_rng(devices=cuda_devices(module)):
        for _ in range(2):
            started = time.perf_counter()
            run()
            weights.collect()
            if module.device.type == "cuda":
                torch.cuda.synchronize(module.device)
            seconds = time.perf_counter() - started
    weights.gradient.zero_()
    return seconds


def _work(module: Any) -> Callable[[Step, Sequence[TrainingSequence]], float]:
    """Operations of a pass, up to a factor: 4 a parameter and token, as the base has no gradient, and attention's."""
    config = module.config.get_text_config()
    words = module.get_input_embeddings().weight.numel()
    body = parameter_count(module.get_decoder()) - words
    mixing = 6 * config.num_hidden_layers * config.hidden_size

    def work(step: Step, sequences: Sequence[TrainingSequence]) -> float:
        squares = sum(len(one.token_ids) ** 2 for one in sequences)
        predicting = sum(map(supervised_count, sequences))
        return float(4 * (body * step.tokens(sequences) + words * predicting) + mixing * squares)

    return work
