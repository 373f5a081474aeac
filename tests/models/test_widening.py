"""Weights in bf16 on a processor without such products give what the same weights give in fp32."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from toolkit.inference.lean import LEAN_FAMILIES
from toolkit.inference.local import LocalModel
from toolkit.inference.model import Sampling, Weights
from toolkit.inference.packed import Packed
from toolkit.inference.plan import Plan, Segment
from toolkit.models import adapter_digest, layouts, widening
from toolkit.models.layouts import LaidOut, Layouts
from toolkit.models.weights import shared_copy
from toolkit.models.widening import Widened, computing_dtype_of, widened
from toolkit.rendering import Prompt
from toolkit.rendering.renderer import Renderer, ids_digest
from toolkit.tuning.adapter import new_adapter, save_adapter
from toolkit.tuning.settings import TuneSettings

IDS = [(11 * place * place + 5 * place + 4) % 290 for place in range(40)]
PROMPTS = [Prompt((), tuple(ids), {"question": len(ids)}, ids_digest(ids)) for ids in (IDS, IDS[:9], IDS[3:30])]
CHOICES = [[(5, 6), (7,), (5, 8, 9)]] * len(PROMPTS)
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *[(family, {}) for family in sorted(LEAN_FAMILIES)],
    ("llama", {"attention_bias": True, "mlp_bias": True}),
    ("llama", {"tie_word_embeddings": False}),
]


@pytest.fixture(autouse=True)
def no_products_of_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor without them, whatever this one has; pieces smaller than the tiny models' weights."""
    monkeypatch.setattr(widening, "multiplies_bf16", lambda: False)
    monkeypatch.setattr(widening, "PIECE", 500)


def both(module: Any) -> tuple[Any, Any]:
    """A model rounded to bf16, and the same weights in fp32."""
    half = shared_copy(module).to(torch.bfloat16)
    return half, shared_copy(half).to(torch.float32)


def states(module: Any, kept: Layouts | None = None) -> torch.Tensor:
    with torch.inference_mode():
        return Packed(module, lean=True, layouts=kept).forward(IDS, Plan([Segment(0, len(IDS))]))


def an_adapter(module: Any, folder: Path, **settings: Any) -> Weights:
    """With updates that are not 0."""
    adapted = new_adapter(module, TuneSettings(rank=4, **settings), seed=0)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(len(name)))
    save_adapter(adapted, folder)
    return Weights(folder, adapter_digest(folder))


@pytest.mark.parametrize("laid_out", [False, True])
@pytest.mark.parametrize(("family", "changes"), VARIANTS, ids=str)
def test_states_are_those_of_the_same_weights_in_float32(
    make_module: Callable[..., Any], family: str, changes: dict[str, Any], laid_out: bool
) -> None:
    half, wide = both(make_module(family, **changes))
    found, wanted = states(half, Layouts() if laid_out else None), states(wide)
    assert found.dtype == torch.float32
    assert (found - wanted).norm() <= 1e-5 * wanted.norm()
    assert {one.dtype for one in half.parameters()} == {torch.bfloat16}, "the model's own weights stay as they are"
    assert not any(isinstance(one, LaidOut | Widened) for one in half.modules())


@pytest.mark.parametrize("most_bytes", [0, layouts.MOST_BYTES])
def test_scores_and_answers_are_those_of_float32(
    make_module: Callable[..., Any], renderer: Renderer, monkeypatch: pytest.MonkeyPatch, most_bytes: int
) -> None:
    monkeypatch.setattr(layouts, "MOST_BYTES", most_bytes)
    half, wide = (LocalModel(one, renderer, "m", "d", 512) for one in both(make_module("llama")))
    assert half.path.removesuffix(", weights laid out") == "packed, by parts, computed in float32"
    assert "computed in" not in wide.path
    for mine, theirs in zip(half.score(PROMPTS, CHOICES), wide.score(PROMPTS, CHOICES), strict=True):
        assert mine == pytest.approx(theirs, abs=1e-4)
    sampling = Sampling(max_new_tokens=12)
    said = [one.generate(PROMPTS, sampling) for one in (half, wide)]
    assert [one.token_ids for one in said[0]] == [one.token_ids for one in said[1]]


@pytest.mark.parametrize("laid_out", [False, True])
@pytest.mark.parametrize("settings", [{}, {"method": "dora"}, {"target_modules": ["q_proj", "lm_head"]}], ids=str)
def test_an_adapters_states_and_logits_are_those_of_float32(
    make_module: Callable[..., Any],
    renderer: Renderer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, Any],
    laid_out: bool,
) -> None:
    monkeypatch.setattr(layouts, "MOST_BYTES", layouts.MOST_BYTES if laid_out else 0)
    models = [LocalModel(one, renderer, "m", "d", 512) for one in both(make_module("llama", attention_bias=True))]
    weights = an_adapter(models[1].module, tmp_path, **settings)
    plain = states(models[0].module)
    found, wanted = (one.adapted(weights) for one in models)
    assert isinstance(found, LocalModel)
    assert isinstance(wanted, LocalModel)
    mine, theirs = states(found.module, found._layouts), states(wanted.module)
    assert (mine - theirs).norm() <= 1e-5 * theirs.norm()
    assert (mine - plain).norm() > 0.01 * plain.norm()
    with torch.inference_mode():
        logits = [one._packed.logits(theirs) for one in (found, wanted)]
    close = 0.02 if "target_modules" in settings else 1e-5  # an adapted head is asked in its own dtype
    assert (logits[0] - logits[1]).norm() <= close * logits[1].norm()


@pytest.mark.parametrize("bias", [False, True])
def test_a_product_in_pieces_is_the_product(bias: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    linear = torch.nn.Linear(48, 100, bias=bias)
    with torch.no_grad():
        linear.weight.normal_(generator=generator)
    half = linear.to(torch.bfloat16)
    x, update = (torch.randn(2, 7, size, generator=generator) for size in (48, 100))
    one = widened(half)
    with torch.inference_mode():
        wanted = functional.linear(x, half.weight.float(), half.bias.float() if bias else None)
        torch.testing.assert_close(one(x), wanted)
        torch.testing.assert_close(one.onto(update[0], x[0]), wanted[0] + update[0])
    assert one.weight is half.weight


def test_only_bf16_on_a_processor_without_it_is_widened(
    make_module: Callable[..., Any], renderer: Renderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    half, wide = both(make_module("llama"))
    assert computing_dtype_of(wide) == torch.float32
    assert computing_dtype_of(shared_copy(wide).to(torch.float16)) == torch.float16
    assert computing_dtype_of(half.to("meta")) == torch.bfloat16
    half, _ = both(make_module("gemma2"))
    assert "computed in" not in LocalModel(half, renderer, "m", "d", 512).path, "its stock modules expect bf16"
    monkeypatch.setattr(widening, "multiplies_bf16", lambda: True)
    half, _ = both(make_module("llama"))
    assert computing_dtype_of(half) == torch.bfloat16
    assert "computed in" not in LocalModel(half, renderer, "m", "d", 512).path
