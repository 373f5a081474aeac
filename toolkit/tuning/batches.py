"""Which sequences train together: batches of similar length, the same for the same seed, nothing dropped."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from toolkit.seeds import derive
from toolkit.tuning.settings import TuneSettings

WINDOW = 20
"""Batches that are sorted by length together (PEFT's method comparison): padding shrinks, order stays random."""

Rows = tuple[int, ...]
"""Sequences by index: of an optimiser step, or of one of its forward passes."""


def plan(lengths: Sequence[int], settings: TuneSettings, seed: int) -> list[Rows]:
    """The sequences of every step of the training, so that a resumed one can skip what is done.

    Args:
        lengths: tokens of each sequence.
    """
    steps: list[Rows] = []
    for epoch in range(settings.epochs):
        steps += epoch_batches(lengths, settings.effective_batch_size, derive(seed, f"batches of epoch {epoch}"))
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


def passes(
    batch: Rows, lengths: Sequence[int], most_tokens: int, most_rows: int | None, tokens: Callable[[Rows], int]
) -> list[Rows]:
    """A step's sequences cut into forward passes of like lengths.

    Args:
        most_tokens: tokens a pass may compute, or one sequence.
        most_rows: sequences of a pass; then tokens do not count.
        tokens: what a pass over sequences computes: with padding, or with what they share counted once.
    """
    ordered = sorted(batch, key=lambda index: (-lengths[index], index))
    if most_rows is not None:
        return [tuple(ordered[at : at + most_rows]) for at in range(0, len(ordered), most_rows)]
    found: list[Rows] = []
    current: Rows = ()
    for index in ordered:
        if current and tokens((*current, index)) > most_tokens:
            found.append(current)
            current = ()
        current = (*current, index)
    return [*found, current]
