from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from toolkit.seeds import derive
from toolkit.tuning import TuneSettings
from toolkit.tuning.batches import WINDOW, epoch_batches, passes, plan


@given(st.lists(st.integers(1, 50), min_size=1, max_size=80), st.integers(1, 9), st.integers(0, 99))
def test_an_epoch_holds_every_sequence_once(lengths: list[int], batch_size: int, seed: int) -> None:
    batches = epoch_batches(lengths, batch_size, seed)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    assert all(len(batch) <= batch_size for batch in batches)


def in_tuples(lengths: list[int], settings: TuneSettings, seed: int) -> list[tuple[int, ...]]:
    """The oracle: the plan written out, batch by batch."""
    steps: list[tuple[int, ...]] = []
    size = settings.effective_batch_size
    for epoch in range(settings.epochs):
        generator = random.Random(derive(seed, f"batches of epoch {epoch}"))
        order = list(range(len(lengths)))
        generator.shuffle(order)
        batches: list[tuple[int, ...]] = []
        for start in range(0, len(order), WINDOW * size):
            window = sorted(order[start : start + WINDOW * size], key=lambda index: lengths[index])
            batches += [tuple(window[cut : cut + size]) for cut in range(0, len(window), size)]
        generator.shuffle(batches)
        steps += batches
    return steps[: settings.max_steps]


@given(
    st.lists(st.integers(1, 50), min_size=1, max_size=150),
    st.integers(1, 4),
    st.integers(1, 3),
    st.none() | st.integers(1, 300),
)
def test_the_compact_plan_is_the_plan_in_tuples(
    lengths: list[int], batch_size: int, epochs: int, max_steps: int | None
) -> None:
    settings = TuneSettings(effective_batch_size=batch_size, epochs=epochs, max_steps=max_steps)
    found, expected = plan(lengths, settings, seed=3), in_tuples(lengths, settings, seed=3)
    assert list(found) == expected
    assert len(found) == len(expected)
    assert found[1:] == expected[1:]
    assert found[-1] == expected[-1]


@given(st.lists(st.integers(1, 50), min_size=1, max_size=9), st.integers(1, 120))
def test_passes_keep_to_the_tokens_and_drop_nothing(lengths: list[int], most_tokens: int) -> None:
    batch = tuple(range(len(lengths)))

    def padded(rows: tuple[int, ...]) -> int:
        return len(rows) * max(lengths[index] for index in rows)

    found = passes(batch, lengths, most_tokens, None, padded)
    assert sorted(index for rows in found for index in rows) == list(batch)
    assert all(len(rows) == 1 or padded(rows) <= most_tokens for rows in found)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=9), st.integers(1, 4))
def test_passes_of_so_many_rows_drop_nothing(lengths: list[int], most_rows: int) -> None:
    batch = tuple(range(len(lengths)))
    found = passes(batch, lengths, 1, most_rows, len)
    assert sorted(index for rows in found for index in rows) == list(batch)
    assert [len(rows) for rows in found[:-1]] == [most_rows] * (len(found) - 1)


def test_batches_hold_sequences_of_similar_length() -> None:
    lengths = [1 + index % 50 for index in range(400)]
    padded = sum(8 * max(lengths[index] for index in batch) for batch in epoch_batches(lengths, 8, seed=1))
    assert padded < 1.15 * sum(lengths)


def test_the_plan_follows_seed_and_epoch() -> None:
    lengths, settings = [5, 6, 7, 8, 9, 10], TuneSettings(epochs=2, effective_batch_size=2)
    first = plan(lengths, settings, seed=0)
    assert list(first) == list(plan(lengths, settings, seed=0))
    assert list(first) != list(plan(lengths, settings, seed=1))
    assert len(first) == 6
    assert first[:3] != first[3:]


def test_the_plan_stops_at_max_steps() -> None:
    assert len(plan([5] * 40, TuneSettings(epochs=2, effective_batch_size=2, max_steps=7), seed=0)) == 7
