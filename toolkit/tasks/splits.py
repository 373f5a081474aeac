"""Drawing rows: seeded, in equal shares by label, or in whole groups. No global generator is touched."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

from toolkit.errors import DataError
from toolkit.seeds import derive
from toolkit.tasks.example import Example

Stratum = TypeVar("Stratum", bound=Hashable)


def sample(examples: Sequence[Example], limit: int, seed: int) -> tuple[Example, ...]:
    """`limit` examples in their original order, in the shares of their first targets.

    Where every target is another (open answers) this is a plain draw that keeps the share of unanswerable examples.

    Raises:
        DataError: `limit` is below 1.
    """
    if limit < 1:
        raise DataError(f"a limit is at least 1, found {limit}")
    if limit >= len(examples):
        return tuple(examples)
    drawn = stratified([first_target(example) for example in examples], limit, derive(seed, "sample"))
    return tuple(examples[index] for index in drawn)


def first_target(example: Example) -> str:
    """The first target as text; empty where there is none."""
    return json.dumps(example.targets[0], sort_keys=True, ensure_ascii=False) if example.targets else ""


def stratified(strata: Sequence[Stratum], wanted: int, seed: int) -> list[int]:
    """`wanted` indexes, sorted, so that each stratum keeps its share (largest remainders, ties drawn).

    Every stratum is drawn from at least once where `wanted` allows it.

    Raises:
        DataError: there are fewer than `wanted`.
    """
    _enough(len(strata), wanted)
    members: dict[Stratum, list[int]] = defaultdict(list)
    for index, stratum in enumerate(strata):
        members[stratum].append(index)
    generator = random.Random(seed)
    counts = _shares({stratum: len(indexes) for stratum, indexes in members.items()}, wanted, generator)
    return sorted(index for stratum, indexes in members.items() for index in generator.sample(indexes, counts[stratum]))


def grouped(groups: Sequence[Stratum], wanted: int, seed: int) -> list[int]:
    """`wanted` indexes, sorted, out of as few groups as a seeded order allows.

    Groups are taken whole while they fit; where none fits any more, the smallest of those left fills up and the rest
    of it is left over, so that the number is exact.

    Raises:
        DataError: there are fewer than `wanted`.
    """
    _enough(len(groups), wanted)
    members: dict[Stratum, list[int]] = defaultdict(list)
    for index, group in enumerate(groups):
        members[group].append(index)
    order = list(members.values())
    random.Random(seed).shuffle(order)
    chosen: list[int] = []
    left: list[list[int]] = []
    for indexes in order:
        if len(chosen) + len(indexes) <= wanted:
            chosen += indexes
        else:
            left.append(indexes)
    for indexes in sorted(left, key=len):
        chosen += indexes[: wanted - len(chosen)]
    return sorted(chosen)


def _enough(available: int, wanted: int) -> None:
    if wanted > available:
        raise DataError(f"{wanted} rows are wanted and {available} are there")


def _shares(sizes: Mapping[Stratum, int], wanted: int, generator: random.Random) -> dict[Stratum, int]:
    total = sum(sizes.values())
    exact = {stratum: wanted * size / total for stratum, size in sizes.items()}
    least = 1 if wanted >= len(sizes) else 0
    counts = {stratum: max(least, int(share)) for stratum, share in exact.items()}
    order = list(sizes)
    generator.shuffle(order)
    while (surplus := sum(counts.values()) - wanted) > 0:  # strata raised to one are paid for by the most over-served
        paying = sorted((item for item in order if counts[item] > least), key=lambda item: exact[item] - counts[item])
        for stratum in paying[:surplus]:
            counts[stratum] -= 1
    while (short := wanted - sum(counts.values())) > 0:
        open_ones = [item for item in order if counts[item] < sizes[item]]
        for stratum in sorted(open_ones, key=lambda item: counts[item] - exact[item])[:short]:
            counts[stratum] += 1
    return counts
