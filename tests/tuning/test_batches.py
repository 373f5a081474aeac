from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from toolkit.tuning import TuneSettings
from toolkit.tuning.batches import epoch_batches, micro_batches, plan


@given(st.lists(st.integers(1, 50), min_size=1, max_size=80), st.integers(1, 9), st.integers(0, 99))
def test_an_epoch_holds_every_sequence_once(lengths: list[int], batch_size: int, seed: int) -> None:
    batches = epoch_batches(lengths, batch_size, seed)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    assert all(len(batch) <= batch_size for batch in batches)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=9), st.integers(1, 120))
def test_micro_batches_keep_to_the_padded_tokens_and_drop_nothing(lengths: list[int], most_tokens: int) -> None:
    batch = tuple(range(len(lengths)))
    passes = micro_batches(batch, lengths, most_tokens)
    assert sorted(index for rows in passes for index in rows) == list(batch)
    for rows in passes:
        assert len(rows) == 1 or len(rows) * max(lengths[index] for index in rows) <= most_tokens


def test_batches_hold_sequences_of_similar_length() -> None:
    lengths = [1 + index % 50 for index in range(400)]
    padded = sum(8 * max(lengths[index] for index in batch) for batch in epoch_batches(lengths, 8, seed=1))
    assert padded < 1.15 * sum(lengths)


def test_the_plan_follows_seed_and_epoch() -> None:
    lengths, settings = [5, 6, 7, 8, 9, 10], TuneSettings(epochs=2, batch_size=2)
    first = plan(lengths, settings, seed=0)
    assert first == plan(lengths, settings, seed=0)
    assert first != plan(lengths, settings, seed=1)
    assert len(first) == 6
    assert first[:3] != first[3:]


def test_the_plan_stops_at_max_steps() -> None:
    assert len(plan([5] * 40, TuneSettings(epochs=2, batch_size=2, max_steps=7), seed=0)) == 7
