"""Adapters as other trainers write them: what loads, what is refused, and with which advice."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from toolkit.errors import ModelError
from toolkit.models import adapter_digest, load_adapter, merged
from toolkit.models.adapted import MisfitError
from toolkit.models.adapter_files import (
    CONFIG,
    TENSORS,
    adapter_faults,
    copy_adapter,
    declared_base,
    plain_name,
    read_settings,
    write_settings,
)
from toolkit.models.weights import shared_copy, tensors_digest

from .conftest import build_llama

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),  # PEFT's own call
    pytest.mark.filterwarnings("ignore::UserWarning:peft.*"),  # of adapters that are made to be refused
]

IDS = torch.arange(24).reshape(2, 12)
ALL = {"target_modules": "all-linear"}
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": ALL,
    "attention only": {"target_modules": ["q_proj", "v_proj"]},
    "rank and alpha patterns": {**ALL, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"layers.1.mlp.up_proj": 3}},
    "rslora": {**ALL, "use_rslora": True},
    "dora": {**ALL, "use_dora": True},
    "gaussian": {**ALL, "init_lora_weights": "gaussian"},
    "a pattern of names": {"target_modules": r"(?:.*?(?:self_attn|mlp).*?(?:q_proj|up_proj))|(?:\bmodel.*?v_proj)"},
    "no task": {**ALL, "task_type": None, "auto_mapping": {"base_model_class": "Llama", "unsloth_fixed": True}},
    "one layer": {"target_modules": ["q_proj"], "layers_to_transform": [1]},
}


def write(folder: Path, module: Any = None, config: Any = None, **settings: Any) -> Any:
    """PEFT alone: an adapter that changes something, saved; what was saved is given back."""
    config = config or peft.LoraConfig(**{"task_type": "CAUSAL_LM", "r": 4, **settings})
    adapted = peft.get_peft_model(shared_copy(build_llama() if module is None else module), config).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name or "ia3_" in name or "magnitude" in name:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    adapted.save_pretrained(str(folder))
    return adapted


def change_settings(folder: Path, **changes: Any) -> None:
    settings = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**settings, **changes}))


def rename(folder: Path, new: Callable[[str], str]) -> None:
    tensors = load_file(folder / TENSORS)
    save_file({new(name): tensor for name, tensor in tensors.items()}, folder / TENSORS)


def logits(module: Any) -> torch.Tensor:
    with torch.inference_mode():
        return module(input_ids=IDS).logits


@pytest.mark.parametrize("name", SETTINGS)
def test_what_peft_writes_has_no_fault_and_a_copy_answers_like_it(tmp_path: Path, name: str) -> None:
    module = build_llama(tied=False)
    theirs = write(tmp_path / "theirs", module, **SETTINGS[name])
    assert adapter_faults(tmp_path / "theirs") == []
    copy_adapter(tmp_path / "theirs", tmp_path / "ours")
    ours = logits(load_adapter(module, tmp_path / "ours"))
    torch.testing.assert_close(ours, logits(theirs), rtol=0, atol=1e-5)
    torch.testing.assert_close(logits(merged(module, tmp_path / "ours")), ours, rtol=0, atol=1e-4)
    assert (ours - logits(module)).abs().max() > 1e-3


WRAPPED: dict[str, Callable[[str], str]] = {
    "an adapter's name": lambda name: re.sub(r"(lora_[AB])\.", r"\1.default.", name),
    "another adapter's name": lambda name: re.sub(r"(lora_[AB])\.", r"\1.mine.", name),
    "torch.compile": lambda name: f"_orig_mod.{name}",
    "torch.compile of layers": lambda name: re.sub(r"(layers\.\d)", r"\1._orig_mod", name),
    "FSDP": lambda name: name.replace("self_attn", "_fsdp_wrapped_module.self_attn"),
    "checkpointing": lambda name: name.replace("mlp", "mlp._checkpoint_wrapped_module"),
    "data parallel": lambda name: f"module.{name}",
    "no prefix": lambda name: name.removeprefix("base_model.model."),
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_names_that_a_training_left_behind_become_pefts_own(tmp_path: Path, kind: str) -> None:
    module = build_llama()
    theirs = write(tmp_path, module, **ALL)
    names = set(load_file(tmp_path / TENSORS))
    rename(tmp_path, WRAPPED[kind])
    assert set(load_file(tmp_path / TENSORS)) != names
    assert adapter_faults(tmp_path) == []
    with pytest.raises(MisfitError):
        load_adapter(module, tmp_path)  # PEFT only warns, and the adapter does nothing
    copy_adapter(tmp_path, tmp_path / "copy")
    assert set(load_file(tmp_path / "copy" / TENSORS)) == names
    torch.testing.assert_close(logits(load_adapter(module, tmp_path / "copy")), logits(theirs), rtol=0, atol=1e-5)


def test_a_name_of_dora_loses_the_adapters_name_and_the_end() -> None:
    start = "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector"
    assert {plain_name(f"{start}{end}") for end in ("", ".default.weight", ".default", ".weight")} == {start}
    assert plain_name("base_model.model.model.embed_tokens.lora_embedding_A.default") == (
        "base_model.model.model.embed_tokens.lora_embedding_A"
    )


def test_a_copy_is_the_two_files_alone_and_names_no_place(tmp_path: Path) -> None:
    write(tmp_path / "theirs", **ALL)
    (tmp_path / "theirs" / "optimizer.pt").write_bytes(b"a pickle")
    change_settings(tmp_path / "theirs", base_model_name_or_path="/home/somebody/models/llama")
    copy_adapter(tmp_path / "theirs", tmp_path / "a")
    copy_adapter(tmp_path / "theirs", tmp_path / "b")
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [CONFIG, TENSORS]
    assert "somebody" not in (tmp_path / "a" / CONFIG).read_text()
    assert adapter_digest(tmp_path / "a") == adapter_digest(tmp_path / "b")


@pytest.mark.parametrize(
    ("said", "base"),
    [
        ("HuggingFaceTB/SmolLM2-135M", "HuggingFaceTB/SmolLM2-135M"),
        ("gpt2", "gpt2"),
        ("/models/gpt2", None),
        ("C:\\models\\gpt2", None),
        ("weights\\gpt2", None),
        ("./gpt2", None),
        ("~/gpt2", None),
        ("runs/last/model", None),
        (None, None),
        ("", None),
    ],
)
def test_a_base_is_named_only_where_the_name_means_something_elsewhere(
    tmp_path: Path, said: str | None, base: str | None
) -> None:
    write(tmp_path, **ALL)
    change_settings(tmp_path, base_model_name_or_path=said)
    assert declared_base(tmp_path) == base


def pickled(folder: Path) -> None:
    write(folder, **ALL)
    (folder / TENSORS).rename(folder / "adapter_model.bin")


def weights_missing(folder: Path) -> None:
    write(folder, **ALL)
    (folder / TENSORS).unlink()


def checkpoints(folder: Path) -> None:
    for step in (8, 4):
        write(folder / f"checkpoint-{step}", **ALL)


def whole_model(folder: Path) -> None:
    build_llama().save_pretrained(folder)


def of_settings(**changes: Any) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        write(folder, **ALL)
        change_settings(folder, **changes)

    return make


def of_tensors(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        write(folder, **ALL)
        save_file(change(load_file(folder / TENSORS)), folder / TENSORS)

    return make


def damaged(folder: Path) -> None:
    write(folder, **ALL)
    content = (folder / TENSORS).read_bytes()
    (folder / TENSORS).write_bytes(content[: len(content) // 2])


def embeddings(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    shape = build_llama().get_input_embeddings().weight.shape
    return tensors | {"base_model.model.model.embed_tokens.weight": torch.ones(shape)}


def two_adapters(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {re.sub(r"(lora_[AB])", rf"\1.{name}", key): one.clone() for name in "xy" for key, one in tensors.items()}


def shards(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: one.flatten()[:7] if "q_proj.lora_A" in name else one for name, one in tensors.items()}


FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "pickled": (pickled, r"pickled \(adapter_model.bin\).* load it with PEFT once and save it again"),
    "without weights": (weights_missing, r"holds no adapter_model.safetensors: copy"),
    "empty": (lambda folder: None, r"holds no adapter_config.json: name the folder that a trainer saved"),
    "checkpoints": (checkpoints, r"below it: checkpoint-4, checkpoint-8. Name one"),
    "whole model": (whole_model, r"a whole model and not an adapter: name it as a `model:`"),
    "prompt learning": (of_settings(peft_type="PREFIX_TUNING"), r"PREFIX_TUNING is prompt learning.* train a LoRA"),
    "another kind": (of_settings(peft_type="IA3"), r"its kind is IA3, .*`merge_and_unload`"),
    "whole modules": (
        lambda folder: write(folder, **ALL, modules_to_save=["lm_head"]),
        r'modules_to_save: it also holds whole modules of the model \(\["lm_head"\]\); merge it',
    ),
    "biases": (lambda folder: write(folder, **ALL, bias="all"), r"bias: all: it holds biases of the model itself"),
    "pissa": (of_settings(init_lora_weights="pissa_niter_4"), r"pissa_niter_4: a start like PiSSA's.* plain LoRA"),
    "olora": (of_settings(init_lora_weights="olora"), r"olora: .*rewrites the base"),
    "activated": (of_settings(alora_invocation_tokens=[1, 2]), r"alora_invocation_tokens: .*activated LoRA"),
    "bias of B": (
        lambda folder: write(folder, **ALL, lora_bias=True),
        r"lora_bias: B with a bias cannot be merged.* train it without",
    ),
    "the head": (
        lambda folder: write(folder, target_modules=["lm_head"]),
        r"that are not LoRA's, .*lm_head.base_layer",
    ),
    "shards": (of_tensors(shards), r"2 of its tensors are parts of matrices, the first is .*q_proj.lora_A.*gather"),
    "unheard of": (of_settings(use_tomorrow=True), r"use_tomorrow: what this setting does is not known here"),
    "embeddings": (of_tensors(embeddings), r"holds 1 tensors that are not LoRA's, the first is base_model.*embed_tok"),
    "two adapters": (of_tensors(two_adapters), r"several adapters, all with a .*lora_A.weight"),
    "untrained": (
        of_tensors(lambda tensors: {name: one * ("lora_A" in name) for name, one in tensors.items()}),
        r"all its B matrices are 0, so it changes nothing",
    ),
    "broken": (
        of_tensors(lambda tensors: {name: one * float("nan") for name, one in tensors.items()}),
        r"28 of its tensors hold no numbers",
    ),
    "without LoRA": (of_tensors(lambda tensors: {}), r"holds no tensor of LoRA's"),
    "damaged": (damaged, r"adapter_model.safetensors cannot be read .*copy it again"),
    "no JSON": (lambda folder: (write(folder, **ALL), (folder / CONFIG).write_text("{")), r"is not JSON"),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_what_cannot_be_used_is_named_with_what_to_do(tmp_path: Path, kind: str) -> None:
    make, said = FAULTS[kind]
    make(tmp_path)
    found = adapter_faults(tmp_path)
    assert re.search(said, found[0], re.DOTALL), found


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    of_settings(use_tomorrow=True, bias="all", init_lora_weights="olora")(tmp_path)
    assert len(adapter_faults(tmp_path)) == 3


def test_settings_of_newer_releases_that_are_off_are_no_fault(tmp_path: Path) -> None:
    of_settings(use_tomorrow=False, tomorrow_config=None, tomorrow_layers=[])(tmp_path)
    assert adapter_faults(tmp_path) == []


@pytest.mark.parametrize("kind", ["biases", "pissa", "olora", "embeddings"])
def test_what_would_write_into_the_base_is_refused_before_it_does(tmp_path: Path, kind: str) -> None:
    module = build_llama(attention_bias=True).requires_grad_(False)
    write(tmp_path, module, **ALL, **({"bias": "all"} if kind == "biases" else {}))
    if kind in ("pissa", "olora"):
        change_settings(tmp_path, init_lora_weights=kind)
    if kind == "embeddings":
        save_file(embeddings(load_file(tmp_path / TENSORS)), tmp_path / TENSORS)
    before = tensors_digest(module)
    with pytest.raises(ModelError, match="merge it into its base"):
        load_adapter(module, tmp_path)
    assert tensors_digest(module) == before


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ({"num_hidden_layers": 3}, r"7 of the 21 layers it adapts are not there, the first is model.layers.2.mlp"),
        ({"hidden_size": 16}, r"its part of model.layers.0.mlp.down_proj takes 64 numbers and gives 16, .* 32 x 64"),
    ],
)
def test_an_adapter_of_another_model_is_told_by_its_layers(tmp_path: Path, shape: dict[str, Any], said: str) -> None:
    write(tmp_path, build_llama(**shape), **ALL)
    change_settings(tmp_path, base_model_name_or_path="somebody/else")
    with pytest.raises(MisfitError, match=said) as refused:
        load_adapter(build_llama(), tmp_path)
    assert "it was trained on another model, it says on somebody/else" in refused.value.reason
    assert str(tmp_path) not in refused.value.reason


def test_an_adapter_that_lacks_tensors_is_told_so(tmp_path: Path) -> None:
    write(tmp_path, **ALL)
    tensors = load_file(tmp_path / TENSORS)
    save_file({name: one for name, one in tensors.items() if "layers.1.mlp" not in name}, tmp_path / TENSORS)
    with pytest.raises(MisfitError, match=r"lacks 6 of 28 tensors, the first is .*layers\.1\.mlp"):
        load_adapter(build_llama(), tmp_path)


def test_the_order_of_a_pattern_is_kept_and_counts(tmp_path: Path) -> None:
    """PEFT takes the first key of a pattern that a layer goes by."""
    digests = set()
    for name, pattern in (("a", {"q_proj": 2, ".*proj": 4}), ("b", {".*proj": 4, "q_proj": 2})):
        (tmp_path / name).mkdir()
        write_settings({"rank_pattern": pattern, "r": 4, "peft_type": "LORA"}, tmp_path / name)
        (tmp_path / name / TENSORS).write_bytes(b"")
        assert list(read_settings(tmp_path / name)["rank_pattern"]) == list(pattern)
        assert list(read_settings(tmp_path / name)) == ["peft_type", "r", "rank_pattern"]
        digests.add(adapter_digest(tmp_path / name))
    assert len(digests) == 2
