"""Which sequences train together: batches of similar length, the same for the same seed, nothing dropped."""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable, Sequence
from typing import overload

from toolkit.seeds import derive
from toolkit.tuning.settings import TuneSettings

WINDOW = 20
"""Batches that are sorted by length together (PEFT's method comparison): padding shrinks, order stays random."""

Rows = tuple[int, ...]
"""Sequences by index: of an optimiser step, or of one of its forward passes."""


class Plan(Sequence[Rows]):
    """The batches of a training, step by step, in four bytes a sequence and epoch: a list of tuples takes ten times it.

    Args:
        epochs: of each the sequences in the order of the batches that were cut from them, and the batches as they are
            taken, by number.
        batch_size: sequences of a batch; the last that was cut may have fewer.
        steps: batches that are taken in all.
    """

    def __init__(self, epochs: Sequence[tuple[array[int], array[int]]], batch_size: int, steps: int) -> None:
        self._epochs, self._size, self._steps = epochs, batch_size, steps

    def __len__(self) -> int:
        return self._steps

    @overload
    def __getitem__(self, index: int) -> Rows: ...
    @overload
    def __getitem__(self, index: slice) -> list[Rows]: ...
    def __getitem__(self, index: int | slice) -> Rows | list[Rows]:
        if isinstance(index, slice):
            return [self[step] for step in range(*index.indices(len(self)))]
        epoch, place = divmod(range(len(self))[index], len(self._epochs[0][1]))
        order, taken = self._epochs[epoch]
        cut = taken[place] * self._size
        return tuple(order[cut : cut + self._size])


def plan(lengths: Sequence[int], settings: TuneSettings, seed: int) -> Plan:
    """The sequences of every step of the training, so that a resumed one can skip what is done.

    Args:
        lengths: tokens of each sequence.
    """
    size = settings.effective_batch_size
    steps = settings.epochs * -(-len(lengths) // size)
    if settings.max_steps is not None:
        steps = min(steps, settings.max_steps)
    epochs: list[tuple[array[int], array[int]]] = []
    while sum(len(taken) for _, taken in epochs) < steps:
        epochs.append(_epoch(lengths, size, derive(seed, f"batches of epoch {len(epochs)}")))
    return Plan(epochs, size, steps)


def epoch_batches(lengths: Sequence[int], batch_size: int, seed: int) -> Plan:
    """All sequences once: shuffled, sorted by length within windows of 20 batches, cut, the batches shuffled."""
    return Plan([_epoch(lengths, batch_size, seed)], batch_size, -(-len(lengths) // batch_size))


def _epoch(lengths: Sequence[int], batch_size: int, seed: int) -> tuple[array[int], array[int]]:
    generator = random.Random(seed)
    order = array("i", range(len(lengths)))
    generator.shuffle(order)
    for start in range(0, len(order), WINDOW * batch_size):
        window = slice(start, start + WINDOW * batch_size)
        order[window] = array("i", sorted(order[window], key=lambda index: lengths[index]))
    taken = array("i", range(-(-len(order) // batch_size)))
    generator.shuffle(taken)
    return order, taken


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
