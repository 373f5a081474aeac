"""Which models take the packed path, and how one that must not is found out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from toolkit.inference.families import PROVEN_FAMILIES, why_plain
from toolkit.inference.packed import Packed


def test_every_proven_family_has_a_tiny_model_here(make_module: Callable[..., Any]) -> None:
    assert [why_plain(make_module(family)) for family in PROVEN_FAMILIES] == [None] * len(PROVEN_FAMILIES)


def test_what_cannot_be_proven_takes_the_plain_path_and_says_why(make_module: Callable[..., Any]) -> None:
    assert "gpt_neox" in (why_plain(make_module("gpt_neox")) or "")
    odd = make_module("llama", fresh=True)
    odd.config.layer_types = ["linear_attention", "full_attention"]
    assert "linear_attention" in (why_plain(odd) or "")
    cross = make_module("gpt2", fresh=True)
    cross.config.add_cross_attention = True
    assert why_plain(cross) == "it attends to another model"


def test_a_model_that_attends_to_what_comes_takes_the_plain_path(make_module: Callable[..., Any]) -> None:
    module = make_module("gemma3_text", fresh=True)
    module.config.use_bidirectional_attention = True
    assert why_plain(module) == "it attends to what comes after a token"


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # PEFT's own call
def test_a_model_tuned_by_a_prefix_takes_the_plain_path(make_module: Callable[..., Any]) -> None:
    from peft import PrefixTuningConfig, get_peft_model

    settings = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    tuned = get_peft_model(make_module("llama", fresh=True), settings).eval()
    assert why_plain(tuned) == "it is tuned by a prefix"


@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
def test_positions_that_follow_the_length_of_a_row_take_the_plain_path(
    make_module: Callable[..., Any], kind: str
) -> None:
    module = make_module("llama", fresh=True)
    module.config.rope_parameters = {**module.config.rope_parameters, "rope_type": kind}
    assert kind in (why_plain(module) or "")


def test_a_full_gpu_is_not_taken_for_an_unproven_model(
    make_module: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Packed, "forward", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA")))
    with pytest.raises(torch.OutOfMemoryError):
        why_plain(make_module("llama"))


def test_a_family_that_computes_otherwise_than_it_says_is_found_out(make_module: Callable[..., Any]) -> None:
    module = make_module("llama", fresh=True)
    real = module.model.layers[0].self_attn.forward

    def leaning(*given: Any, **named: Any) -> Any:
        """An attention layer of a release to come, which looks at the padding of its batch."""
        answer, shares = real(*given, **named)
        return answer + 0.5 * named["hidden_states"].mean(dim=1, keepdim=True), shares

    module.model.layers[0].self_attn.forward = leaning
    assert "differ" in (why_plain(module) or "")
