"""EVA: A starts from what layers read in training, ranks go where they explain most, and all else is plain LoRA."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft.tuners.lora import EvaConfig
from peft.tuners.lora.eva import get_eva_state_dict
from safetensors.torch import load_file

from toolkit.errors import ModelError
from toolkit.models import adapter_digest, load_adapter, shared_copy
from toolkit.rendering.prompt import TrainingSequence
from toolkit.tuning import TuneSettings, eva, save_adapter, train
from toolkit.tuning.adapter import adapter_tensors, new_adapter
from toolkit.tuning.batches import plan
from toolkit.tuning.methods import adapted_layers

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # PEFT's own call

SETTINGS = TuneSettings(method="eva", rank=4, effective_batch_size=4, epochs=2, learning_rate=1e-2)
PATTERN = {"rank_pattern": {"q_proj": 2, "layers.1.mlp.up_proj": 7}, "alpha_pattern": {"k_proj": 5}}
IDS = torch.arange(24).reshape(2, 12)


def ranks(adapted: Any) -> dict[str, int]:
    return {name: layer.r["default"] for name, layer in adapted_layers(adapted)}


def logits(module: Any) -> torch.Tensor:
    with torch.inference_mode():
        return module(input_ids=IDS).logits


def components(module: Any, sequences: Iterable[TrainingSequence]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """The oracle: each linear layer's inputs on one sequence at a time, all together taken apart in fp64."""
    read: dict[str, list[torch.Tensor]] = {}
    decoder = shared_copy(module).get_decoder()
    for name, layer in decoder.named_modules():
        if type(layer) is torch.nn.Linear:
            layer.register_forward_pre_hook(
                lambda _, inputs, name=f"model.{name}": read.setdefault(name, []).append(inputs[0][0].double())
            )
    with torch.no_grad():
        for sequence in sequences:
            decoder(input_ids=torch.tensor([sequence.token_ids]), use_cache=False)
    found = {}
    for name, parts in read.items():
        rows = torch.cat(parts)
        _, values, directions = torch.linalg.svd(rows - rows.mean(0), full_matrices=False)
        found[name] = (directions, values.square() / values.square().sum())
    return found


def shared_out(exact: Mapping[str, Any], old: Mapping[str, int]) -> Counter[str]:
    offers = [(float(share), name) for name in old for share in exact[name][1][: 2 * old[name]]]
    return Counter(name for _, name in sorted(offers, key=lambda offer: -offer[0])[: sum(old.values())])


@pytest.mark.parametrize("fields", [{}, PATTERN], ids=str)
def test_a_holds_the_directions_that_explain_most_and_ranks_follow_what_they_explain(
    llama: Any, rows: Any, fields: dict[str, Any]
) -> None:
    module, sequences = llama(initializer_range=0.3), rows(30)
    plain = SETTINGS.model_copy(update={"method": "lora", **fields})
    before = new_adapter(module, plain, seed=0)
    adapted = new_adapter(module, plain.model_copy(update={"method": "eva"}), seed=0, sequences=sequences)
    exact, old, new = components(module, sequences), ranks(before), ranks(adapted)
    assert new == shared_out(exact, old)
    assert sum(new.values()) == sum(old.values())
    assert new != old
    for name, layer in adapted_layers(adapted):
        down = layer.lora_A["default"].weight.double()
        torch.testing.assert_close(down @ down.t(), torch.eye(len(down), dtype=torch.float64), rtol=0, atol=1e-4)
        inside = down @ exact[name][0][: len(down)].t()
        assert inside.square().sum() > 0.999 * len(down), name
        assert not layer.lora_B["default"].weight.any()


def test_the_ranks_are_those_of_pefts_own_search(llama: Any, rows: Any) -> None:
    """It reads the same batch until the directions stand still."""
    module, sequences = llama(initializer_range=0.3), rows(30, shortest=12, longest=12)
    ours = new_adapter(module, SETTINGS, seed=0, sequences=sequences)
    theirs = new_adapter(module, SETTINGS.model_copy(update={"method": "lora"}), seed=0)
    config = theirs.peft_config["default"]
    config.init_lora_weights, config.eva_config = "eva", EvaConfig()
    batch = {"input_ids": torch.tensor([sequence.token_ids for sequence in sequences])}
    found = get_eva_state_dict(theirs, [batch], show_progress_bar=False)
    assert ranks(ours) == {name.removeprefix("base_model.model."): len(rows) for name, rows in found.items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_fresh_adapter_answers_with_the_bases_bits_and_keeps_every_scale(
    llama: Any, rows: Any, dtype: torch.dtype
) -> None:
    module = llama(dtype, initializer_range=0.3)
    adapted = new_adapter(module, SETTINGS, seed=0, sequences=rows(30))
    assert len(set(ranks(adapted).values())) > 2
    assert torch.equal(logits(adapted.get_base_model()), logits(module))
    assert {layer.scaling["default"] for _, layer in adapted_layers(adapted)} == {32 / 4}
    assert not any(part._forward_pre_hooks for part in adapted.modules())


ANCHORED = {"rank_pattern": {"^model.layers.0.self_attn.q_proj": 6}, "alpha_pattern": {"^.*mlp.up_proj": 64}}


@pytest.mark.parametrize("pattern", [PATTERN, ANCHORED], ids=["ends", "anchored"])
def test_patterns_keep_their_scales(llama: Any, rows: Any, tmp_path: Path, pattern: dict[str, Any]) -> None:
    """Anchored ones are the form of PEFT's own documentation, and its start from EVA asks them for longer names."""
    settings = SETTINGS.model_copy(update=pattern)
    old = dict(adapted_layers(new_adapter(llama(), settings.model_copy(update={"method": "lora"}), seed=0)))
    for name, layer in adapted_layers(new_adapter(llama(), settings, seed=0, sequences=rows(30))):
        assert layer.scaling["default"] == pytest.approx(old[name].scaling["default"])
    train(llama(), rows(30), settings, tmp_path)
    loaded = peft.PeftModel.from_pretrained(llama(), str(tmp_path))
    for name, layer in adapted_layers(loaded):
        assert layer.scaling["default"] == pytest.approx(old[name].scaling["default"])


def test_what_is_saved_is_plain_lora_that_peft_reads(llama: Any, rows: Any, tmp_path: Path) -> None:
    module = llama(initializer_range=0.3)
    result = train(module, rows(30), SETTINGS, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["r"], config["init_lora_weights"], config["eva_config"]) == (4, True, None)
    assert len(config["rank_pattern"]) > 5
    assert result.how == "by hand"
    assert result.losses[-1] < result.losses[0]
    ours = load_adapter(module, tmp_path)
    theirs = peft.PeftModel.from_pretrained(llama(initializer_range=0.3), str(tmp_path)).eval()
    torch.testing.assert_close(logits(ours), logits(theirs), rtol=0, atol=1e-4)
    assert (logits(ours) - logits(module)).abs().max() > 1e-2


def test_the_first_sequences_of_the_training_are_looked_at_in_its_order(
    llama: Any, rows: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[TrainingSequence] = []
    monkeypatch.setattr(eva, "start_from_data", lambda _, sequences, seed: taken.extend(sequences))
    sequences = rows(10)
    train(llama(), sequences, SETTINGS, tmp_path, seed=3)
    steps = plan([len(sequence.token_ids) for sequence in sequences], SETTINGS, 3)
    assert taken == [sequences[row] for rows in steps[:3] for row in rows]


def test_the_seed_gives_the_bytes(llama: Any, rows: Any, tmp_path: Path) -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        order = rows(60, seed=seed)
        save_adapter(new_adapter(llama(), SETTINGS, seed, order), tmp_path / name)
    assert torch.equal(state, torch.get_rng_state())
    assert adapter_digest(tmp_path / "a") == adapter_digest(tmp_path / "b") != adapter_digest(tmp_path / "c")


SCRIPT = """
import sys, torch
sys.path.insert(0, {tests!r})
from conftest import random_sequences, tiny_llama
from toolkit.tuning import TuneSettings, train
torch.set_num_threads(1)
settings = TuneSettings(method="eva", rank=4, max_steps=1)
train(tiny_llama(num_hidden_layers=3), random_sequences(30), settings, {folder!r}, seed=5)
"""


def test_another_process_gives_the_same_bytes(llama: Any, rows: Any, tmp_path: Path) -> None:
    """From 20 layers on PEFT finds the shortest names of the adapted ones, as a set."""
    script = SCRIPT.format(tests=str(Path(__file__).parent), folder=str(tmp_path / "there"))
    hash_seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True, env=environment)
    settings = TuneSettings(method="eva", rank=4, max_steps=1)
    train(llama(num_hidden_layers=3), rows(30), settings, tmp_path / "here", seed=5)
    for path in (tmp_path / "here").iterdir():
        assert path.read_bytes() == (tmp_path / "there" / path.name).read_bytes(), path.name


def test_no_more_is_read_than_was_said_and_in_passes(llama: Any, rows: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    module, sequences = llama(initializer_range=0.3), rows(60)
    passes: list[tuple[int, ...]] = []
    monkeypatch.setattr(eva, "TOKENS", 300)
    monkeypatch.setattr(eva, "PASS_TOKENS", 120)
    forward = type(module.get_decoder()).forward

    def noted(self: Any, *given: Any, **words: Any) -> Any:
        passes.append(tuple(words["input_ids"].shape))
        return forward(self, *given, **words)

    monkeypatch.setattr(type(module.get_decoder()), "forward", noted)
    left = iter(sequences)
    adapted = new_adapter(module, SETTINGS, seed=0, sequences=left)
    monkeypatch.undo()
    read = len(sequences) - len(list(left))
    lengths = [len(sequence.token_ids) for sequence in sequences]
    assert sum(lengths[: read - 1]) < 300 <= sum(lengths[:read])
    first, second = (count for count, _ in passes)  # what is left over behind the second goes with it
    assert first + second == read
    assert sum(lengths[: first - 1]) < 120 <= sum(lengths[:first])
    exact = components(module, sequences[:read])
    for name, layer in adapted_layers(adapted):  # brought up to date pass by pass, nearly what all at once would give
        down = layer.lora_A["default"].weight.double()
        explained = (down @ exact[name][0].t()).square() @ exact[name][1]
        assert explained.sum() > 0.98 * exact[name][1][: len(down)].sum(), name


def test_too_few_tokens_are_refused(llama: Any, rows: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"looks for 32 directions in \d+ tokens; lower `rank`"):
        train(llama(), rows(2), SETTINGS.model_copy(update={"rank": 16}), tmp_path)
    with pytest.raises(ModelError, match="looks for 8 directions in 0 tokens"):
        new_adapter(llama(), SETTINGS, seed=0)


def test_a_rank_above_half_a_layers_inputs_only_narrows_the_choice(llama: Any, rows: Any) -> None:
    found = ranks(new_adapter(llama(), SETTINGS.model_copy(update={"rank": 24}), seed=0, sequences=rows(30)))
    assert sum(found.values()) == 14 * 24
    assert all(rank <= (48 if "down" in name else 32) for name, rank in found.items())


@pytest.mark.parametrize("layers", [2, 3])  # PEFT shortens the names of 20 modules and more
def test_a_layer_left_without_a_rank_loses_its_adapter(
    llama: Any, rows: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layers: int
) -> None:
    plain = eva._shared_out

    def without_one(shares: Any, old: Any) -> dict[str, int]:
        return {**plain(shares, old), "model.layers.1.self_attn.o_proj": 0}

    monkeypatch.setattr(eva, "_shared_out", without_one)
    module = llama(initializer_range=0.3, num_hidden_layers=layers)
    result = train(module, rows(30), SETTINGS, tmp_path)
    assert result.how == "by hand"
    stored = peft.utils.load_peft_weights(str(tmp_path), device="cpu")
    assert len(stored) == 2 * (7 * layers - 1)
    assert not any("layers.1.self_attn.o_proj" in name for name in stored)
    assert (logits(load_adapter(module, tmp_path)) - logits(module)).abs().max() > 1e-2


def test_what_explains_nothing_gets_no_rank() -> None:
    shares = {"wide": [0.4, 0.3, 0.2, 0.1], "narrow": [1.0, 0.0, 0.0, 0.0], "even": [0.25] * 4}
    assert eva._shared_out(shares, {"wide": 2, "narrow": 2, "even": 2}) == {"wide": 2, "narrow": 1, "even": 3}
    assert eva._shared_out(shares, {"wide": 1, "narrow": 1, "even": 1}) == {"wide": 2, "narrow": 1, "even": 0}


def test_a_layer_that_reads_nothing_starts_like_loras(llama: Any, rows: Any) -> None:
    """The head is no part of the decoder, which alone is run."""
    settings = SETTINGS.model_copy(update={"target_modules": ("q_proj", "down_proj", "lm_head")})
    first, again = (adapter_tensors(new_adapter(llama(), settings, seed=0, sequences=rows(30))) for _ in range(2))
    head = first["base_model.model.lm_head.lora_A.weight"]
    assert head.shape == (4, 32)
    assert 0 < head.abs().max() <= 1 / 32**0.5
    assert all(torch.equal(again[name], tensor) for name, tensor in first.items())
    assert ranks(new_adapter(llama(), settings, seed=0, sequences=rows(30)))["lm_head"] == 4


def test_a_model_whose_layers_are_transposed_starts_from_its_data_too(make_module: Any, rows: Any) -> None:
    """GPT-2's Conv1D holds [inputs, outputs]; what it reads is the same."""
    module = make_module("gpt2")
    adapted = new_adapter(module, SETTINGS, seed=0, sequences=rows(30))
    assert sum(ranks(adapted).values()) == 8 * 4
    torch.testing.assert_close(logits(adapted.get_base_model()), logits(module), rtol=0, atol=1e-5)
    down = next(layer for _, layer in adapted_layers(adapted)).lora_A["default"].weight
    torch.testing.assert_close(down @ down.t(), torch.eye(len(down)), rtol=0, atol=1e-4)


def test_embeddings_which_read_ids_keep_their_rank_and_draw(llama: Any, rows: Any, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"target_modules": ("q_proj", "embed_tokens")})
    result = train(llama(torch.bfloat16, tie_word_embeddings=False), rows(40), settings, tmp_path)
    assert {tensor.dtype for tensor in load_file(tmp_path / "adapter_model.safetensors").values()} == {torch.float32}
    assert result.losses[-1] < result.losses[0]
    alone = settings.model_copy(update={"target_modules": ("embed_tokens",)})
    with pytest.raises(ModelError, match="reads token ids only"):
        train(llama(tie_word_embeddings=False), rows(40), alone, tmp_path)
