"""Choosing demonstrations: random, label-balanced, nearest. Pure functions over a pool of labelled examples."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from toolkit.errors import DataError
from toolkit.seeds import derive
from toolkit.tasks.example import Example


def select_random(pool: Sequence[Example], shots: int, seed: int) -> list[Example]:
    """A seeded sample without replacement, in seeded order.

    Raises:
        DataError: the pool is smaller than `shots`.
    """
    _enough(pool, shots)
    return random.Random(derive(seed, "demonstrations")).sample(list(pool), shots)


def select_balanced(pool: Sequence[Example], shots: int, seed: int) -> list[Example]:
    """As many of each label as of any other (a remainder goes to seeded labels), in seeded order.

    Examples whose right answer is to abstain are left out.

    Raises:
        DataError: fewer shots than labels, or a label with too few examples.
    """
    _enough(pool, shots)
    generator = random.Random(derive(seed, "demonstrations"))
    by_label: dict[str, list[Example]] = defaultdict(list)
    for example in pool:
        if example.targets:
            by_label[str(example.targets[0])].append(example)
    labels = sorted(by_label)
    if shots < len(labels):
        raise DataError(f"balanced demonstrations need at least one shot a label: {len(labels)} labels, {shots} shots")
    extra = set(generator.sample(labels, shots % len(labels)))
    chosen = []
    for label in labels:
        wanted = shots // len(labels) + (label in extra)
        if wanted > len(by_label[label]):
            raise DataError(f"label '{label}' has {len(by_label[label])} examples, {wanted} are needed")
        chosen += generator.sample(by_label[label], wanted)
    generator.shuffle(chosen)
    return chosen


def rank_nearest(pool: Any, queries: Any) -> list[list[int]]:
    """Pool row numbers by falling inner product, for each query.

    Args:
        pool: normalised embeddings [n, D].
        queries: normalised embeddings [B, D].
    """
    import numpy as np

    order = np.argsort(-(queries @ pool.T), axis=1, kind="stable")
    return [[int(place) for place in row] for row in order]


def shows_itself(example: Example, shown: Example, shared_groups: bool) -> bool:
    """Whether a demonstration is the example itself, has its content, or comes from its group."""
    same_group = not shared_groups and shown.group is not None and shown.group == example.group
    return shown.id == example.id or shown.content_digest == example.content_digest or same_group


def _enough(pool: Sequence[Example], shots: int) -> None:
    if shots > len(pool):
        raise DataError(f"{shots} demonstrations are asked for, and the pool has {len(pool)} examples")
