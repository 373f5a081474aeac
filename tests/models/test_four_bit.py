"""Weights in 4 bits: loaded alike each time, shared and never written to, identified with their scales."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch

from toolkit.errors import ModelError
from toolkit.models import four_bit, load_adapter, load_pretrained, merged
from toolkit.models.four_bit import dequantise, dtype_name, is_quantised, parameter_count, quantised_layers
from toolkit.models.weights import shared_copy, tensors_digest, weights_digest

from .conftest import build_llama

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # PEFT's own call

IDS = torch.arange(24).reshape(2, 12)
BLOCK = 64
Load = Callable[..., Any]


def wide_llama(**overrides: Any) -> Any:
    return build_llama(initializer_range=0.2, **overrides)


def logits(module: Any) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = module(input_ids=IDS).logits
    return found


def with_adapter(module: Any, folder: Path, scale: float = 0.05, **settings: Any) -> Path:
    """An adapter by PEFT alone, with an update of about `scale`."""
    config = peft.LoraConfig(**{"task_type": "CAUSAL_LM", "r": 4, "target_modules": "all-linear", **settings})
    adapted = peft.get_peft_model(shared_copy(module), config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    adapted.save_pretrained(str(folder))
    return folder


def test_a_missing_library_is_told_with_the_extra_before_anything_is_loaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(four_bit.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r'dtype .nf4. .*not installed: pip install "adaptation-toolkit\[qlora\]"'):
        load_pretrained(tmp_path / "absent", "nf4", "cpu")


class Scales:
    """What bitsandbytes keeps beside a weight in 4 bits, as far as we ask."""

    quant_type, shape = "nf4", torch.Size((64, 32))

    def __init__(self) -> None:
        self.absmax = torch.ones(32)

    def as_dict(self, packed: bool) -> dict[str, torch.Tensor]:
        assert packed
        return {"absmax": self.absmax}


def test_without_the_library_too_a_weight_with_scales_is_shared_and_identified_with_them() -> None:
    module, scales = build_llama(), Scales()
    layer = module.model.layers[1].mlp.up_proj
    layer.weight = torch.nn.Parameter(torch.zeros(1024, 1, dtype=torch.uint8), requires_grad=False)
    layer.weight.quant_state = layer.quant_state = scales
    assert [name for name, _ in quantised_layers(module)] == ["model.layers.1.mlp.up_proj"]
    assert parameter_count(module) == parameter_count(build_llama())
    own = shared_copy(module).model.layers[1].mlp.up_proj
    assert own.weight is not layer.weight
    assert own.weight.data_ptr() == layer.weight.data_ptr()
    assert own.weight.quant_state is own.quant_state is scales
    digest = tensors_digest(module)
    scales.absmax[3] += 1
    assert tensors_digest(module) != digest


def test_the_linear_layers_are_in_4_bits_and_the_model_says_so(
    four_bits: Load, capfd: pytest.CaptureFixture[str]
) -> None:
    plain = wide_llama()
    loaded = four_bits(plain, "bfloat16")
    module = loaded.module
    assert (loaded.dtype, loaded.device) == ("nf4", "cpu")
    assert "computing in" in loaded.dtype_reason
    assert loaded.digest == f"{weights_digest(loaded.folder)}/nf4"
    assert dtype_name(module) == "bfloat16, weights in nf4"
    assert dtype_name(plain) == "float32"
    quantised = {name for name, _ in quantised_layers(module)}
    linear = {name for name, layer in plain.named_modules() if isinstance(layer, torch.nn.Linear)}
    assert quantised == linear - {"lm_head"}
    assert module.lm_head.weight is module.model.embed_tokens.weight
    assert parameter_count(module) == parameter_count(plain) == sum(one.numel() for one in plain.parameters())
    assert not any(one.requires_grad for one in module.parameters())
    assert not any(part.training for part in module.modules())
    capfd.readouterr()
    load_pretrained(loaded.folder, "nf4", "cpu")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("computing", ["float32", "bfloat16"])
def test_each_load_gives_the_same_bytes(four_bits: Load, computing: str) -> None:
    plain = wide_llama()
    first, second = four_bits(plain, computing).module, four_bits(plain, computing).module
    assert tensors_digest(first) == tensors_digest(second)
    assert torch.equal(logits(first), logits(second))


def test_each_weight_is_the_nearest_value_of_its_block(four_bits: Load) -> None:
    """Against NF4 by its definition: 16 values times the largest of 64 weights, here to the rounding of the scales."""
    plain = wide_llama()
    view = dequantise(shared_copy(four_bits(plain).module))
    layer = "model.layers.1.mlp.down_proj"
    weights, found = plain.get_submodule(layer).weight.reshape(-1, BLOCK), view.get_submodule(layer).weight
    scales = weights.abs().amax(dim=1, keepdim=True)
    nearest = (weights / scales)[..., None].sub(values()).abs().argmin(dim=-1)
    expected = values()[nearest] * scales
    assert (found.reshape(-1, BLOCK) - expected).abs().max() < 0.01 * scales.max()
    assert (found.reshape(-1, BLOCK) - weights).abs().max() > 0.02 * scales.max()


def values() -> torch.Tensor:
    """The 16 values of NF4 [16] (Dettmers et al. 2023, appendix E), to four digits."""
    negative = [-1.0, -0.6962, -0.5251, -0.3949, -0.2844, -0.1848, -0.0911]
    return torch.tensor([*negative, 0.0, 0.0796, 0.1609, 0.2461, 0.3379, 0.4407, 0.5626, 0.7230, 1.0])


def test_the_digest_sees_one_changed_code_and_one_changed_scale(four_bits: Load) -> None:
    module = four_bits(wide_llama()).module
    weight = module.model.layers[1].mlp.up_proj.weight
    state = weight.quant_state
    seen = {tensors_digest(module)}
    for tensor in (weight.data, state.absmax, state.code, state.state2.absmax, state.state2.code):
        flat = tensor.reshape(-1)
        flat[0] = flat[0] + 1
        seen.add(tensors_digest(module))
    state.offset += 1
    seen.add(tensors_digest(module))
    assert len(seen) == 7


@pytest.mark.parametrize("inference", [False, True])
def test_a_copy_shares_codes_and_scales_and_keeps_ties(four_bits: Load, inference: bool) -> None:
    module = four_bits(wide_llama()).module
    before = logits(module)
    with torch.inference_mode(inference):  # answering makes copies too
        copied = shared_copy(module)
    pairs = list(zip(quantised_layers(module), quantised_layers(copied), strict=True))
    assert len(pairs) == 14
    for (_, layer), (_, own) in pairs:
        assert own is not layer
        assert own.weight is not layer.weight
        assert type(own.weight) is type(layer.weight)
        assert own.weight.data_ptr() == layer.weight.data_ptr()
        assert own.weight.quant_state is layer.weight.quant_state
        assert own.quant_state is layer.quant_state
        assert own.weight.module is None
    assert copied.lm_head.weight is copied.model.embed_tokens.weight
    assert torch.equal(logits(copied), before)
    parts = {id(part) for part in module.modules()}
    held = [one for own in copied.parameters() for one in gc.get_referents(own, vars(own)) if id(one) in parts]
    assert not held


def test_answering_writes_nothing_where_the_processor_has_avx512_bf16(
    four_bits: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There bitsandbytes would pack the weights anew, in place, when first asked."""
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: True, raising=False)
    module = four_bits(wide_llama()).module
    monkeypatch.undo()
    digest = tensors_digest(module)
    logits(module)
    logits(shared_copy(module))
    assert tensors_digest(module) == digest


@pytest.mark.parametrize("computing", ["float32", "bfloat16"])
def test_dequantised_layers_compute_the_same(four_bits: Load, computing: str) -> None:
    module = four_bits(wide_llama(attention_bias=True), computing).module
    digest, names = tensors_digest(module), [name for name, _ in module.named_modules()]
    view = dequantise(shared_copy(module))
    assert not is_quantised(view)
    assert dtype_name(view) == computing
    assert torch.equal(logits(view), logits(module))
    assert tensors_digest(module) == digest
    assert [name for name, _ in module.named_modules()] == names == [name for name, _ in view.named_modules()]
    assert is_quantised(module)
    assert module.config.quantization_config is not None


@pytest.mark.parametrize("settings", [{}, {"use_dora": True}, {"target_modules": ["q_proj", "v_proj"]}])
def test_an_adapter_answers_beside_the_weights_and_within(
    four_bits: Load, tmp_path: Path, settings: dict[str, Any]
) -> None:
    module = four_bits(wide_llama()).module
    digest, base = tensors_digest(module), logits(module)
    folder = with_adapter(module, tmp_path / "adapter", **settings)
    state = torch.get_rng_state()
    beside, within = load_adapter(module, folder), merged(module, folder)
    assert torch.equal(state, torch.get_rng_state())
    assert (logits(beside) - base).abs().max() > 1e-2
    torch.testing.assert_close(logits(within), logits(beside), rtol=0, atol=1e-4)
    assert not is_quantised(within)
    assert {one.dtype for name, one in beside.named_parameters() if "lora_" in name} == {torch.float32}
    assert tensors_digest(module) == digest
    assert torch.equal(logits(module), base)


def test_a_merge_in_bf16_is_of_the_weights_as_they_are_computed_with(four_bits: Load, tmp_path: Path) -> None:
    module = four_bits(wide_llama(), "bfloat16").module
    within = merged(module, with_adapter(module, tmp_path / "nothing", scale=0.0))
    assert torch.equal(logits(within), logits(module))
    folder = with_adapter(module, tmp_path / "something")
    layer = load_adapter(module, folder).get_decoder().layers[1].mlp.down_proj
    weight = dequantise(shared_copy(module)).get_decoder().layers[1].mlp.down_proj.weight
    down, up = (matrix["default"].weight for matrix in (layer.lora_A, layer.lora_B))
    expected = (weight.float() + layer.scaling["default"] * up @ down).bfloat16()
    found = merged(module, folder).get_decoder().layers[1].mlp.down_proj.weight
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, expected)
