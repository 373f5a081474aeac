from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch

from toolkit.errors import ModelError
from toolkit.models import adapter_digest, load_adapter
from toolkit.models.weights import tensors_digest
from toolkit.tuning import TuneSettings, save_adapter
from toolkit.tuning.adapter import new_adapter

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # PEFT's own call

IDS = torch.arange(24).reshape(2, 12)


def trained(module: Any) -> Any:
    """An adapter whose B is not 0."""
    adapted = new_adapter(module, TuneSettings(rank=4), seed=0)
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
    assert before == (tensors_digest(module), [name for name, _ in module.named_modules()], module.config.to_dict())
    assert not any(parameter.requires_grad for parameter in module.parameters())
    assert not any(part.training for part in module.modules())


def test_the_adapter_is_fp32_and_alone_trainable(llama: Any) -> None:
    adapted = new_adapter(llama(torch.bfloat16), TuneSettings(), seed=0)
    trainable = {name: parameter for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert len(trainable) == 2 * 7 * 2
    assert all("lora_" in name and parameter.dtype == torch.float32 for name, parameter in trainable.items())


def test_the_seed_decides_and_the_global_generator_is_left_alone(llama: Any, tmp_path: Path) -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    module = llama()
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        save_adapter(new_adapter(module, TuneSettings(), seed), tmp_path / name)
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


def test_an_unknown_target_module_is_refused(llama: Any) -> None:
    with pytest.raises(ModelError, match="target_modules"):
        new_adapter(llama(), TuneSettings(target_modules=("no_such_layer",)), seed=0)


def test_one_unknown_target_module_among_others_is_refused(llama: Any) -> None:
    with pytest.raises(
        ModelError, match=r"target_modules: 'v_porj' is the name of no layer \(did you mean 'v_proj'\?\)"
    ):
        new_adapter(llama(), TuneSettings(target_modules=("q_proj", "v_porj")), seed=0)
    new_adapter(llama(), TuneSettings(target_modules=("self_attn.q_proj", "v_proj")), seed=0)


@pytest.mark.parametrize("method", ["lora", "dora"])
def test_what_answers_in_bfloat16_is_what_was_trained(
    llama: Any, answers_as_trained: Any, tmp_path: Path, method: str
) -> None:
    base = llama(initializer_range=0.2).to(torch.bfloat16)
    answers_as_trained(base, TuneSettings(rank=4, method=method), tmp_path)
