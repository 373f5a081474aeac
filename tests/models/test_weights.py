from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaForCausalLM

from toolkit.errors import ModelError
from toolkit.models import weights
from toolkit.models.weights import shared_copy, tensors_digest, weights_digest

from .conftest import build_llama


def folder_of(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "model.safetensors").write_bytes(b"weights")
    (path / "config.json").write_text("{}")
    (path / "README.md").write_text("first")
    return path


def test_the_digest_is_of_content_not_of_place_or_notes(tmp_path: Path) -> None:
    first, second = folder_of(tmp_path / "a"), folder_of(tmp_path / "b")
    (second / "README.md").write_text("second")
    (second / "checkpoint-5").mkdir()
    (second / "checkpoint-5/model.safetensors").write_bytes(b"other")
    assert weights_digest(first) == weights_digest(second)


def test_any_identifying_file_changes_the_digest(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "a")
    seen = {weights_digest(folder)}
    for name in ("model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja", "1_Pooling/config.json"):
        (folder / "1_Pooling").mkdir(exist_ok=True)
        (folder / "modules.json").write_text('[{"path": ""}, {"path": "1_Pooling"}]')
        (folder / name).write_text(f"changed {name}")
        seen.add(weights_digest(folder))
    assert len(seen) == 6


def test_weights_that_only_the_index_names_count(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "a")
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "deep/part.safetensors"}}')
    (folder / "deep").mkdir()
    (folder / "deep" / "part.safetensors").write_text("one")
    first = weights_digest(folder)
    (folder / "deep" / "part.safetensors").write_text("another")
    assert weights_digest(folder) != first


def test_a_second_digest_reads_no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_of(tmp_path / "a")
    first = weights_digest(folder)
    monkeypatch.setattr(weights, "file_digest", lambda path: pytest.fail("read again"))
    assert weights_digest(folder) == first


def test_a_file_of_the_same_size_changed_later_is_read_again(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "a")
    first = weights_digest(folder)
    (folder / "model.safetensors").write_bytes(b"WEIGHTS")
    os.utime(folder / "model.safetensors", ns=(1, 1))
    assert weights_digest(folder) != first


def test_a_damaged_or_unwritable_memory_only_costs_time(tmp_path: Path, cache: Path) -> None:
    folder = folder_of(tmp_path / "a")
    first = weights_digest(folder)
    for memo in (cache / "digests").iterdir():
        memo.write_text("[]")
    assert weights_digest(folder) == first


def test_missing_and_empty_folders_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        weights_digest(tmp_path / "none")
    with pytest.raises(ModelError, match="holds no weights"):
        weights_digest(tmp_path)


def test_the_tensor_digest_sees_one_changed_bit_in_any_dtype(llama: LlamaForCausalLM) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        llama.to(dtype)
        before = tensors_digest(llama)
        assert tensors_digest(llama) == before
        with torch.no_grad():
            weight = llama.model.layers[1].mlp.up_proj.weight
            weight[0, 0] = weight[0, 0] * 2 + 1
        assert tensors_digest(llama) != before


@pytest.mark.parametrize("tied", [True, False])
def test_a_copy_shares_storage_and_keeps_ties(tied: bool) -> None:
    model = build_llama(tied)
    copied = shared_copy(model)
    pairs = zip(model.named_parameters(), copied.named_parameters(), strict=True)
    for (name, original), (copied_name, shared) in pairs:
        assert name == copied_name
        assert original is not shared
        assert original.data_ptr() == shared.data_ptr()
        assert original.requires_grad
        assert not shared.requires_grad
    model.model.register_buffer("kept", torch.ones(4))
    buffers = zip(model.named_buffers(), shared_copy(model).named_buffers(), strict=True)
    own = {name for (name, original), (_, copy) in buffers if original.data_ptr() != copy.data_ptr()}
    assert own == {"model.rotary_emb.inv_freq", "model.rotary_emb.original_inv_freq"}  # written in place by some kinds
    assert (copied.lm_head.weight is copied.model.embed_tokens.weight) == tied
    assert copied.config is not model.config
    assert not copied.training


def test_adapters_in_the_copy_leave_the_original_untouched(llama: LlamaForCausalLM) -> None:
    llama.requires_grad_(False)
    ids = torch.tensor([[3, 14, 15, 92, 6]])
    digest = tensors_digest(llama)
    modules = [(name, type(module), id(module)) for name, module in llama.named_modules()]
    with torch.no_grad():
        expected = llama(ids).logits
    adapted = get_peft_model(shared_copy(llama), LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    adapted.eval()
    with torch.no_grad():
        assert torch.equal(adapted(input_ids=ids).logits, expected)  # a fresh LoRA has B = 0
    adapted.train()
    adapted(input_ids=ids, labels=ids).loss.backward()
    optimizer = torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], lr=1.0)
    optimizer.step()
    adapted(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    assert not torch.equal(adapted(input_ids=ids).logits, expected)
    assert tensors_digest(llama) == digest
    assert [(name, type(module), id(module)) for name, module in llama.named_modules()] == modules
    assert not any(module.training for module in llama.modules())
    assert not any(p.requires_grad or p.grad is not None for p in llama.parameters())
    with torch.no_grad():
        assert torch.equal(llama(ids).logits, expected)


def test_two_copies_carry_different_adapters(llama: LlamaForCausalLM) -> None:
    config = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    ids = torch.tensor([[3, 14, 15]])
    first, second = (get_peft_model(shared_copy(llama), config).eval() for _ in range(2))
    assert not torch.equal(first(input_ids=ids).logits, second(input_ids=ids).logits)
