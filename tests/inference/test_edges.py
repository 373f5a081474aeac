"""Cases at the edge that a reader of the engine found: each gave a wrong number, or took what it need not."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from toolkit.errors import ModelError
from toolkit.inference import LocalModel, Sampling
from toolkit.inference.batches import PREFIX_STEP, by_prefix
from toolkit.inference.families import why_plain
from toolkit.inference.packed import Packed
from toolkit.inference.plan import Plan, Segment
from toolkit.inference.sampling import Picker, Row
from toolkit.inference.scoring import tree_scores
from toolkit.inference.trie import build_trie, cut
from toolkit.rendering import Prompt, Renderer

Make = Callable[..., Any]
Ids = tuple[int, ...]


def prompt(*ids: int) -> Prompt:
    return Prompt((), ids, {}, str(ids))


@pytest.mark.parametrize("cap", [None, 3.0, 30.0])
@torch.inference_mode()
def test_no_probability_in_bfloat16_is_above_1_nor_far_off(make_module: Make, cap: float | None) -> None:
    module = make_module("gemma2", fresh=True, final_logit_softcapping=cap).to(torch.bfloat16)
    weight = module.get_output_embeddings().weight
    draw = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, 300, (512,), generator=draw)
    strength = torch.rand(512, 1, generator=draw) * 6
    hidden = (weight[tokens].float() * strength + 0.02 * torch.randn(512, 32, generator=draw)).bfloat16()
    found = Packed(module).log_probabilities(hidden, torch.arange(512), tokens)
    logits = hidden.double() @ weight.double().T
    logits = logits if cap is None else torch.tanh(logits / cap) * cap
    exact = torch.log_softmax(logits, dim=-1)[torch.arange(512), tokens]
    assert float(found.max()) <= 1e-5
    assert float((found - exact).abs().max()) < 0.02


def test_what_the_models_own_generate_stops_at_stops_here(make_module: Make, tokenizer: Any) -> None:
    module, start = make_module("llama", fresh=True), tuple(range(20, 40))
    plain = LocalModel(module, Renderer(tokenizer), "tiny", "digest", 512)
    (free,) = plain.generate([prompt(*start)], Sampling(12))
    stop = free.token_ids[3]
    ends = LocalModel(module, Renderer(tokenizer, {stop}), "tiny", "digest", 512)
    (found,) = ends.generate([prompt(*start)], Sampling(12))
    assert found.token_ids == free.token_ids[: free.token_ids.index(stop)]
    assert found.termination == "stop"


@given(st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=80).map(tuple), min_size=1, max_size=12, unique=True))
def test_rows_are_grouped_by_what_they_begin_with(rows: list[Ids]) -> None:
    groups = by_prefix(rows)
    assert sorted(row for _, group in groups for row in group) == list(range(len(rows)))
    assert all(groups[place][0] for place in range(len(groups) - 1)), "rows of no group stand last"
    for size, group in groups:
        assert size % PREFIX_STEP == 0
        assert len({rows[row][:size] for row in group}) == 1
        assert all(len(rows[row]) > size for row in group)


def test_one_row_that_begins_otherwise_costs_the_others_nothing(tiny_model: LocalModel, monkeypatch: Any) -> None:
    draw = random.Random(1)
    shared = tuple(draw.randrange(4, 300) for _ in range(160))
    rows = [(*shared, *(draw.randrange(4, 300) for _ in range(9))) for _ in range(31)]
    odd = tuple(draw.randrange(4, 300) for _ in range(120))
    prompts = [prompt(*row) for row in (*rows[:7], odd, *rows[7:])]
    computed: list[int] = []
    forward = Packed.forward
    monkeypatch.setattr(
        Packed, "forward", lambda self, ids, plan: computed.append(len(ids)) or forward(self, ids, plan)
    )
    choices = [((5, 6), (7,))] * len(prompts)
    found = tiny_model.score(prompts, choices)
    assert sum(computed) < 160 + 31 * 10 + 121 + 64
    tiny_model.why_plain = "asked to"  # type: ignore[misc]
    for one, other in zip(found, tiny_model.score(prompts, choices), strict=True):
        assert one == pytest.approx(other, abs=1e-4)


def test_two_templates_in_a_chunk_have_a_prefix_each() -> None:
    rows = [(*[kind] * 800, *[9] * place) for kind in (1, 2) for place in range(1, 9)]
    assert [(size, len(group)) for size, group in by_prefix(rows)] == [(800, 8), (800, 8)]
    assert by_prefix(rows, more=20_000) == [(0, list(range(16)))]
    stairs = [(*range(16 * place), -1) for place in range(600)]  # one parts from the others at each step
    assert sorted(place for _, group in by_prefix(stairs) for place in group) == list(range(600))
    short = [(*[kind] * 40, *[9] * place) for kind in (1, 2) for place in range(1, 4)]
    assert by_prefix(short) == [(0, list(range(6)))], "too little is spared to compute them apart"


def letters(ids: Sequence[int]) -> str:
    return "".join(chr(97 + token) for token in ids)


def drawn(logits: Sequence[float], sampling: Sampling, seeds: Sequence[int]) -> list[int]:
    rows = [Row(random.Random(seed)) for seed in seeds]
    Picker(sampling, frozenset(), letters).pick(torch.tensor([logits] * len(rows)), rows)
    return [row.token_ids[0] for row in rows]


@pytest.mark.parametrize("top_p", [0.5, 0.9, 1.0])
def test_the_last_bit_of_near_ties_decides_next_to_nothing(top_p: float) -> None:
    logits = [1.0, 1.0, 0.5, 0.5, -1.0, -3.0]
    moved = [1.0, 1.0 + 1e-6, 0.5 + 1e-6, 0.5, -1.0, -3.0]
    sampling, seeds = Sampling(temperature=1.0, top_p=top_p), range(2000)
    pairs = zip(drawn(logits, sampling, seeds), drawn(moved, sampling, seeds), strict=True)
    assert sum(one != other for one, other in pairs) <= 4


@given(st.lists(st.integers(-4, 4), min_size=2, max_size=9), st.floats(0.05, 0.99))
def test_the_nucleus_is_the_first_of_equal_ones(levels: list[int], top_p: float) -> None:
    logits = torch.tensor([levels], dtype=torch.float64)
    chances = torch.softmax(logits, dim=-1)[0].tolist()
    kept, reached = set(), 0.0
    for token in sorted(range(len(levels)), key=lambda token: (-levels[token], token)):
        if reached >= top_p - 1e-12:
            break
        kept.add(token)
        reached += chances[token]
    nucleus = Picker(Sampling(temperature=1.0, top_p=top_p), frozenset(), letters)._nucleus(
        torch.softmax(logits, dim=-1)
    )
    assert {token for token, chance in enumerate(nucleus[0].tolist()) if chance} == kept


def test_a_nucleus_wider_than_what_is_looked_at_first(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(2)
    logits = [draw.random() for _ in range(40)]
    sampling, seeds = Sampling(temperature=1.0, top_p=0.8), range(500)
    wide = drawn(logits, sampling, seeds)
    monkeypatch.setattr("toolkit.inference.sampling.NUCLEUS_TOKENS", 3)
    assert drawn(logits, sampling, seeds) == wide


def test_next_to_no_temperature_is_greedy_and_none_is_infinite() -> None:
    for top_p in (0.9, 1.0):
        found = Counter(drawn([0.0, 2.0, 1.0], Sampling(temperature=1e-310, top_p=top_p), range(50)))
        assert found == {1: 50}
    with pytest.raises(ModelError, match="finite"):
        Sampling(temperature=float("inf"))


def test_a_stop_text_is_seen_across_tokens_that_are_no_text() -> None:
    picker = Picker(Sampling(40, stop=("ab",)), frozenset(), lambda ids: letters([one for one in ids if one < 26]))
    row = Row()
    for token in (0, *[30] * 20, 1):
        logits = torch.full((1, 32), -9.0)
        logits[0, token] = 9.0
        picker.pick(logits, [row])
    assert (row.done, row.termination) == (True, "stop")


@given(
    st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=6).map(tuple), min_size=1, max_size=30), st.integers(1, 9)
)
def test_continuations_are_cut_into_parts_that_fit(continuations: list[Ids], most: int) -> None:
    parts = cut(tuple(continuations), most)
    assert sorted(place for part in parts for place in part) == list(range(len(continuations)))
    for part in parts:
        nodes = len(build_trie(tuple(continuations[place] for place in part)).tokens)
        assert nodes <= most or len(part) == 1
    if len(build_trie(tuple(continuations)).tokens) <= most:
        assert parts == (tuple(range(len(continuations))),)


@torch.inference_mode()
def test_more_choices_than_a_pass_has_room_for(make_module: Make) -> None:
    module, draw = make_module("llama"), random.Random(3)
    choices = tuple({tuple(draw.randrange(4, 300) for _ in range(draw.randint(1, 4))) for _ in range(200)})
    rows = [(5, 6, 7), (8, 9)]
    whole = tree_scores(Packed(module), rows, [choices] * 2, Packed(module).prefill(()))
    packed, sizes = Packed(module, pass_tokens=64), list[int]()
    forward = packed.forward
    packed.forward = lambda ids, plan: sizes.append(len(ids)) or forward(ids, plan)  # type: ignore[method-assign]
    parted = tree_scores(packed, rows, [choices] * 2, packed.prefill(()))
    assert max(sizes) <= 64
    for one, other in zip(whole, parted, strict=True):
        assert one == pytest.approx(other, abs=1e-5)


def test_a_window_that_a_layer_does_not_know_of_takes_the_plain_path(make_module: Make) -> None:
    kinds = ["sliding_attention", "full_attention"]
    module = make_module("smollm3", fresh=True, use_sliding_window=False, sliding_window=20, layer_types=kinds)
    assert "its own window is None" in str(why_plain(module))


def test_a_row_by_itself_is_no_band() -> None:
    segments = [Segment(start, 100) for start in range(0, 800, 100)]
    plan = Plan(segments)
    assert all(len(band.segments) > 1 for band in plan.bands)
    few = Plan([Segment(0, 100), Segment(100, 3)], prefix=LongPrefix())  # type: ignore[arg-type]
    assert (few.bands, len(few.stretches)) == ([], 2)


class LongPrefix:
    """As long as no band has room for two rows behind it."""

    token_ids, layers = (), ()

    def __len__(self) -> int:
        return 1 << 14


def test_what_does_not_fit_into_the_context_is_refused(tiny_model: LocalModel) -> None:
    row = prompt(*(20 + place % 200 for place in range(500)))
    assert len(tiny_model.generate([row], Sampling(13))) == 1
    for ask in (
        lambda: tiny_model.generate([row], Sampling(14)),
        lambda: tiny_model.score([row], [(tuple([5] * 14),)]),
    ):
        with pytest.raises(ModelError, match="do not fit into the 512"):
            ask()
