"""A decoder run by its parts computes what its own modules do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from toolkit.inference.families import is_lean, why_plain
from toolkit.inference.keys_values import NO_PREFIX, Slots
from toolkit.inference.lean import LEAN_FAMILIES, why_not_lean
from toolkit.inference.local import LocalModel
from toolkit.inference.packed import Packed
from toolkit.inference.plan import Plan, Segment, Steps
from toolkit.rendering.renderer import Renderer
from toolkit.tuning.adapter import new_adapter
from toolkit.tuning.settings import TuneSettings

WINDOWS = {
    "mistral": {"sliding_window": 6},
    "llama": {"sliding_window": 6},  # which means nothing to it
    "qwen2": {"sliding_window": 6, "use_sliding_window": True, "max_window_layers": 1},
    "qwen3": {"sliding_window": 6, "use_sliding_window": True, "max_window_layers": 1},
}
VARIANTS = [
    *[(family, {}) for family in sorted(LEAN_FAMILIES)],
    *WINDOWS.items(),
    ("llama", {"attention_bias": True, "mlp_bias": True}),
    ("llama", {"num_key_value_heads": 4}),
    ("llama", {"num_key_value_heads": 1, "tie_word_embeddings": False}),
]
IDS = [(11 * place * place + 5 * place + 4) % 290 for place in range(20)]


def states(module: Any, lean: bool) -> list[torch.Tensor]:
    """Of a pass over two rows, and of one that goes on with both while a third enters."""
    packed, slots = Packed(module, lean=lean), Slots(3, 32, 2)
    with torch.inference_mode():
        first = packed.forward(IDS + IDS[:9], Plan([Segment(0, 20, slot=0), Segment(20, 9, slot=1)], slots=slots))
        plan = Plan([Segment(2, 5, slot=2)], Steps(0, (21, 10)), NO_PREFIX, slots)
        return [first, packed.forward([7, 8, *IDS[:5]], plan)]


def same(found: list[torch.Tensor], wanted: list[torch.Tensor], apart: float = 1e-5) -> None:
    for one, other in zip(found, wanted, strict=True):
        assert (one - other).norm() <= apart * other.norm()


@pytest.mark.parametrize(("family", "changes"), VARIANTS, ids=str)
def test_the_states_are_those_of_the_stock_modules(
    make_module: Callable[..., Any], family: str, changes: dict[str, Any]
) -> None:
    module = make_module(family, **changes)
    assert is_lean(module)
    same(states(module, lean=True), states(module, lean=False))


@pytest.mark.parametrize("family", sorted(LEAN_FAMILIES))
def test_in_bfloat16_they_differ_by_rounding_only(make_module: Callable[..., Any], family: str) -> None:
    module = make_module(family, fresh=True).to(torch.bfloat16)
    exact = states(make_module(family, fresh=True), lean=False)
    lean, stock = states(module, lean=True), states(module, lean=False)
    for one, other, wanted in zip(lean, stock, exact, strict=True):
        assert (one.float() - wanted).norm() <= 1.2 * (other.float() - wanted).norm() + 1e-3 * wanted.norm()


@pytest.mark.parametrize("method", ["lora", "dora"])
def test_adapted_layers_are_called_as_they_are(make_module: Callable[..., Any], method: str) -> None:
    adapted = new_adapter(make_module("llama"), TuneSettings(rank=4, method=method), seed=0)
    with torch.no_grad():
        for number, parameter in enumerate(adapted.parameters()):
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.sin(torch.arange(parameter.numel()) * 1.7 + number).view_as(parameter))
    view = adapted.get_base_model().eval()
    found = states(view, lean=True)
    same(found, states(view, lean=False))
    assert (found[0] - states(make_module("llama"), lean=True)[0]).norm() > 0.1 * found[0].norm()


def test_what_a_model_may_not_be(make_module: Callable[..., Any]) -> None:
    assert "the family 'gemma' is not among llama, mistral, qwen2, qwen3" in str(why_not_lean(make_module("gemma")))
    assert why_not_lean(make_module("llama", hidden_act="gelu")) == "its gate is gelu"
    heard = make_module("llama", fresh=True)
    heard.model.layers[1].mlp.register_forward_hook(lambda *_: None)
    assert why_not_lean(heard) == "something listens to its modules"
    assert not is_lean(make_module("gpt2"))


def test_a_decoder_that_computes_otherwise_is_found_by_the_probe(
    make_module: Callable[..., Any], renderer: Renderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = make_module("llama")
    assert LocalModel(module, renderer, "m", "d", 512).path.removesuffix(", weights laid out") == "packed, by parts"
    monkeypatch.setattr("toolkit.inference.lean._turned", lambda x, *_: x)
    assert why_plain(module) is None
    assert not is_lean(module)
    assert LocalModel(module, renderer, "m", "d", 512).path.removesuffix(", weights laid out") == "packed"


def test_an_adapted_view_runs_as_its_base_does(
    make_module: Callable[..., Any], renderer: Renderer, tmp_path: Path
) -> None:
    from toolkit.inference.model import Weights
    from toolkit.models import adapter_digest
    from toolkit.tuning.adapter import save_adapter

    base = LocalModel(make_module("llama"), renderer, "m", "d", 512)
    save_adapter(new_adapter(base.module, TuneSettings(rank=4), seed=0), tmp_path)
    view = base.adapted(Weights(tmp_path, adapter_digest(tmp_path)))
    assert isinstance(view, LocalModel)
    assert view.path.removesuffix(", weights laid out") == "packed, by parts"
