"""Tiny random Llama models built in memory, and sequences to train them on."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from toolkit.rendering.prompt import TrainingSequence

Build = Callable[..., Any]


def tiny_llama(dtype: torch.dtype = torch.float32, **overrides: Any) -> Any:
    """2 layers, D 32, V 64; the same weights every time."""
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 64}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        module = LlamaForCausalLM(LlamaConfig(**{**shape, **heads, "attn_implementation": "sdpa", **overrides}))
    return module.to(dtype).eval().requires_grad_(False)


def random_sequences(count: int, seed: int = 0, shortest: int = 6, longest: int = 14) -> list[TrainingSequence]:
    """Random ids, the last two to four of them supervised."""
    generator = random.Random(seed)
    found = []
    for _ in range(count):
        length, taught = generator.randint(shortest, longest), generator.randint(2, 4)
        ids = tuple(generator.randrange(64) for _ in range(length))
        found.append(TrainingSequence(ids, (False,) * (length - taught) + (True,) * taught))
    return found


@pytest.fixture(scope="session")
def llama() -> Build:
    return tiny_llama


@pytest.fixture(scope="session")
def rows() -> Callable[..., list[TrainingSequence]]:
    return random_sequences


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def answers_as_trained() -> Callable[..., None]:
    """Asserts that an adapter, moved from its start and saved, answers to the bit as it does in training."""
    from toolkit.models import load_adapter
    from toolkit.tuning.adapter import new_adapter, save_adapter

    def check(base: Any, settings: Any, folder: Any) -> None:
        adapted = new_adapter(base, settings, seed=0)
        with torch.no_grad():
            for name, parameter in adapted.named_parameters():
                if "lora_B" in name or "magnitude" in name:
                    parameter.add_(torch.arange(parameter.numel()).reshape(parameter.shape).mul(12.9898).sin() / 10)
        save_adapter(adapted, folder / "adapter")
        ids = torch.arange(24).reshape(2, 12)
        with torch.inference_mode():
            trained = adapted.get_base_model().train()(input_ids=ids).logits
            assert torch.equal(load_adapter(base, folder / "adapter")(input_ids=ids).logits, trained)
            assert not torch.equal(base(input_ids=ids).logits, trained)

    return check
