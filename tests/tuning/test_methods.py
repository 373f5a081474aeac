from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel

from toolkit.errors import ModelError
from toolkit.models import load_adapter, merged
from toolkit.models.weights import tensors_digest
from toolkit.tuning import TuneSettings, train
from toolkit.tuning.adapter import adapter_tensors, new_adapter, save_adapter
from toolkit.tuning.flat import FlatWeights
from toolkit.tuning.methods import REWRITING
from toolkit.tuning.steps.fused import FusedStep, in_order
from toolkit.tuning.steps.loss import collate, token_losses
from toolkit.tuning.steps.packing import pack

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # PEFT's own call

METHODS = ("lora", "rslora", "dora", "eva", "pissa", "olora")
PATTERNS = {"rank_pattern": {"q_proj": 2, "layers.1.mlp.up_proj": 7}, "alpha_pattern": {"k_proj": 5, "down_proj": 64}}
SMALL = TuneSettings(rank=4, epochs=2, effective_batch_size=4, learning_rate=1e-2, checkpoint_every=2)
IDS = torch.arange(24).reshape(2, 12)


def changed(**fields: Any) -> TuneSettings:
    return TuneSettings(**{**SMALL.model_dump(), **fields})


def logits(module: Any) -> torch.Tensor:
    with torch.inference_mode():
        return module(input_ids=IDS).logits


def shake(adapted: Any, size: float = 0.05) -> None:
    """As training would: every trained tensor becomes another."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(size * torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize("patterns", [{}, PATTERNS])
@pytest.mark.parametrize("method", METHODS)
def test_the_saved_adapter_on_the_base_answers_like_what_was_trained(
    llama: Any, rows: Any, tmp_path: Path, method: str, patterns: dict[str, Any]
) -> None:
    module, settings = llama(initializer_range=0.3), changed(method=method, **patterns)
    adapted = new_adapter(module, settings, seed=0, sequences=rows(6))
    start = adapter_tensors(adapted) if method in REWRITING else None
    torch.testing.assert_close(logits(adapted.eval()), logits(module), rtol=0, atol=3e-4)
    shake(adapted)
    save_adapter(adapted, tmp_path, start=start)
    assert (logits(adapted) - logits(module)).abs().max() > 1e-1
    torch.testing.assert_close(logits(load_adapter(module, tmp_path)), logits(adapted), rtol=0, atol=3e-4)
    torch.testing.assert_close(logits(merged(module, tmp_path)), logits(adapted), rtol=0, atol=1e-3)


@pytest.mark.parametrize("method", sorted(REWRITING))
def test_what_rewrites_the_base_is_saved_as_plain_lora_of_twice_the_rank(
    llama: Any, rows: Any, tmp_path: Path, method: str
) -> None:
    train(llama(), rows(6), changed(method=method, **PATTERNS), tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["init_lora_weights"]) == (8, 64, True)
    assert config["rank_pattern"] == {"q_proj": 4, "layers.1.mlp.up_proj": 14}
    assert config["alpha_pattern"] == {"k_proj": 10, "down_proj": 128}
    assert (config["use_dora"], config["use_rslora"]) == (False, False)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    assert tensors["base_model.model.model.layers.0.self_attn.v_proj.lora_A.weight"].shape == (8, 32)


def test_the_learnt_difference_survives_rounding_to_bfloat16(llama: Any, tmp_path: Path) -> None:
    """A base in bfloat16 rounds the adapter: what was taken out of the weights must not be in it with two signs."""
    adapted = new_adapter(llama(initializer_range=0.3), changed(method="pissa"), seed=0)
    start = adapter_tensors(adapted)
    shake(adapted, 1e-3)
    save_adapter(adapted, tmp_path, start=start)
    now, saved = adapter_tensors(adapted), load_file(tmp_path / "adapter_model.safetensors")
    for down in (name for name in now if "lora_A" in name):
        up = down.replace("lora_A", "lora_B")
        learnt = now[up].double() @ now[down].double() - start[up].double() @ start[down].double()
        found = saved[up].bfloat16().double() @ saved[down].bfloat16().double()
        assert (found - learnt).norm() < 0.01 * learnt.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("fields", [{"method": method} for method in METHODS[1:]] + [{"neftune_alpha": 5.0}], ids=str)
def test_the_base_is_left_as_it_was(
    llama: Any, rows: Any, tmp_path: Path, dtype: torch.dtype, fields: dict[str, Any]
) -> None:
    module = llama(dtype)
    before = tensors_digest(module), [name for name, _ in module.named_modules()], module.config.to_dict()
    result = train(module, rows(6), changed(**fields), tmp_path)
    assert before == (tensors_digest(module), [name for name, _ in module.named_modules()], module.config.to_dict())
    assert not any(parameter.requires_grad for parameter in module.parameters())
    assert not any(part.training or part._forward_hooks for part in module.modules())
    assert result.losses[-1] != result.losses[0]


@pytest.mark.parametrize("method", METHODS)
def test_the_adapter_is_fp32_and_alone_trainable(llama: Any, rows: Any, method: str) -> None:
    adapted = new_adapter(llama(torch.bfloat16), changed(method=method), seed=0, sequences=rows(6))
    trainable = {name: parameter for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert all("lora_" in name and parameter.dtype == torch.float32 for name, parameter in trainable.items())
    assert len(trainable) == 2 * 7 * (3 if method == "dora" else 2)


FIELDS = [
    ({"method": "lora"}, "by hand"),
    ({"method": "rslora"}, "by hand"),
    ({"method": "eva"}, "by hand"),
    (PATTERNS, "by hand"),
    ({"method": "pissa"}, "by hand"),
    ({"method": "olora"}, "by hand"),
    ({"b_rate_ratio": 4.0}, "by hand"),
    ({"method": "dora"}, "packed, through autograd: layers.0.self_attn.q_proj is not plain LoRA"),
    ({"neftune_alpha": 5.0}, "packed, through autograd: its embeddings get noise"),
    ({"dropout": 0.1}, "packed, through autograd: it has dropout"),
    ({"dropout": 0.1, "method": "pissa"}, "packed, through autograd: it has dropout"),
]


@pytest.mark.parametrize(("fields", "expected"), FIELDS, ids=str)
def test_only_plain_lora_is_trained_by_hand(
    llama: Any, rows: Any, tmp_path: Path, fields: dict[str, Any], expected: str
) -> None:
    how = train(llama(), rows(6), changed(**fields, max_steps=1), tmp_path).how
    assert how.removeprefix("packed, through autograd: ") in expected
    assert how.startswith(expected[:7])


@pytest.mark.parametrize(
    "fields",
    [{"method": "rslora"}, PATTERNS, {"method": "eva"}, {"method": "pissa"}, {"method": "olora", **PATTERNS}],
    ids=str,
)
def test_the_gradient_by_hand_is_the_stock_models(llama: Any, rows: Any, fields: dict[str, Any]) -> None:
    module, sequences = llama(initializer_range=0.2), rows(6, shortest=5, longest=20)
    view = (adapted := new_adapter(module, changed(**fields), seed=0, sequences=sequences)).get_base_model().train()
    view.double()  # of PEFT's layers too, so that nothing but the formulas is compared
    shake(adapted)
    ups = [parameter for name, parameter in adapted.named_parameters() if "lora_B" in name]
    weights = FlatWeights(in_order(view), last=ups)
    assert weights.vector.dtype == torch.float64
    step = FusedStep(view, weights)
    loss = step(pack(sequences, step.heads, view.device, share=True), 0.5)
    found = weights.gradient.clone()
    weights.gradient.zero_()
    expected = token_losses(view, collate(sequences, "cpu"), True).sum()
    (expected * 0.5).backward()
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-7, atol=0)  # the stock norms are in fp32
    for parameter in in_order(view):  # each for itself: their scales differ
        ours, theirs = found[weights.place(parameter)], weights.gradient[weights.place(parameter)]
        assert theirs.norm() > 1e-2
        assert (ours - theirs).norm() < 1e-5 * theirs.norm()


def test_rslora_scales_by_the_root_of_the_rank(llama: Any) -> None:
    layers = {
        method: new_adapter(llama(), changed(method=method), seed=0).get_base_model().get_decoder().layers[0]
        for method in ("lora", "rslora")
    }
    assert layers["lora"].mlp.up_proj.scaling["default"] == 32 / 4
    assert layers["rslora"].mlp.up_proj.scaling["default"] == pytest.approx(32 / math.sqrt(4))


def test_a_pattern_for_no_layer_is_refused(llama: Any) -> None:
    for field in ("rank_pattern", "alpha_pattern"):
        with pytest.raises(ModelError, match=rf"{field}: 'q_prj' .*q_proj"):
            new_adapter(llama(), changed(**{field: {"q_prj": 2}}), seed=0)
    with pytest.raises(ValidationError):
        changed(rank_pattern={"q_proj": 0})


@pytest.mark.parametrize("method", sorted(REWRITING))
def test_a_rank_above_a_layers_size_is_refused_where_it_is_cut_out(llama: Any, method: str) -> None:
    with pytest.raises(ModelError, match=r"rank: .*k_proj"):
        new_adapter(llama(), changed(method=method, rank=20), seed=0)


@pytest.mark.parametrize("method", sorted(REWRITING))
def test_only_linear_layers_are_taken_apart(method: str) -> None:
    gpt2 = GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=32)).requires_grad_(False)
    with pytest.raises(ModelError, match=r"linear layers only, .*c_attn is a Conv1D"):
        new_adapter(gpt2, changed(method=method), seed=0)


def test_patterns_that_disagree_about_a_layer_are_refused(llama: Any) -> None:
    """PEFT takes the first, and reads them in alphabetical order from the file it wrote."""
    for field in ("rank_pattern", "alpha_pattern"):
        with pytest.raises(ModelError, match=rf"{field}: 'self_attn.q_proj' \(4\) and '\.\*_proj' \(2\) .*q_proj"):
            new_adapter(llama(), changed(**{field: {"self_attn.q_proj": 4, ".*_proj": 2}}), seed=0)
    new_adapter(llama(), changed(rank_pattern={"self_attn.q_proj": 4, "q_proj": 4}), seed=0)
