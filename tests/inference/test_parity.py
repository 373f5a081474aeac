"""The fast roads give what the plain ones give: any batch budget, order, shared prefix, family and attention."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.inference.decoding import greedy, plain_greedy
from toolkit.inference.forward import (
    HEAD_ROWS,
    PROVEN_FAMILIES,
    Prefix,
    common_prefix,
    no_prefix,
    prefill,
    takes_tree_masks,
)
from toolkit.inference.scoring import build_trie, plain_scores, tree_scores

Rows = list[tuple[int, ...]]
TOLERANCE = 1e-4


def rows_of(seed: int, count: int, shortest: int = 1, longest: int = 12) -> Rows:
    generator = random.Random(seed)
    return [
        tuple(generator.randrange(4, 300) for _ in range(generator.randint(shortest, longest))) for _ in range(count)
    ]


CHOICES = (
    ((10, 11, 12, 2), (10, 11, 2), (10, 20, 2), (30, 2)),
    ((7,), (8,), (9,)),
    ((5, 6, 7, 8, 9, 10, 11, 2), (5, 2), (5, 6, 2)),
    ((40, 41, 2),),
    ((40, 41, 2), (40, 41, 2), (42,)),
)


def close(found: Sequence[Sequence[float]], wanted: Sequence[Sequence[float]]) -> None:
    assert [len(row) for row in found] == [len(row) for row in wanted]
    for one, other in zip(found, wanted, strict=True):
        assert one == pytest.approx(other, abs=TOLERANCE)


@torch.inference_mode()
def scored(module: Any, rows: Rows, choices: Sequence[Any], shared: tuple[int, ...], budget: int) -> Any:
    prefix = prefill(module, shared) if shared else no_prefix()
    return tree_scores(module, rows, [build_trie(row) for row in choices], prefix, budget)


@torch.inference_mode()
def plainly_scored(module: Any, rows: Rows, choices: Sequence[Any], shared: tuple[int, ...]) -> Any:
    return plain_scores(module, [(*shared, *row) for row in rows], choices)


@torch.inference_mode()
def decoded(module: Any, rows: Rows, shared: tuple[int, ...], stops: frozenset[int], cap: int, budget: int) -> Any:
    prefix: Prefix = prefill(module, shared) if shared else no_prefix()
    return greedy(module, rows, prefix, stops, cap, budget)


@torch.inference_mode()
def plainly_decoded(module: Any, rows: Rows, shared: tuple[int, ...], stops: frozenset[int], cap: int) -> Any:
    return plain_greedy(module, [(*shared, *row) for row in rows], stops, cap)


def same_answers(found: Any, wanted: Any) -> None:
    assert [(row.token_ids, row.termination) for row in found] == [(row.token_ids, row.termination) for row in wanted]
    assert [row.confidence for row in found] == pytest.approx([row.confidence for row in wanted], abs=TOLERANCE)


def test_every_proven_family_has_a_tiny_model_here(make_module: Callable[..., Any]) -> None:
    assert all(takes_tree_masks(make_module(family)) for family in PROVEN_FAMILIES)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", sorted(PROVEN_FAMILIES))
@pytest.mark.parametrize("shared", [(), tuple(range(50, 67))], ids=["alone", "behind a prefix"])
def test_tree_scores_are_the_plain_ones(
    make_module: Callable[..., Any], family: str, attention: str, shared: tuple[int, ...]
) -> None:
    module = make_module(family, attention=attention)
    rows = rows_of(1, 5)
    wanted = plainly_scored(module, rows, CHOICES, shared)
    for budget in (1, 40, 10_000):
        close(scored(module, rows, CHOICES, shared, budget), wanted)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", sorted(PROVEN_FAMILIES))
@pytest.mark.parametrize("shared", [(), tuple(range(50, 67))], ids=["alone", "behind a prefix"])
def test_greedy_answers_are_the_plain_ones(
    make_module: Callable[..., Any], family: str, attention: str, shared: tuple[int, ...]
) -> None:
    module = make_module(family, attention=attention)
    rows = rows_of(2, 6)
    said = plainly_decoded(module, rows, shared, frozenset(), 9)
    stops = frozenset({said[0].token_ids[1], said[2].token_ids[5], said[4].token_ids[0]}) - set(said[1].token_ids)
    wanted = plainly_decoded(module, rows, shared, stops, 9)
    assert {row.termination for row in wanted} == {"stop", "length"}
    for budget in (1, 45, 10_000):
        same_answers(decoded(module, rows, shared, stops, 9, budget), wanted)


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 10_000),
    count=st.integers(1, 6),
    prefix=st.integers(0, 6),
    budget=st.integers(1, 200),
    cap=st.integers(1, 7),
)
def test_any_rows_budget_and_prefix_decode_alike(
    make_module: Callable[..., Any], seed: int, count: int, prefix: int, budget: int, cap: int
) -> None:
    module = make_module("llama")
    rows, shared = rows_of(seed, count), tuple(range(100, 100 + prefix))
    stops = frozenset(random.Random(seed).sample(range(300), 40))
    same_answers(decoded(module, rows, shared, stops, cap, budget), plainly_decoded(module, rows, shared, stops, cap))


@st.composite
def choice_rows(draw: st.DrawFn) -> list[tuple[tuple[int, ...], ...]]:
    """Choices over four tokens only, so that they share beginnings often."""
    choice = st.lists(st.integers(10, 13), min_size=1, max_size=5).map(tuple)
    return draw(st.lists(st.lists(choice, min_size=1, max_size=6).map(tuple), min_size=1, max_size=5))


@settings(deadline=None, max_examples=25)
@given(choices=choice_rows(), seed=st.integers(0, 10_000), prefix=st.integers(0, 6), budget=st.integers(1, 200))
def test_any_choices_score_alike(
    make_module: Callable[..., Any], choices: list[Any], seed: int, prefix: int, budget: int
) -> None:
    module = make_module("llama")
    rows, shared = rows_of(seed, len(choices)), tuple(range(100, 100 + prefix))
    close(scored(module, rows, choices, shared, budget), plainly_scored(module, rows, choices, shared))


def test_more_scored_rows_than_the_head_takes_at_once(make_module: Callable[..., Any]) -> None:
    module, rows = make_module("llama"), rows_of(3, 2)
    many = tuple((token, token + 1, 2) for token in range(4, 4 + HEAD_ROWS // 2 + 20))
    close(scored(module, rows, [many, many], (), 10_000), plainly_scored(module, rows, [many, many], ()))


def test_the_order_of_rows_changes_nothing(make_module: Callable[..., Any]) -> None:
    module, rows = make_module("qwen2"), rows_of(4, 5)
    forth = scored(module, rows, CHOICES, (), 60)
    close(scored(module, rows[::-1], CHOICES[::-1], (), 60)[::-1], forth)
    same_answers(
        decoded(module, rows[::-1], (), frozenset({2}), 6, 60)[::-1], decoded(module, rows, (), frozenset({2}), 6, 60)
    )


def test_finished_rows_leave_the_batch(make_module: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    import toolkit.inference.decoding as decoding

    module, rows = make_module("llama"), rows_of(2, 8)
    firsts = [row.token_ids for row in plainly_decoded(module, rows, (), frozenset(), 6)]
    keep = firsts[0]
    stops = frozenset(row[0] for row in firsts) - set(keep)
    assert len(stops) >= 4
    sizes = []
    real = decoding.body
    monkeypatch.setattr(decoding, "body", lambda module, ids, *rest: sizes.append(len(ids)) or real(module, ids, *rest))
    found = decoded(module, rows, (), stops, 6, 10_000)
    same_answers(found, plainly_decoded(module, rows, (), stops, 6))
    assert sizes[0] == 8
    assert sizes[-1] < 5


def test_a_batch_all_of_whose_rows_stop_makes_no_further_pass(
    make_module: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import toolkit.inference.decoding as decoding

    module, rows = make_module("llama"), rows_of(2, 3)
    calls = []
    real = decoding.body
    monkeypatch.setattr(decoding, "body", lambda *given: calls.append(1) or real(*given))
    found = decoded(module, rows, (), frozenset(range(300)), 50, 10_000)
    assert [(row.token_ids, row.termination) for row in found] == [([], "stop")] * 3
    assert len(calls) == 1


def test_sliding_windows_and_unknown_families_take_the_plain_road(make_module: Callable[..., Any]) -> None:
    assert not takes_tree_masks(make_module("gpt_neox"))
    assert not takes_tree_masks(make_module("mistral", sliding_window=8))
    assert not takes_tree_masks(make_module("qwen2", use_sliding_window=True, sliding_window=8, max_window_layers=1))


def test_attention_that_takes_no_mask_of_its_own_takes_the_plain_road(make_module: Callable[..., Any]) -> None:
    module = make_module("llama", fresh=True)
    module.config._attn_implementation = "flash_attention_2"
    assert not takes_tree_masks(module)


@settings(deadline=None)
@given(rows=st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=8), min_size=1, max_size=6))
def test_a_common_prefix_is_shared_longest_and_leaves_every_row_a_token(rows: list[list[int]]) -> None:
    size = common_prefix(rows)
    assert all(row[:size] == rows[0][:size] for row in rows)
    assert all(len(row) > size for row in rows)
    longer = size + 1
    assert min(map(len, rows)) == longer or any(row[:longer] != rows[0][:longer] for row in rows)
