"""Choosing demonstrations: random, balanced, nearest, and never the example itself."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.errors import DataError
from toolkit.prompting import rank_nearest, select_balanced, select_random, shows_itself
from toolkit.tasks.example import Example

POOL = [Example(f"{label}{n}", {"q": f"{label}{n}"}, (label,)) for label in "abc" for n in range(6)]


@given(seed=st.integers(0, 1000), shots=st.integers(0, len(POOL)))
def test_a_random_choice_is_a_sample_of_the_pool_fixed_by_the_seed(seed: int, shots: int) -> None:
    chosen = select_random(POOL, shots, seed)
    assert len({item.id for item in chosen}) == len(chosen) == shots
    assert chosen == select_random(POOL, shots, seed)
    assert all(item in POOL for item in chosen)


def test_seeds_choose_differently_and_leave_the_global_generator_alone() -> None:
    import random

    state = random.getstate()
    assert len({tuple(item.id for item in select_random(POOL, 4, seed)) for seed in range(8)}) > 6
    assert len({tuple(item.id for item in select_balanced(POOL, 4, seed)) for seed in range(8)}) > 6
    assert random.getstate() == state


@given(seed=st.integers(0, 1000), shots=st.integers(3, 18))
def test_balanced_labels_differ_by_one_at_most(seed: int, shots: int) -> None:
    chosen = select_balanced(POOL, shots, seed)
    counts = Counter(item.targets for item in chosen)
    assert len({item.id for item in chosen}) == shots
    assert len(counts) == 3
    assert max(counts.values()) - min(counts.values()) <= 1
    assert chosen == select_balanced(POOL, shots, seed)


def test_balanced_demonstrations_are_not_sorted_by_label() -> None:
    orders = {tuple(item.targets for item in select_balanced(POOL, 9, seed)) for seed in range(10)}
    assert len(orders) == 10


def test_what_a_pool_cannot_give_is_refused() -> None:
    with pytest.raises(DataError, match=r"19 demonstrations.* 18 examples"):
        select_random(POOL, 19, 0)
    with pytest.raises(DataError, match="3 labels, 2 shots"):
        select_balanced(POOL, 2, 0)
    with pytest.raises(DataError, match="label 'b' has 1 examples, 2 are needed"):
        select_balanced([*POOL[:6], POOL[6], *POOL[12:]], 6, 0)


def test_the_nearest_come_first_and_ties_keep_their_order() -> None:
    pool = np.array([[1, 0], [0, 1], [1, 0], [0.6, 0.8]], dtype=np.float32)
    queries = np.array([[1, 0], [0, 1]], dtype=np.float32)
    assert rank_nearest(pool, queries) == [[0, 2, 3, 1], [1, 3, 0, 2]]


@pytest.mark.parametrize(
    ("shown", "same", "same_if_groups_are_shared"),
    [
        (Example("q", {"q": "other"}), True, True),
        (Example("x", {"q": "why"}), True, True),
        (Example("x", {"q": "other"}, group="g"), True, False),
        (Example("x", {"q": "other"}, group="h"), False, False),
        (Example("x", {"q": "other"}), False, False),
        (Example("x", {"q": "Why"}), False, False),
    ],
)
def test_an_example_is_itself_by_id_by_content_and_by_group(
    shown: Example, same: bool, same_if_groups_are_shared: bool
) -> None:
    asked = Example("q", {"q": "why"}, group="g")
    assert shows_itself(asked, shown, shared_groups=False) == same
    assert shows_itself(asked, shown, shared_groups=True) == same_if_groups_are_shared


def test_examples_without_groups_share_none() -> None:
    assert not shows_itself(Example("a", {"q": 1}), Example("b", {"q": 2}), shared_groups=False)
