"""Weights laid out for the processor give the model's own answers, and are shared where the weights are."""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from toolkit.inference.local import LocalModel
from toolkit.inference.model import Sampling, Weights
from toolkit.inference.packed import Packed
from toolkit.inference.plan import Plan, Segment
from toolkit.models import adapter_digest, layouts, load_adapter
from toolkit.models.layouts import LaidOut, Layouts, lay_out
from toolkit.models.weights import shared_copy
from toolkit.rendering import Prompt
from toolkit.rendering.renderer import Renderer, ids_digest
from toolkit.tuning.adapter import new_adapter, save_adapter
from toolkit.tuning.settings import TuneSettings

pytestmark = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64") or not torch.backends.mkldnn.is_available(),
    reason="weights are laid out by oneDNN, on x86 processors",
)

IDS = [(11 * place * place + 5 * place + 4) % 290 for place in range(40)]
PROMPT = Prompt((), tuple(IDS), {"question": len(IDS)}, ids_digest(IDS))
CLOSE = {torch.float32: 1e-5, torch.bfloat16: 0.02}
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *[(family, {}) for family in ("llama", "qwen2", "qwen3", "mistral", "gemma2")],
    ("llama", {"attention_bias": True, "mlp_bias": True}),
]


def laid_out(module: Any) -> int:
    return sum(isinstance(one, LaidOut) for one in module.modules())


def states(module: Any, kept: Layouts | None, lean: bool = False) -> torch.Tensor:
    with torch.inference_mode():
        return Packed(module, lean=lean, layouts=kept).forward(IDS, Plan([Segment(0, len(IDS))])).float()


def an_adapter(module: Any, folder: Path) -> Path:
    """With updates that are not 0."""
    adapted = new_adapter(module, TuneSettings(rank=4), seed=0)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(len(name)))
    save_adapter(adapted, folder)
    return folder


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("family", "changes"), VARIANTS, ids=str)
def test_the_states_are_those_of_the_weights_as_they_lie(
    make_module: Callable[..., Any], family: str, changes: dict[str, Any], dtype: torch.dtype
) -> None:
    module = shared_copy(make_module(family, **changes)).to(dtype)
    lean = family in ("llama", "qwen2", "qwen3", "mistral")
    wanted, found = states(module, None, lean), states(module, Layouts(), lean)
    assert (found - wanted).norm() <= CLOSE[dtype] * wanted.norm()
    assert not laid_out(module), "the model itself keeps its layers"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("bias", [False, True])
def test_an_adapters_states_are_those_of_the_weights_as_they_lie(
    make_module: Callable[..., Any], tmp_path: Path, bias: bool, dtype: torch.dtype
) -> None:
    module = shared_copy(make_module("llama", attention_bias=bias, mlp_bias=bias)).to(dtype)
    adapted = load_adapter(module, an_adapter(module, tmp_path))
    wanted, found = states(adapted, None, lean=True), states(adapted, Layouts(), lean=True)
    assert (found - wanted).norm() <= CLOSE[dtype] * wanted.norm()
    assert (states(module, None) - wanted).norm() > 0.05 * wanted.norm()


def test_every_linear_layer_is_laid_out_and_an_adapters_are_not(
    make_module: Callable[..., Any], tmp_path: Path
) -> None:
    module = make_module("llama")
    adapted = shared_copy(load_adapter(module, an_adapter(module, tmp_path)))
    assert lay_out(adapted.get_decoder(), Layouts(), torch.float32)
    assert laid_out(adapted) == 14
    assert not any(isinstance(one, LaidOut) for name, one in adapted.named_modules() if "lora_" in name)


@pytest.mark.parametrize("base_first", [True, False])
def test_an_adapted_view_reads_what_its_base_has(
    make_module: Callable[..., Any], renderer: Renderer, tmp_path: Path, base_first: bool
) -> None:
    base = LocalModel(make_module("llama"), renderer, "m", "d", 512)
    weights = Weights(an_adapter(base.module, tmp_path), adapter_digest(tmp_path))
    view, merged = base.adapted(weights), base.adapted(weights, merged=True)
    for one in (base, view, merged) if base_first else (merged, view, base):
        assert isinstance(one, LocalModel)
        one.generate([PROMPT], Sampling(max_new_tokens=2))
    assert len(base._layouts._found) == 15, "14 linear layers and the head"
    assert not view._layouts._found
    assert len(merged._layouts._found) == 14, "merged weights are others, but for the head"
    assert not {*merged._layouts._found} & {*base._layouts._found}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_the_head_gives_the_logits_of_its_weight_as_it_lies(
    make_module: Callable[..., Any], family: str, dtype: torch.dtype
) -> None:
    module = shared_copy(make_module(family)).to(dtype)
    hidden = states(module, None).to(dtype)
    packed = Packed(module, layouts=Layouts())
    with torch.inference_mode():
        wanted, found = Packed(module).logits(hidden), packed.logits(hidden)
    assert packed.laid_out or dtype == torch.bfloat16, "a processor may have no such products in bfloat16"
    assert isinstance(packed._head, LaidOut) is packed.laid_out
    assert (found - wanted).norm() <= CLOSE[dtype] * wanted.norm()


def test_a_head_is_laid_out_only_to_decode_and_only_a_small_plain_one(
    make_module: Callable[..., Any], renderer: Renderer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = LocalModel(make_module("llama"), renderer, "m", "d", 512)
    model.score([PROMPT], [[(5, 6), (7,)]])
    assert len(model._layouts._found) == 14, "scoring has no use for it"

    adapted = new_adapter(make_module("llama"), TuneSettings(target_modules=["q_proj", "lm_head"]), seed=0)
    assert not isinstance(Packed(adapted, layouts=Layouts())._head, LaidOut)

    module = make_module("llama")
    layers = sum(one.weight.nbytes for one in module.get_decoder().modules() if isinstance(one, torch.nn.Linear))
    for more, expected in ((module.lm_head.weight.nbytes, True), (0, False)):
        monkeypatch.setattr(layouts, "MOST_BYTES", layers + more)
        packed = Packed(module, layouts=Layouts())
        assert packed.laid_out
        assert isinstance(packed._head, LaidOut) is expected


def test_large_models_and_other_builds_stay_as_they_are(
    make_module: Callable[..., Any], renderer: Renderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = make_module("llama")
    assert LocalModel(module, renderer, "m", "d", 512).path == "packed, by parts, weights laid out"
    half = shared_copy(module).to(torch.float16)
    assert not lay_out(half.get_decoder(), Layouts(), torch.float16)
    with monkeypatch.context() as changed:
        changed.setattr(layouts, "MOST_BYTES", 1000)
        assert LocalModel(module, renderer, "m", "d", 512).path == "packed, by parts"
    monkeypatch.setattr(layouts, "_product", lambda *_: torch.zeros(5, 32))
    assert LocalModel(module, renderer, "m", "d", 512).path == "packed, by parts"


def test_a_layer_that_something_listens_to_is_heard(make_module: Callable[..., Any]) -> None:
    module, heard = make_module("llama", fresh=True), []
    module.model.layers[1].mlp.down_proj.register_forward_hook(lambda *_: heard.append(1))
    states(module, Layouts())
    assert heard == [1]
