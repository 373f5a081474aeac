"""What is written for other tools: PEFT and transformers read it, and it answers like the adapter here."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from toolkit.models import load_adapter, load_pretrained, merged
from toolkit.models.adapter_files import CONFIG, TENSORS
from toolkit.models.export import export_adapter, export_merged
from toolkit.tuning import save_adapter as save_ours
from toolkit.tuning.adapter import new_adapter
from toolkit.tuning.settings import TuneSettings

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # PEFT's own call

SaveAdapter = Callable[..., Path]
IDS = torch.arange(24).reshape(2, 12)


def logits(module: Any) -> torch.Tensor:
    with torch.inference_mode():
        return module(input_ids=IDS).logits


@pytest.fixture
def adapter(save_adapter: SaveAdapter, model_folder: Path, tmp_path: Path) -> Path:
    return save_adapter(load_pretrained(model_folder, "float32", "cpu").module, tmp_path / "adapter")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def test_an_adapter_keeps_its_bytes_and_names_its_base(model_folder: Path, adapter: Path, out: Path) -> None:
    settings = json.loads((adapter / CONFIG).read_text())
    (adapter / CONFIG).write_text(json.dumps({**settings, "base_model_name_or_path": str(model_folder)}))
    export_adapter(adapter, out, "acme/tiny", "a" * 40)
    assert sorted(path.name for path in out.iterdir()) == [CONFIG, TENSORS]
    assert (out / TENSORS).read_bytes() == (adapter / TENSORS).read_bytes()
    found = json.loads((out / CONFIG).read_text())
    assert (found["base_model_name_or_path"], found["revision"]) == ("acme/tiny", "a" * 40)
    assert str(model_folder) not in (out / CONFIG).read_text()
    base = load_pretrained(model_folder, "float32", "cpu").module
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model_folder, dtype="float32"), str(out))
    torch.testing.assert_close(logits(theirs.eval()), logits(load_adapter(base, adapter)), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("base", "dtype"), [("float32", "float32"), ("bfloat16", "bfloat16"), ("float32", "bfloat16")])
def test_a_merged_model_has_the_bits_of_the_merged_view(
    model_folder: Path, adapter: Path, out: Path, base: str, dtype: str
) -> None:
    view = merged(load_pretrained(model_folder, base, "cpu").module, adapter)
    export_merged(load_pretrained(model_folder, base, "cpu"), adapter, out, dtype)
    theirs = AutoModelForCausalLM.from_pretrained(out, dtype="auto").eval()
    ours = load_pretrained(out, dtype, "cpu").module
    expected = {name: weight.to(getattr(torch, dtype)) for name, weight in view.named_parameters()}
    for found in (theirs, ours):
        assert dict(found.named_parameters()).keys() == expected.keys()
        assert all(torch.equal(weight, expected[name]) for name, weight in found.named_parameters())
    if base == dtype:
        assert torch.equal(logits(theirs), logits(view))
        assert torch.equal(logits(ours), logits(view))
    plain = load_pretrained(model_folder, dtype, "cpu").module
    assert (logits(ours) - logits(plain)).abs().max() > 1e-2


def test_in_float32_a_base_in_bfloat16_keeps_the_whole_update(model_folder: Path, adapter: Path, out: Path) -> None:
    base = load_pretrained(model_folder, "bfloat16", "cpu").module
    export_merged(load_pretrained(model_folder, "bfloat16", "cpu"), adapter, out, "float32")
    whole = merged(base.float(), adapter)
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(out, dtype="auto").eval()), logits(whole))


def test_all_other_files_are_the_bases_own(model_folder: Path, adapter: Path, out: Path) -> None:
    (model_folder / "chat_template.jinja").write_text("{{ messages }}")
    generation = {"temperature": 0.5, "eos_token_id": [1, 2], "max_length": 77}
    (model_folder / "generation_config.json").write_text(json.dumps(generation))
    config = json.loads((model_folder / "config.json").read_text())
    config["_name_or_path"] = "/home/somebody/llama"  # as releases before 5 wrote it
    config["torch_dtype"] = config.pop("dtype")
    (model_folder / "config.json").write_text(json.dumps(config))
    settings = json.loads((model_folder / "tokenizer_config.json").read_text())
    (model_folder / "tokenizer_config.json").write_text(json.dumps({**settings, "name_or_path": "/home/somebody"}))
    export_merged(load_pretrained(model_folder, "bfloat16", "cpu"), adapter, out, "bfloat16")
    for name in ("tokenizer.json", "chat_template.jinja"):
        assert (out / name).read_bytes() == (model_folder / name).read_bytes()
    assert json.loads((out / "generation_config.json").read_text()) == generation
    assert json.loads((out / "tokenizer_config.json").read_text()) == settings
    del config["_name_or_path"]
    assert json.loads((out / "config.json").read_text()) == {**config, "torch_dtype": "bfloat16"}
    assert AutoTokenizer.from_pretrained(out).chat_template == "{{ messages }}"
    assert not [path for path in out.iterdir() if b"somebody" in path.read_bytes()]
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in out.iterdir())


def test_a_large_model_is_cut_into_files(
    model_folder: Path, adapter: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toolkit.models.export.LARGEST_FILE", "50KB")
    export_merged(load_pretrained(model_folder, "float32", "cpu"), adapter, out, "float32")
    assert len(list(out.glob("model-*.safetensors"))) > 1
    expected = merged(load_pretrained(model_folder, "float32", "cpu").module, adapter)
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(out).eval()), logits(expected))
    assert torch.equal(logits(load_pretrained(out, "float32", "cpu").module), logits(expected))


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning")
@pytest.mark.parametrize("says_so", [True, False])
def test_an_adapter_of_a_tied_head_is_not_lost(model_folder: Path, tmp_path: Path, out: Path, says_so: bool) -> None:
    """Gemma's configuration does not even hold the key."""
    config = json.loads((model_folder / "config.json").read_text())
    assert config["tie_word_embeddings"] is True
    base = load_pretrained(model_folder, "float32", "cpu").module
    adapted = new_adapter(base, TuneSettings(rank=2, target_modules=("lm_head",)), seed=0)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.1)
    save_ours(adapted, tmp_path / "head")
    expected = logits(merged(base, tmp_path / "head"))
    assert (expected - logits(base)).abs().max() > 1e-2
    loaded = load_pretrained(model_folder, "float32", "cpu")
    if not says_so:
        del config["tie_word_embeddings"]
        (model_folder / "config.json").write_text(json.dumps(config))
    export_merged(loaded, tmp_path / "head", out, "float32")
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(out).eval()), expected)


def test_tied_weights_stay_tied_where_the_head_is_not_adapted(model_folder: Path, adapter: Path, out: Path) -> None:
    export_merged(load_pretrained(model_folder, "float32", "cpu"), adapter, out, "float32")
    with safe_open(str(out / "model.safetensors"), framework="pt") as file:
        assert "lm_head.weight" not in set(file.keys())
    theirs = AutoModelForCausalLM.from_pretrained(out)
    assert theirs.get_output_embeddings().weight is theirs.get_input_embeddings().weight
