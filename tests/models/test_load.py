from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel, LlamaForCausalLM

from toolkit.errors import ModelError
from toolkit.models.catalog import resolve
from toolkit.models.load import load_pretrained
from toolkit.models.weights import weights_digest


def test_a_folder_loads_frozen_identified_and_silent(
    model_folder: Path, llama: LlamaForCausalLM, capfd: pytest.CaptureFixture[str]
) -> None:
    loaded = load_pretrained(resolve(str(model_folder), "model"), "float32", "cpu")
    assert (loaded.name, loaded.dtype, loaded.device, loaded.context_length) == ("tiny-model", "float32", "cpu", 128)
    assert loaded.source == f"folder:{model_folder}"
    assert loaded.digest == weights_digest(model_folder)
    assert not loaded.module.training
    assert not any(parameter.requires_grad for parameter in loaded.module.parameters())
    ids = torch.tensor([loaded.tokenizer("the 12")["input_ids"]])
    assert torch.equal(loaded.module(ids).logits, llama(ids).logits)
    assert capfd.readouterr() == ("", "")


def test_the_dtype_is_applied_and_explained(model_folder: Path) -> None:
    loaded = load_pretrained(model_folder, "bfloat16", "cpu")
    assert loaded.module.dtype is torch.bfloat16
    assert loaded.dtype_reason == "as asked for"


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="absent does not exist"):
        load_pretrained(tmp_path / "absent")


def test_pickled_weights_are_refused(model_folder: Path) -> None:
    (model_folder / "model.safetensors").rename(model_folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"only pickled weights \(pytorch_model.bin\)"):
        load_pretrained(model_folder)
    (model_folder / "pytorch_model.bin").unlink()
    with pytest.raises(ModelError, match=r"holds no \*\.safetensors"):
        load_pretrained(model_folder)


def test_an_encoder_is_not_taken_for_a_language_model(tmp_path: Path) -> None:
    config = BertConfig(vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    BertModel(config).save_pretrained(tmp_path / "bert")
    with pytest.raises(ModelError, match="BertModel is not a causal language model"):
        load_pretrained(tmp_path / "bert")
    written = json.loads((tmp_path / "bert/config.json").read_text())
    written.pop("architectures")
    (tmp_path / "bert/config.json").write_text(json.dumps(written))
    with pytest.raises(ModelError, match="would be random numbers"):
        load_pretrained(tmp_path / "bert")


def test_damaged_weights_give_one_message(model_folder: Path) -> None:
    weights = model_folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match="damaged"):
        load_pretrained(model_folder, "float32", "cpu")


def test_missing_tensors_are_not_made_up(model_folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(model_folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, model_folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 of the model's tensors \(the first is model.layers.1.mlp.up_proj"):
        load_pretrained(model_folder)


@pytest.mark.parametrize("text", ["{", "[]", '{"architectures": 3}'])
def test_an_unreadable_configuration_is_named(model_folder: Path, text: str) -> None:
    (model_folder / "config.json").write_text(text)
    with pytest.raises(ModelError, match=r"config\.json cannot be read"):
        load_pretrained(model_folder)


def test_a_missing_tokenizer_is_named(model_folder: Path) -> None:
    for path in model_folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(ModelError, match="no tokenizer in"):
        load_pretrained(model_folder)


def test_a_model_that_no_file_says_the_context_of_has_none(tmp_path: Path, model_folder: Path) -> None:
    from transformers import AutoTokenizer, BloomConfig, BloomForCausalLM

    from toolkit.inference import LocalModel

    folder = tmp_path / "bloom"
    BloomForCausalLM(BloomConfig(vocab_size=64, hidden_size=16, n_layer=1, n_head=2)).save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    tokenizer.model_max_length = int(1e30)
    tokenizer.save_pretrained(folder)
    loaded = load_pretrained(folder, "float32", "cpu")
    assert loaded.context_length is None
    model = LocalModel.of(loaded)
    assert model.path.startswith("plain")
    assert model.context_tokens is None


@pytest.mark.end_to_end
def test_the_starter_model_speaks_and_the_starter_encoder_encodes(monkeypatch: pytest.MonkeyPatch) -> None:
    from sentence_transformers import SentenceTransformer

    from toolkit.models.fetch import fetch_weights

    monkeypatch.delenv("TOOLKIT_CACHE")
    loaded = load_pretrained(resolve("smollm2-135m-instruct-q4", "model"), "float32", "cpu")
    chat = [{"role": "system", "content": "You help."}, {"role": "user", "content": "What is the capital of France?"}]
    inputs = loaded.tokenizer.apply_chat_template(
        chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    answer = loaded.module.generate(**inputs, max_new_tokens=16, do_sample=False)
    assert "Paris" in loaded.tokenizer.decode(answer[0])
    folder = fetch_weights(resolve("all-minilm-l6-v2", "embedder")).folder
    near, also, far = SentenceTransformer(str(folder), device="cpu").encode(
        ["a cat sat", "a kitten sits", "stocks fell"]
    )
    assert near @ also > near @ far
