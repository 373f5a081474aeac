"""The packed path gives what the plain one gives: any pass size, order, shared prefix, family and window."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.inference.batches import common_prefix
from toolkit.inference.decoding import Request, decode
from toolkit.inference.families import PROVEN_FAMILIES, is_lean, why_plain
from toolkit.inference.model import Sampling
from toolkit.inference.packed import HEAD_ROWS, Packed
from toolkit.inference.plain import Plain
from toolkit.inference.plan import QUERY_BLOCK, Plan, Segment
from toolkit.inference.sampling import Picker, Row
from toolkit.inference.scoring import tree_scores
from toolkit.models.layouts import Layouts

Rows = list[tuple[int, ...]]
TOLERANCE = 1e-4
SLIDING: dict[str, dict[str, Any]] = {
    "mistral": {"sliding_window": 7},
    "qwen2": {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1},
    "gemma2": {"sliding_window": 7},
    "gemma3_text": {"sliding_window": 7, "layer_types": ["sliding_attention", "full_attention"]},
}


@pytest.fixture(params=["bands", "stretches"])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Short rows go into bands; without, every row is a stretch, as long ones are."""
    if request.param == "stretches":
        monkeypatch.setattr("toolkit.inference.plan.BAND_TOKENS", 0)
    return str(request.param)


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


def packed_view(module: Any, pass_tokens: int, as_answered: bool) -> Packed:
    """The stock decoder, or what `LocalModel` answers from: by parts where they are proven, weights laid out."""
    return Packed(module, pass_tokens, is_lean(module), Layouts()) if as_answered else Packed(module, pass_tokens)


@torch.inference_mode()
def scored(
    module: Any,
    rows: Rows,
    choices: Sequence[Any],
    shared: tuple[int, ...],
    pass_tokens: int,
    as_answered: bool = False,
) -> Any:
    packed = packed_view(module, pass_tokens, as_answered)
    return tree_scores(packed, rows, choices, packed.prefill(shared))


@torch.inference_mode()
def plainly_scored(module: Any, rows: Rows, choices: Sequence[Any], shared: tuple[int, ...]) -> Any:
    return Plain(module).scores([(*shared, *row) for row in rows], choices)


def picker(stops: frozenset[int], cap: int) -> Picker:
    return Picker(Sampling(cap), stops, lambda ids: "".join(map(chr, ids)))


@torch.inference_mode()
def decoded(
    module: Any,
    rows: Rows,
    shared: tuple[int, ...],
    stops: frozenset[int],
    cap: int,
    pass_tokens: int,
    kept_tokens: int = 100_000,
    as_answered: bool = False,
) -> list[Row]:
    packed, answers = packed_view(module, pass_tokens, as_answered), [Row() for _ in rows]
    requests = [Request(row, [answer]) for row, answer in zip(rows, answers, strict=True)]
    decode(packed, requests, packed.prefill(shared), picker(stops, cap), kept_tokens)
    return answers


@torch.inference_mode()
def plainly_decoded(module: Any, rows: Rows, shared: tuple[int, ...], stops: frozenset[int], cap: int) -> list[Row]:
    answers = [Row() for _ in rows]
    Plain(module).answers([(*shared, *row) for row in rows], answers, picker(stops, cap))
    return answers


def same_answers(found: Sequence[Row], wanted: Sequence[Row]) -> None:
    assert [(row.token_ids, row.termination) for row in found] == [(row.token_ids, row.termination) for row in wanted]
    assert [row.confidence for row in found] == pytest.approx([row.confidence for row in wanted], abs=TOLERANCE)


def sliding(make_module: Callable[..., Any], family: str) -> Any:
    return make_module(family, **SLIDING[family])


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("family", sorted(PROVEN_FAMILIES))
@pytest.mark.parametrize("shared", [(), tuple(range(50, 67))], ids=["alone", "behind a prefix"])
def test_tree_scores_are_the_plain_ones(make_module: Callable[..., Any], family: str, shared: tuple[int, ...]) -> None:
    module, rows = make_module(family), rows_of(1, 5)
    wanted = plainly_scored(module, rows, CHOICES, shared)
    for pass_tokens in (1, 16, 10_000):
        close(scored(module, rows, CHOICES, shared, pass_tokens), wanted)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("family", sorted(PROVEN_FAMILIES))
@pytest.mark.parametrize("shared", [(), tuple(range(50, 67))], ids=["alone", "behind a prefix"])
def test_greedy_answers_are_the_plain_ones(
    make_module: Callable[..., Any], family: str, shared: tuple[int, ...]
) -> None:
    module, rows = make_module(family), rows_of(2, 6)
    said = plainly_decoded(module, rows, shared, frozenset(), 9)
    stops = frozenset({said[0].token_ids[1], said[2].token_ids[5], said[4].token_ids[0]}) - set(said[1].token_ids)
    wanted = plainly_decoded(module, rows, shared, stops, 9)
    assert "length" in {row.termination for row in wanted}
    for pass_tokens, kept_tokens in ((1, 1), (16, 60), (10_000, 100_000)):
        same_answers(decoded(module, rows, shared, stops, 9, pass_tokens, kept_tokens), wanted)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("family", sorted(SLIDING))
@pytest.mark.parametrize("shared", [(), tuple(range(50, 61))], ids=["alone", "behind a prefix"])
def test_sliding_windows_are_kept(make_module: Callable[..., Any], family: str, shared: tuple[int, ...]) -> None:
    module, rows = sliding(make_module, family), rows_of(5, 5, longest=20)
    assert why_plain(module) is None
    scores = plainly_scored(module, rows, CHOICES, shared)
    unbounded = plainly_scored(make_module(family), rows, CHOICES, shared)
    assert any(one != pytest.approx(other, abs=1e-2) for one, other in zip(scores, unbounded, strict=True))
    answers = plainly_decoded(module, rows, shared, frozenset({2}), 9)
    for pass_tokens in (6, 10_000):
        close(scored(module, rows, CHOICES, shared, pass_tokens), scores)
        same_answers(decoded(module, rows, shared, frozenset({2}), 9, pass_tokens), answers)


FAMILIES = st.sampled_from(sorted(PROVEN_FAMILIES))


@settings(deadline=None, max_examples=32)
@given(
    family=FAMILIES,
    as_answered=st.booleans(),
    seed=st.integers(0, 10_000),
    count=st.integers(1, 6),
    prefix=st.integers(0, 6),
    limits=st.tuples(st.integers(1, 60), st.integers(1, 120)),
    cap=st.integers(1, 7),
    order=st.randoms(use_true_random=False),
)
def test_any_rows_passes_slots_prefix_and_order_decode_alike(
    make_module: Callable[..., Any],
    family: str,
    as_answered: bool,
    seed: int,
    count: int,
    prefix: int,
    limits: tuple[int, int],
    cap: int,
    order: random.Random,
) -> None:
    module = make_module(family)
    rows, shared = rows_of(seed, count), tuple(range(100, 100 + prefix))
    stops = frozenset(random.Random(seed).sample(range(300), 40))
    places = order.sample(range(count), count)
    said = decoded(module, [rows[place] for place in places], shared, stops, cap, *limits, as_answered)
    wanted = plainly_decoded(module, rows, shared, stops, cap)
    same_answers(said, [wanted[place] for place in places])


@st.composite
def choice_rows(draw: st.DrawFn) -> list[tuple[tuple[int, ...], ...]]:
    """Choices over four tokens only, so that they share beginnings often."""
    choice = st.lists(st.integers(10, 13), min_size=1, max_size=5).map(tuple)
    return draw(st.lists(st.lists(choice, min_size=1, max_size=6).map(tuple), min_size=1, max_size=5))


@settings(deadline=None, max_examples=32)
@given(
    family=FAMILIES,
    as_answered=st.booleans(),
    choices=choice_rows(),
    seed=st.integers(0, 10_000),
    prefix=st.integers(0, 6),
    pass_tokens=st.integers(1, 80),
    order=st.randoms(use_true_random=False),
)
def test_any_choices_score_alike_in_any_order(
    make_module: Callable[..., Any],
    family: str,
    as_answered: bool,
    choices: list[Any],
    seed: int,
    prefix: int,
    pass_tokens: int,
    order: random.Random,
) -> None:
    module, places = make_module(family), order.sample(range(len(choices)), len(choices))
    rows, shared = rows_of(seed, len(choices)), tuple(range(100, 100 + prefix))
    wanted = plainly_scored(module, rows, choices, shared)
    moved = [rows[place] for place in places], [choices[place] for place in places]
    close(scored(module, *moved, shared, pass_tokens, as_answered), [wanted[place] for place in places])


def test_a_pass_of_short_rows_is_cut_into_several_bands(
    make_module: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toolkit.inference.plan.BAND_SCORES", 200)
    module, rows, shared = make_module("llama"), rows_of(7, 9), tuple(range(50, 54))
    choices = CHOICES[:3] * 3
    close(scored(module, rows, choices, shared, 10_000), plainly_scored(module, rows, choices, shared))


def test_more_nodes_than_a_block_of_queries(make_module: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toolkit.inference.plan.BAND_TOKENS", 0)
    monkeypatch.setattr("toolkit.inference.plan.QUERY_BLOCK", 3)
    module, rows = make_module("llama"), rows_of(8, 5)
    for shared in ((), tuple(range(50, 60))):
        wanted = plainly_scored(module, rows, CHOICES, shared)
        close(scored(module, rows, CHOICES, shared, 10_000), wanted)
        close(scored(module, rows, CHOICES, shared, 4), wanted)


def test_a_prompt_longer_than_a_block_of_queries(make_module: Callable[..., Any]) -> None:
    module, rows = make_module("llama"), rows_of(6, 2, QUERY_BLOCK + 20, QUERY_BLOCK + 40)
    close(scored(module, rows, CHOICES[:2], (), 10_000), plainly_scored(module, rows, CHOICES[:2], ()))
    wanted = plainly_decoded(module, rows, (), frozenset(), 4)
    same_answers(decoded(module, rows, (), frozenset(), 4, 10_000), wanted)
    same_answers(decoded(module, rows, (), frozenset(), 4, 100), wanted)


def test_long_rows_are_run_in_parts_and_ask_in_blocks_that_shrink(
    make_module: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"plan.SMALLEST_BLOCK": 2, "plan.BLOCK_SCORES": 120, "packed.PART_TOKENS": 25}.items():
        monkeypatch.setattr(f"toolkit.inference.{name}", value)
    monkeypatch.setattr("toolkit.inference.plan.QUERY_BLOCK", 8)
    monkeypatch.setattr("toolkit.inference.plan.BAND_TOKENS", 0)
    ends = [stretch.stop for stretch in Plan([Segment(0, 60)]).stretches]
    assert ends == [8, 14, 18, 22, 26, *range(28, 61, 2)]
    module, rows = make_module("llama"), rows_of(6, 3, 40, 90)
    for shared in ((), tuple(range(50, 60))):
        close(scored(module, rows, CHOICES[:3], shared, 30), plainly_scored(module, rows, CHOICES[:3], shared))
        wanted = plainly_decoded(module, rows, shared, frozenset(), 4)
        same_answers(decoded(module, rows, shared, frozenset(), 4, 10_000), wanted)


def test_more_scored_rows_than_the_head_takes_at_once(make_module: Callable[..., Any]) -> None:
    module, rows = make_module("llama"), rows_of(3, 2)
    many = tuple((token, token + 1, 2) for token in range(4, 290))
    assert 2 * len(many) > HEAD_ROWS
    close(scored(module, rows, [many, many], (), 10_000), plainly_scored(module, rows, [many, many], ()))


def test_finished_rows_leave_and_waiting_ones_enter(
    make_module: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    module, rows = make_module("llama"), rows_of(2, 12, 5, 9)
    firsts = [row.token_ids for row in plainly_decoded(module, rows, (), frozenset(), 6)]
    stops = frozenset(row[0] for row in firsts[1:7]) - set(firsts[0])
    passes = []
    real = Packed.forward

    def watched(self: Packed, ids: Any, plan: Any) -> Any:
        passes.append((len(plan.steps.lengths) if plan.steps else 0, len(plan.segments)))
        return real(self, ids, plan)

    monkeypatch.setattr(Packed, "forward", watched)
    found = decoded(module, rows, (), stops, 6, 10_000, kept_tokens=4 * 15)
    monkeypatch.undo()
    same_answers(found, plainly_decoded(module, rows, (), stops, 6))
    assert sum(entered for _, entered in passes) == len(rows)
    assert max(live for live, _ in passes) <= 4
    assert any(live and entered for live, entered in passes), "nobody entered while others went on"
    assert passes[-1][0] < max(live for live, _ in passes)


def test_a_batch_all_of_whose_rows_stop_makes_no_further_pass(
    make_module: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    module, rows = make_module("llama"), rows_of(2, 3)
    calls = []
    real = Packed.forward
    monkeypatch.setattr(Packed, "forward", lambda *given: calls.append(1) or real(*given))
    found = decoded(module, rows, (), frozenset(range(300)), 50, 10_000)
    assert [(row.token_ids, row.termination) for row in found] == [([], "stop")] * 3
    assert len(calls) == 1


@settings(deadline=None)
@given(rows=st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=8), min_size=1, max_size=6))
def test_a_common_prefix_is_shared_longest_and_leaves_every_row_a_token(rows: list[list[int]]) -> None:
    size = common_prefix(rows)
    assert all(row[:size] == rows[0][:size] for row in rows)
    assert all(len(row) > size for row in rows)
    longer = size + 1
    assert min(map(len, rows)) == longer or any(row[:longer] != rows[0][:longer] for row in rows)
