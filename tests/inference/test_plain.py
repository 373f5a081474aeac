"""The plain path: what stock `generate` says, whatever was asked before, and the model as it was."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, BambaConfig, LlamaConfig, Phi3Config

from toolkit.errors import ModelError
from toolkit.inference import LocalModel, Sampling
from toolkit.inference.plain import Plain
from toolkit.inference.sampling import Picker, Row
from toolkit.models import tensors_digest
from toolkit.rendering import Prompt, Renderer
from toolkit.rendering.renderer import ids_digest

SHAPE = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "initializer_range": 0.4,
}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}
LONG = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [8.0] * 4}
LONG["original_max_position_embeddings"] = 64


def built(config: Any) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return (
            AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval().requires_grad_(False)
        )


def moving(kind: str) -> Any:
    rope = LONG if kind == "longrope" else {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}
    longest = 256 if kind == "longrope" else 64
    return built(LlamaConfig(**SHAPE, **HEADS, rope_parameters=dict(rope), max_position_embeddings=longest))


def row(tokens: int) -> list[int]:
    draw = random.Random(tokens)
    return [draw.randrange(2, 300) for _ in range(tokens)]


@torch.inference_mode()
def answered(module: Any, asked: list[int], tokens: int) -> list[int]:
    said = Row()
    Plain(module).answers([asked], [said], Picker(Sampling(tokens), frozenset({1}), str))
    return said.token_ids


@torch.inference_mode()
def generated(module: Any, asked: list[int], tokens: int) -> list[int]:
    ids = torch.tensor([asked])
    made = module.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False)
    said = made[0, len(asked) :].tolist()
    return said[:-1] if said[-1:] == [1] else said


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_a_row_does_not_move_the_next_ones_positions_nor_the_base(kind: str) -> None:
    module = moving(kind)
    before = tensors_digest(module)
    with torch.inference_mode():
        (alone,) = Plain(moving(kind)).scores([row(100)], [[[5, 6]]])
        *_, behind = Plain(module).scores([row(20), row(240), row(100)], [[[5, 6]]] * 3)
    assert behind == alone
    assert tensors_digest(module) == before


@pytest.mark.parametrize("prompt", [50, 63, 64, 70])
def test_long_positions_begin_where_generate_begins_them(prompt: int) -> None:
    """Phi 3's `generate` computes all keys anew at the 65th token."""
    config = Phi3Config(**SHAPE, **HEADS, original_max_position_embeddings=64, rope_parameters=dict(LONG))
    config.max_position_embeddings = 256
    assert answered(built(config), row(prompt), 20) == generated(built(config), row(prompt), 20)


def test_a_model_that_loses_count_by_its_cache_is_fed_all_again() -> None:
    config = BambaConfig(**SHAPE, **HEADS, mamba_n_heads=4, mamba_d_head=16, mamba_d_state=8, attn_layer_indices=[1])
    module = built(config)
    for tokens in (7, 21):
        assert answered(module, row(tokens), 8) == generated(module, row(tokens), 8)


def test_only_logits_that_are_read_are_made(make_module: Callable[..., Any]) -> None:
    module, seen = make_module("gpt_neox", fresh=True), list[int]()
    module.get_output_embeddings().register_forward_hook(lambda *call: seen.append(call[2].shape[1]))
    plain = Plain(module)
    with torch.inference_mode():
        plain.scores([row(60)], [[[5, 6]]])
        plain.answers([row(60)], [Row()], Picker(Sampling(3), frozenset(), str))
    assert max(seen) == 3


def test_scores_behind_a_learnt_prompt_are_read_at_its_end() -> None:
    from peft import PromptTuningConfig, get_peft_model

    module = get_peft_model(built(LlamaConfig(**SHAPE, **HEADS)), PromptTuningConfig("CAUSAL_LM", num_virtual_tokens=5))
    asked = row(20)
    with torch.inference_mode():
        logs = module.eval()(input_ids=torch.tensor([[*asked, 5, 6]])).logits[0].log_softmax(dim=-1)
        ((found,),) = Plain(module).scores([asked], [[[5, 6]]])
    assert logs.shape[0] == 27
    assert found == pytest.approx(float(logs[24, 5] + logs[25, 6]), abs=1e-5)


def test_what_is_no_number_is_no_answer(make_module: Callable[..., Any], renderer: Renderer) -> None:
    module = make_module("llama", fresh=True)
    module.model.layers[0].mlp.down_proj.weight.mul_(3e5)
    model = LocalModel(module.half(), renderer, "overflowing", "digest", 512)
    prompt = Prompt((), tuple(row(8)), {}, ids_digest(row(8)))
    for ask in (lambda: model.score([prompt], [[(5, 6), (7,)]]), lambda: model.generate([prompt], Sampling(4))):
        with pytest.raises(ModelError, match=r"no numbers.*bfloat16 or float32"):
            ask()
