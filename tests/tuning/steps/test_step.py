"""The step by hand and the packed one give what the stock model's autograd gives on padded rows."""

from __future__ import annotations

import gc
import random
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.inference.families import PROVEN_FAMILIES
from toolkit.rendering.prompt import TrainingSequence
from toolkit.tuning.adapter import new_adapter
from toolkit.tuning.flat import FlatWeights
from toolkit.tuning.settings import TuneSettings
from toolkit.tuning.steps.choosing import PROBE_ROWS, choose, why_not_by_hand
from toolkit.tuning.steps.fused import FAMILIES, in_order
from toolkit.tuning.steps.packing import SHORTEST_PREFIX, pack, packed_size, shared_prefix
from toolkit.tuning.steps.step import ByHand, Packed, Padded

TOLERANCE = 2e-5
SLIDING: dict[str, dict[str, Any]] = {
    "mistral": {"sliding_window": 7},
    "llama": {"sliding_window": 7},  # which means nothing to it
    "qwen2": {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1},
    "gemma2": {"sliding_window": 7},
    "gemma3_text": {"sliding_window": 7, "layer_types": ["sliding_attention", "full_attention"]},
}
BIASED = {"llama": {"attention_bias": True, "mlp_bias": True}}


def sequences(seed: int, count: int, shared: int = 0, longest: int = 40) -> list[TrainingSequence]:
    """Rows that begin alike; the end of each is supervised, and of some a part in the middle."""
    draw = random.Random(seed)
    before = tuple(draw.randrange(4, 300) for _ in range(shared))
    found = []
    for index in range(count):
        size = draw.randint(6, longest)
        ids = before + tuple(draw.randrange(4, 300) for _ in range(size))
        taught = [False] * len(ids)
        for place in range(len(ids) - draw.randint(1, 4), len(ids)):
            taught[place] = True
        if index % 2 and size > 12:
            taught[shared + 3 : shared + 5] = [True, True]
        found.append(TrainingSequence(ids, tuple(taught)))
    return found


def adapted(module: Any, changes: dict[str, Any] | None = None) -> tuple[Any, Any]:
    """An adapter whose B is not 0, for else most gradients are; and the module under it."""
    made = new_adapter(module, TuneSettings(rank=4, **(changes or {})), seed=0)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in made.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    return made, made.get_base_model()


def of_step(step: Any, weights: FlatWeights, rows: Sequence[TrainingSequence]) -> tuple[float, torch.Tensor]:
    weights.gradient.zero_()
    return float(step(rows, 0.25)), weights.gradient.clone()


def same(found: tuple[float, torch.Tensor], wanted: tuple[float, torch.Tensor]) -> None:
    assert found[0] == pytest.approx(wanted[0], rel=1e-5)
    apart, size = float((found[1] - wanted[1]).norm()), float(wanted[1].norm())
    assert size > 1e-3
    assert apart <= TOLERANCE * size


def by_hand_and_stock(module: Any, changes: dict[str, Any] | None = None, recompute: bool = False) -> Any:
    made, view = adapted(module, changes)
    weights = FlatWeights(in_order(view))
    assert why_not_by_hand(view, [one for one in made.parameters() if one.requires_grad], 0.0) is None
    step = ByHand(view, weights)
    if recompute:
        step.recompute()
    return step, Padded(view, longest_tokens=1000), weights


VARIANTS = [
    *[(family, {}) for family in sorted(FAMILIES)],
    *[(family, SLIDING[family]) for family in sorted(FAMILIES & SLIDING.keys())],
    ("llama", BIASED["llama"]),
    ("llama", {"num_hidden_layers": 1}),
    ("llama", {"num_key_value_heads": 4}),
    ("llama", {"num_key_value_heads": 1, "tie_word_embeddings": False}),
]


@pytest.mark.parametrize(("family", "changes"), VARIANTS, ids=str)
@pytest.mark.parametrize("shared", [0, 20])
def test_the_step_by_hand_is_autograd(
    make_module: Callable[..., Any], family: str, changes: dict[str, Any], shared: int
) -> None:
    step, stock, weights = by_hand_and_stock(make_module(family, **changes))
    rows = sequences(3, 7, shared)
    same(of_step(step, weights, rows), of_step(stock, weights, rows))


@pytest.mark.parametrize("targets", [("q_proj", "v_proj"), ("down_proj",), ("k_proj", "o_proj", "gate_proj")])
def test_any_linear_layers_may_have_an_update(make_module: Callable[..., Any], targets: tuple[str, ...]) -> None:
    step, stock, weights = by_hand_and_stock(make_module("llama"), {"target_modules": targets})
    rows = sequences(4, 5)
    same(of_step(step, weights, rows), of_step(stock, weights, rows))


def test_running_layers_again_changes_nothing(make_module: Callable[..., Any]) -> None:
    rows = sequences(5, 6, shared=12)
    once, _, weights = by_hand_and_stock(make_module("llama"))
    again, _, others = by_hand_and_stock(make_module("llama"), recompute=True)
    first, second = of_step(once, weights, rows), of_step(again, others, rows)
    assert first[0] == second[0]
    assert torch.equal(first[1], second[1])


@pytest.mark.parametrize("block", [1, 7, 64])
def test_long_rows_are_cut_without_a_trace(
    make_module: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr("toolkit.tuning.steps.packing.QUERY_BLOCK", block)
    monkeypatch.setattr("toolkit.tuning.steps.packing.BAND_SCORES", 0)
    step, stock, weights = by_hand_and_stock(make_module("mistral", **SLIDING["mistral"]))
    rows = sequences(6, 4, shared=10)
    same(of_step(step, weights, rows), of_step(stock, weights, rows))


@pytest.mark.parametrize(
    ("family", "changes"), [*((family, {}) for family in sorted(PROVEN_FAMILIES)), *SLIDING.items()], ids=str
)
@pytest.mark.parametrize("shares", [False, True])
def test_packed_through_the_stock_model_is_padded(
    make_module: Callable[..., Any], family: str, changes: dict[str, Any], shares: bool
) -> None:
    module = make_module(family, **changes)
    rows = sequences(7, 6, shared=15)
    gradients = []
    for packed in (True, False):
        made, view = adapted(module)
        weights = FlatWeights([one for one in made.parameters() if one.requires_grad])
        step = Packed(view, shares) if packed else Padded(view, longest_tokens=1000)
        gradients.append(of_step(step, weights, rows))
    same(gradients[0], gradients[1])


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(0, 30))
def test_how_rows_are_put_together_changes_nothing(
    make_hypothesis_step: Any, seed: int, count: int, shared: int
) -> None:
    step, weights = make_hypothesis_step
    rows = sequences(seed, count, shared)
    together = of_step(step, weights, rows)
    parts = [of_step(step, weights, [row]) for row in reversed(rows)]
    same((sum(loss for loss, _ in parts), sum((one for _, one in parts), torch.zeros(()))), together)


@pytest.fixture(scope="module")
def make_hypothesis_step(make_module: Callable[..., Any]) -> Any:
    step, _, weights = by_hand_and_stock(make_module("llama"))
    return step, weights


def test_what_all_rows_begin_with_is_computed_once() -> None:
    rows = sequences(8, 5, shared=30)
    assert shared_prefix(rows) == 30
    assert packed_size(rows, share=True) == 30 + sum(len(row.token_ids) - 30 for row in rows)
    assert packed_size(rows, share=False) == sum(len(row.token_ids) for row in rows)
    batch = pack(rows, (2, 2), torch.device("cpu"), share=True)
    assert batch.tokens == packed_size(rows, share=True)
    assert batch.positions[:32].tolist() == [*range(30), 30, 31]


def test_a_prefix_ends_before_what_is_learnt() -> None:
    ids = tuple(range(100, 120))
    late = TrainingSequence((*ids, 1), (False,) * 20 + (True,))
    early = TrainingSequence((*ids, 2), (False,) * 12 + (True,) * 9)
    assert shared_prefix([late, late]) == 19  # the last token before the supervised one predicts it
    assert shared_prefix([late, early]) == 11
    assert shared_prefix([late]) == 0
    few = TrainingSequence((*ids[: SHORTEST_PREFIX - 1], 1, 2), (False,) * SHORTEST_PREFIX + (True,))
    assert shared_prefix([late, few]) == 0


@pytest.mark.parametrize(
    ("family", "dropout", "how"),
    [
        ("llama", 0.0, "by hand"),
        ("qwen3", 0.0, "by hand"),
        ("llama", 0.1, "packed, through autograd: it has dropout"),
        ("gemma", 0.0, "packed, through autograd: the family 'gemma' is not among"),
        ("gpt_neox", 0.0, "padded, through autograd: the family 'gpt_neox' is not among"),
    ],
)
def test_the_fastest_proven_step_is_chosen_and_named(
    make_module: Callable[..., Any], family: str, dropout: float, how: str
) -> None:
    made = new_adapter(make_module(family), TuneSettings(rank=4, dropout=dropout), seed=0)
    before = [one.detach().clone() for one in made.parameters()]
    _, weights, said = choose(made.get_base_model().train(), dropout, longest_tokens=20)
    assert said.startswith(how)
    assert not weights.gradient.any()
    assert all(torch.equal(one, other) for one, other in zip(before, made.parameters(), strict=True))


@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
def test_rows_do_not_move_each_others_positions(make_module: Callable[..., Any], kind: str) -> None:
    rope: dict[str, Any] = {"rope_type": kind, "rope_theta": 1e4, "factor": 4.0}
    if kind == "longrope":
        rope |= {"short_factor": [1.0] * 4, "long_factor": [3.0] * 4, "original_max_position_embeddings": 16}
    module = make_module("llama", fresh=True, rope_parameters=rope, max_position_embeddings=24)
    _, view = adapted(module)
    step, weights, said = choose(view.train(), 0.0, longest_tokens=40)
    assert said.startswith("padded, through autograd: its rotary positions")
    long, medium = (TrainingSequence(tuple(range(4, 4 + n)), (False,) * (n - 3) + (True,) * 3) for n in (52, 30))
    rows = [*sequences(3, 3, longest=14), *sequences(5, 4, shared=12)]
    assert min(len(row.token_ids) for row in rows) < 16 < 24 < max(len(row.token_ids) for row in rows)
    # one as long as the medium row keeps the frequencies of a longer one before it
    together = of_step(step, weights, [long, medium, *rows])
    apart = [of_step(step, weights, [row]) for row in (*rows, medium, long)]
    same(together, (sum(loss for loss, _ in apart), sum(gradient for _, gradient in apart)))


def test_a_training_that_is_over_leaves_nothing(make_module: Callable[..., Any]) -> None:
    made = new_adapter(make_module("llama"), TuneSettings(rank=4, method="dora"), seed=0)
    step, weights, _ = choose(made.get_base_model().train(), 0.0, longest_tokens=20)
    trained = [weakref.ref(one) for one in made.parameters() if one.requires_grad]
    del made, step, weights
    gc.collect()
    assert [one() for one in trained] == [None] * len(trained)


def test_a_step_that_computes_otherwise_is_found_by_the_probe(
    make_module: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toolkit.tuning.steps.fused.functional.silu", lambda x: x)
    made = new_adapter(make_module("qwen2"), TuneSettings(rank=4), seed=0)
    _, _, said = choose(made.get_base_model().train(), 0.0, longest_tokens=20)
    assert "its gradient differs from the stock model's" in said


def test_the_probe_has_a_shared_prefix() -> None:
    assert shared_prefix(PROBE_ROWS) >= SHORTEST_PREFIX


@pytest.mark.parametrize("changes", [{}, {"method": "dora"}], ids=["lora", "dora"])
def test_an_adapted_head_is_packed_too(make_module: Callable[..., Any], changes: dict[str, Any]) -> None:
    settings = TuneSettings(rank=4, target_modules=("q_proj", "lm_head"), **changes)
    made = new_adapter(make_module("llama", tie_word_embeddings=False), settings, seed=0)
    step, _, said = choose(made.get_base_model().train(), 0.0, longest_tokens=20)
    assert said.startswith("packed, through autograd: ")
    assert isinstance(step, Packed)
