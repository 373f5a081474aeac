"""Which sequences train together: batches of similar length, the same for the same seed, nothing dropped."""

from __future__ import annotations

import random
from collections.abc import Sequence

from toolkit.seeds import derive
from toolkit.tuning.settings import TuneSettings

WINDOW = 20
"""Batches that are sorted by length together (PEFT's method comparison): padding shrinks, order stays random."""

Rows = tuple[int, ...]
Step = tuple[Rows, ...]
"""One optimiser step: the sequences (by index) of each of its forward passes."""


def plan(lengths: Sequence[int], settings: TuneSettings, seed: int) -> list[Step]:
    """Every step of the training, so that a resumed one can skip what is done.

    Args:
        lengths: tokens of each sequence.
    """
    steps: list[Step] = []
    for epoch in range(settings.epochs):
        for batch in epoch_batches(lengths, settings.batch_size, derive(seed, f"batches of epoch {epoch}")):
            steps.append(micro_batches(batch, lengths, settings.micro_batch_tokens))
    return steps[: settings.max_steps]


def epoch_batches(lengths: Sequence[int], batch_size: int, seed: int) -> list[Rows]:
    """All sequences once: shuffled, sorted by length within windows of 20 batches, cut, the batches shuffled."""
    generator = random.Random(seed)
    order = list(range(len(lengths)))
    generator.shuffle(order)
    batches: list[Rows] = []
    for start in range(0, len(order), WINDOW * batch_size):
        window = sorted(order[start : start + WINDOW * batch_size], key=lambda index: lengths[index])
        batches += [tuple(window[cut : cut + batch_size]) for cut in range(0, len(window), batch_size)]
    generator.shuffle(batches)
    return batches


def micro_batches(batch: Rows, lengths: Sequence[int], most_tokens: int) -> Step:
    """A batch cut so that each forward pass takes at most `most_tokens` padded tokens, or one sequence."""
    passes: list[Rows] = []
    current: list[int] = []
    for index in sorted(batch, key=lambda index: lengths[index], reverse=True):  # the first is the longest
        if current and (len(current) + 1) * lengths[current[0]] > most_tokens:
            passes.append(tuple(current))
            current = []
        current.append(index)
    return (*passes, tuple(current))
