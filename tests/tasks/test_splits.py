"""Drawing rows: exact numbers, equal shares, whole groups, and the same rows for the same seed."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.errors import DataError
from toolkit.tasks.example import Example
from toolkit.tasks.splits import grouped, sample, stratified


@given(st.lists(st.integers(0, 6), min_size=1, max_size=80), st.data())
def test_stratified_draws_exact_numbers_in_the_shares_of_the_strata(strata, data):
    wanted = data.draw(st.integers(0, len(strata)))
    drawn = stratified(strata, wanted, seed=3)
    assert len(drawn) == len(set(drawn)) == wanted
    assert drawn == sorted(drawn)
    sizes, counts = Counter(strata), Counter(strata[index] for index in drawn)
    if wanted >= len(sizes):
        assert set(counts) == set(sizes)
    if min(sizes.values()) * wanted >= len(strata):  # no stratum had to be raised to one
        assert all(abs(counts[s] - wanted * sizes[s] / len(strata)) < 1 for s in sizes)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=80), st.data())
def test_grouped_draws_exact_numbers_and_cuts_at_most_one_group(groups, data):
    wanted = data.draw(st.integers(0, len(groups)))
    drawn = grouped(groups, wanted, seed=3)
    assert len(drawn) == len(set(drawn)) == wanted
    sizes, counts = Counter(groups), Counter(groups[index] for index in drawn)
    assert sum(counts[group] < sizes[group] for group in counts) <= 1


def test_too_few_rows_are_an_error():
    for draw in (stratified, grouped):
        with pytest.raises(DataError, match="4 rows are wanted and 3 are there"):
            draw(["a", "a", "b"], 4, 0)


def examples(count, labels=4):
    return tuple(
        Example(str(n), {"t": n}, (f"label {n % labels}",) if n % 10 else ()) for n in range(count)
    )  # every tenth has no answer


def test_a_sample_is_seeded_keeps_the_order_and_the_shares():
    everything = examples(200)
    drawn = sample(everything, 40, seed=0)
    assert drawn == sample(everything, 40, seed=0)
    assert drawn != sample(everything, 40, seed=1)
    assert [int(e.id) for e in drawn] == sorted(int(e.id) for e in drawn)
    assert sum(not e.targets for e in drawn) == 4
    assert drawn != everything[:40]


def test_a_sample_of_open_answers_is_a_draw_of_exact_size():
    assert len(sample(examples(200, labels=200), 8, seed=0)) == 8


def test_a_sample_larger_than_the_data_is_the_data():
    assert sample(examples(5), 9, seed=0) == examples(5)


def test_a_limit_below_one_is_refused():
    with pytest.raises(DataError, match="a limit is at least 1, found 0"):
        sample(examples(5), 0, seed=0)


def test_no_global_generator_is_touched():
    random.seed(0)
    before = random.getstate()
    sample(examples(50), 10, seed=0)
    grouped(list(range(20)), 5, seed=0)
    assert random.getstate() == before
