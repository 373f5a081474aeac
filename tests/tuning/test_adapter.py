from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch

from toolkit.errors import ModelError
from toolkit.models.weights import tensors_digest
from toolkit.tuning import TuneSettings, adapter_digest, load_adapter, merged, save_adapter
from toolkit.tuning.adapter import new_adapter

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # PEFT's own call

IDS = torch.arange(24).reshape(2, 12)


def trained(module: Any, **settings: Any) -> Any:
    """An adapter whose B is not 0."""
    adapted = new_adapter(module, TuneSettings(rank=4, **settings), seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
    return adapted.eval()


def logits(module: Any) -> torch.Tensor:
    with torch.inference_mode():
        return module(input_ids=IDS).logits


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_fresh_adapter_answers_with_the_bases_bits(llama: Any, dtype: torch.dtype) -> None:
    module = llama(dtype)
    view = new_adapter(module, TuneSettings(), seed=0).get_base_model()
    assert type(view) is type(module)
    assert torch.equal(logits(view), logits(module))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_base_is_untouched(llama: Any, tmp_path: Path, dtype: torch.dtype) -> None:
    module = llama(dtype)
    before = tensors_digest(module), [name for name, _ in module.named_modules()], module.config.to_dict()
    save_adapter(trained(module), tmp_path)
    load_adapter(module, tmp_path)
    merged(module, tmp_path)
    assert before == (tensors_digest(module), [name for name, _ in module.named_modules()], module.config.to_dict())
    assert not any(parameter.requires_grad for parameter in module.parameters())
    assert not any(part.training for part in module.modules())


def test_the_adapter_is_fp32_and_alone_trainable(llama: Any) -> None:
    adapted = new_adapter(llama(torch.bfloat16), TuneSettings(), seed=0)
    trainable = {name: parameter for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert len(trainable) == 2 * 7 * 2
    assert all("lora_" in name and parameter.dtype == torch.float32 for name, parameter in trainable.items())


def test_the_base_is_shared_not_copied(llama: Any, tmp_path: Path) -> None:
    module = llama()
    save_adapter(trained(module), tmp_path)
    view = load_adapter(module, tmp_path)
    assert view.get_input_embeddings().weight.data_ptr() == module.get_input_embeddings().weight.data_ptr()


def test_the_seed_decides_and_the_global_generator_is_left_alone(llama: Any, tmp_path: Path) -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    module = llama()
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        save_adapter(new_adapter(module, TuneSettings(), seed), tmp_path / name)
    load_adapter(module, tmp_path / "a")
    assert torch.equal(state, torch.get_rng_state())
    assert adapter_digest(tmp_path / "a") == adapter_digest(tmp_path / "b") != adapter_digest(tmp_path / "c")


def test_peft_reloads_what_we_save(llama: Any, tmp_path: Path) -> None:
    module = llama()
    adapted = trained(module)
    save_adapter(adapted, tmp_path, "some/base")
    theirs = peft.PeftModel.from_pretrained(llama(), str(tmp_path)).eval()
    ours = load_adapter(module, tmp_path)
    assert torch.equal(logits(ours), logits(adapted))
    assert (logits(ours) - logits(module)).abs().max() > 1e-2
    torch.testing.assert_close(logits(ours), logits(theirs), rtol=0, atol=1e-5)
    found = peft.get_peft_model_state_dict(theirs, save_embedding_layers=False)
    for name, value in peft.get_peft_model_state_dict(adapted, save_embedding_layers=False).items():
        assert torch.equal(found[name], value)


def test_adapters_of_other_trainers_load(llama: Any, tmp_path: Path) -> None:
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj", "v_proj"], use_dora=True)
    theirs = peft.get_peft_model(llama(), config)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.02)
    theirs.save_pretrained(str(tmp_path))
    torch.testing.assert_close(logits(load_adapter(llama(), tmp_path)), logits(theirs.eval()), rtol=0, atol=1e-5)


def test_in_bf16_small_updates_arrive(llama: Any) -> None:
    """One layer, an update a thousandth of its output: the mean effect must be the update's, not half of it."""
    adapted = trained(llama(torch.bfloat16))
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


def test_layers_with_a_bias_agree_with_peft(llama: Any, tmp_path: Path) -> None:
    module = llama(attention_bias=True)
    with torch.no_grad():
        module.get_decoder().layers[0].self_attn.q_proj.bias.fill_(0.5)
    adapted = trained(module)
    save_adapter(adapted, tmp_path)
    theirs = peft.PeftModel.from_pretrained(module, str(tmp_path)).eval()
    torch.testing.assert_close(logits(adapted), logits(theirs), rtol=0, atol=1e-5)


def test_a_merge_in_fp32_answers_like_the_adapter(llama: Any, tmp_path: Path) -> None:
    module = llama()
    save_adapter(trained(module), tmp_path)
    whole = merged(module, tmp_path)
    torch.testing.assert_close(logits(whole), logits(load_adapter(module, tmp_path)), rtol=0, atol=1e-4)
    assert [name for name, _ in whole.named_modules()] == [name for name, _ in module.named_modules()]


def test_a_merge_of_bf16_weights_is_summed_in_fp32(llama: Any, tmp_path: Path) -> None:
    module = llama(torch.bfloat16)
    adapted = trained(module)
    save_adapter(adapted, tmp_path)
    layer = adapted.get_base_model().get_decoder().layers[1].mlp.down_proj
    update = layer.scaling["default"] * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    expected = (layer.get_base_layer().weight.float() + update).bfloat16()
    assert torch.equal(merged(module, tmp_path).get_decoder().layers[1].mlp.down_proj.weight, expected)


def test_the_files_name_no_path_and_nothing_else_is_written(llama: Any, tmp_path: Path) -> None:
    module = llama()
    module.name_or_path = "/home/somebody/model"
    save_adapter(new_adapter(module, TuneSettings(), seed=0), tmp_path / "a", "some/base")
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    text = (tmp_path / "a" / "adapter_config.json").read_text()
    assert "somebody" not in text
    settings = json.loads(text)
    assert settings["base_model_name_or_path"] == "some/base"
    assert settings["target_modules"] == sorted(settings["target_modules"])
    assert not {"lm_head", "embed_tokens"} & set(settings["target_modules"])


def test_what_is_no_adapter_is_refused(llama: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"holds no adapter_config\.json"):
        load_adapter(llama(), tmp_path)
    peft.get_peft_model(llama(), peft.LoraConfig(task_type="CAUSAL_LM", r=2)).save_pretrained(str(tmp_path / "a"))
    (tmp_path / "a" / "adapter_model.safetensors").rename(tmp_path / "a" / "adapter_model.bin")
    with pytest.raises(ModelError, match="pickled"):
        load_adapter(llama(), tmp_path / "a")


def test_an_adapter_of_another_model_is_refused(llama: Any, tmp_path: Path) -> None:
    save_adapter(trained(llama()), tmp_path)
    with pytest.raises(ModelError, match="does not fit"):
        load_adapter(llama(hidden_size=16), tmp_path)


def test_an_adapter_whose_layers_are_not_the_models_is_refused(llama: Any, tmp_path: Path) -> None:
    targets = ("q_proj", "v_proj")
    save_adapter(trained(llama(num_hidden_layers=1), target_modules=targets), tmp_path / "fewer")
    save_adapter(trained(llama(num_hidden_layers=3), target_modules=targets), tmp_path / "more")
    for name in ("fewer", "more"):
        with pytest.raises(ModelError, match="does not fit"):
            load_adapter(llama(), tmp_path / name)


def test_an_unknown_target_module_is_refused(llama: Any) -> None:
    with pytest.raises(ModelError, match="target_modules"):
        new_adapter(llama(), TuneSettings(target_modules=("no_such_layer",)), seed=0)
