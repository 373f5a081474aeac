from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch

from toolkit.errors import ModelError
from toolkit.models import adapter_digest, load_adapter, merged
from toolkit.models.adapted import use_one_rounding
from toolkit.models.weights import shared_copy, tensors_digest

from .conftest import build_llama

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # PEFT's own call

IDS = torch.arange(24).reshape(2, 12)


def trained(module: Any, **settings: Any) -> Any:
    """An adapter made by PEFT alone, whose B is not 0."""
    config = peft.LoraConfig(**{"task_type": "CAUSAL_LM", "r": 4, "target_modules": "all-linear", **settings})
    adapted = peft.get_peft_model(shared_copy(module), config)
    with_updates(adapted)
    return adapted.eval()


def with_updates(adapted: Any) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))


def saved(module: Any, folder: Path, **settings: Any) -> Path:
    trained(module, **settings).save_pretrained(str(folder))
    return folder


def logits(module: Any) -> torch.Tensor:
    with torch.inference_mode():
        return module(input_ids=IDS).logits


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_base_and_the_global_generator_are_untouched(tmp_path: Path, dtype: torch.dtype) -> None:
    module = build_llama().to(dtype).requires_grad_(False)
    before = tensors_digest(module), [name for name, _ in module.named_modules()], module.config.to_dict()
    folder = saved(module, tmp_path)
    state = torch.get_rng_state()
    load_adapter(module, folder)
    merged(module, folder)
    assert torch.equal(state, torch.get_rng_state())
    assert before == (tensors_digest(module), [name for name, _ in module.named_modules()], module.config.to_dict())
    assert not any(parameter.requires_grad for parameter in module.parameters())
    assert not any(part.training for part in module.modules())


def test_the_base_is_shared_not_copied(tmp_path: Path) -> None:
    module = build_llama()
    view = load_adapter(module, saved(module, tmp_path))
    assert type(view) is type(module)
    assert view.get_input_embeddings().weight.data_ptr() == module.get_input_embeddings().weight.data_ptr()


@pytest.mark.parametrize("settings", [{}, {"r": 2, "target_modules": ["q_proj", "v_proj"], "use_dora": True}])
def test_adapters_of_other_trainers_load(tmp_path: Path, settings: dict[str, Any]) -> None:
    module = build_llama()
    theirs = trained(module, **settings)
    theirs.save_pretrained(str(tmp_path))
    ours = logits(load_adapter(module, tmp_path))
    torch.testing.assert_close(ours, logits(theirs), rtol=0, atol=1e-5)
    assert (ours - logits(module)).abs().max() > 1e-3


def test_the_digest_is_of_the_adapter_not_of_its_bases_name(tmp_path: Path) -> None:
    module = build_llama()
    first = adapter_digest(saved(module, tmp_path / "a"))
    config = tmp_path / "a" / "adapter_config.json"
    config.write_text(config.read_text().replace('"base_model_name_or_path": null', '"base_model_name_or_path": "b"'))
    assert '"b"' in config.read_text()
    assert adapter_digest(tmp_path / "a") == first
    config.write_text(config.read_text().replace('"lora_alpha": 8', '"lora_alpha": 9'))
    assert adapter_digest(tmp_path / "a") != first


def test_in_bf16_small_updates_arrive() -> None:
    """One layer, an update a thousandth of its output: the mean effect must be the update's, not half of it."""
    module = build_llama().to(torch.bfloat16)
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear")
    use_one_rounding(config, module)
    adapted = peft.get_peft_model(module, config).eval()
    with_updates(adapted)
    layer = adapted.get_base_model().get_decoder().layers[0].mlp.up_proj
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4096, 32, generator=generator).bfloat16()
    with torch.no_grad():
        base = layer.get_base_layer()(x).double()
        down, up = (matrix["default"].weight for matrix in (layer.lora_A, layer.lora_B))
        up.mul_(1e-3 * base.std() / (layer.scaling["default"] * (x.float() @ down.t()) @ up.t()).std())
        update = layer.scaling["default"] * x.double() @ down.t().double() @ up.t().double()
        share = ((layer(x).double() - base) * update).sum() / update.square().sum()
    assert float(share) == pytest.approx(1, abs=0.1)


def test_layers_with_a_bias_agree_with_peft(tmp_path: Path) -> None:
    module = build_llama(attention_bias=True)
    with torch.no_grad():
        module.get_decoder().layers[0].self_attn.q_proj.bias.fill_(0.5)
    theirs = trained(module)
    theirs.save_pretrained(str(tmp_path))
    torch.testing.assert_close(logits(load_adapter(module, tmp_path)), logits(theirs), rtol=0, atol=1e-5)


def test_a_merge_in_fp32_answers_like_the_adapter(tmp_path: Path) -> None:
    module = build_llama()
    whole = merged(module, saved(module, tmp_path))
    torch.testing.assert_close(logits(whole), logits(load_adapter(module, tmp_path)), rtol=0, atol=1e-4)
    assert [name for name, _ in whole.named_modules()] == [name for name, _ in module.named_modules()]


def test_a_merge_of_bf16_weights_is_summed_in_fp32(tmp_path: Path) -> None:
    module = build_llama().to(torch.bfloat16)
    adapted = trained(module)
    adapted.save_pretrained(str(tmp_path))
    layer = adapted.get_base_model().get_decoder().layers[1].mlp.down_proj
    update = layer.scaling["default"] * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    expected = (layer.get_base_layer().weight.float() + update).bfloat16()
    assert torch.equal(merged(module, tmp_path).get_decoder().layers[1].mlp.down_proj.weight, expected)


def test_what_is_no_adapter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"holds no adapter_config\.json"):
        load_adapter(build_llama(), tmp_path)
    folder = saved(build_llama(), tmp_path / "a")
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(ModelError, match="pickled"):
        load_adapter(build_llama(), folder)


def test_an_adapter_of_another_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not fit"):
        load_adapter(build_llama(hidden_size=16), saved(build_llama(), tmp_path))


@pytest.mark.parametrize("layers", [1, 3])
def test_an_adapter_whose_layers_are_not_the_models_is_refused(tmp_path: Path, layers: int) -> None:
    folder = saved(build_llama(num_hidden_layers=layers), tmp_path, target_modules=["q_proj", "v_proj"])
    with pytest.raises(ModelError, match="does not fit"):
        load_adapter(build_llama(), folder)


@pytest.mark.parametrize("apply", [load_adapter, merged])
def test_an_adapter_on_another_is_refused_and_on_a_merged_one_it_is_the_sum(tmp_path: Path, apply: Any) -> None:
    """PEFT would put the second in the first one's place, in silence."""
    module = build_llama()
    first, second = saved(module, tmp_path / "a"), saved(module, tmp_path / "b", r=2)
    with pytest.raises(ModelError, match="carries an adapter already"):
        apply(load_adapter(module, first), second)
    both = logits(apply(merged(module, first), second))
    assert not torch.allclose(both, logits(load_adapter(module, second)), atol=1e-4)


@pytest.mark.parametrize("apply", [load_adapter, merged])
def test_an_adapter_that_acts_from_certain_tokens_on_is_refused(tmp_path: Path, apply: Any) -> None:
    folder = saved(build_llama(), tmp_path, alora_invocation_tokens=[3, 4])
    with pytest.raises(ModelError, match="activated LoRA"):
        apply(build_llama(), folder)
