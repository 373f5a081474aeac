from __future__ import annotations

from typing import Any

import pytest
import torch
from allocations import most_allocated
from torch.nn import functional
from transformers import CohereConfig, CohereForCausalLM, Gemma2Config, Gemma2ForCausalLM, GPT2Config, GPT2LMHeadModel

from toolkit.rendering.prompt import TrainingSequence
from toolkit.tuning.steps.loss import HEAD_ROWS, FrozenHeadLoss, collate, has_plain_head, token_losses


def plain_cross_entropy(module: Any, sequences: list[TrainingSequence]) -> torch.Tensor:
    """One sequence at a time, logits at every position, labels of -100 where nothing is supervised."""
    total = torch.zeros((), dtype=torch.float64)
    for sequence in sequences:
        ids = torch.tensor([sequence.token_ids])
        labels = torch.tensor([token if taught else -100 for token, taught in zip(*_columns(sequence), strict=True)])
        logits = module(input_ids=ids).logits[0, :-1].double()
        total = total + functional.cross_entropy(logits, labels[1:], ignore_index=-100, reduction="sum")
    return total


def _columns(sequence: TrainingSequence) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    return sequence.token_ids, sequence.supervised


@pytest.mark.parametrize("plain", [True, False])
def test_the_loss_is_plain_cross_entropy_over_supervised_tokens(llama: Any, rows: Any, plain: bool) -> None:
    module, sequences = llama(torch.float64), rows(5)
    found = token_losses(module, collate(sequences, "cpu"), plain).sum()
    assert float(found) == pytest.approx(float(plain_cross_entropy(module, sequences)), abs=1e-10)


@pytest.mark.parametrize("chunk", [1, 3, 512])
def test_the_frozen_heads_gradient_is_autograds(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr("toolkit.tuning.steps.loss.HEAD_ROWS", chunk)
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(size, generator=generator, dtype=torch.float64) for size in ((7, 5), (11, 5)))
    bias, targets = torch.randn(11, generator=generator, dtype=torch.float64), torch.arange(7)
    ours, theirs = hidden.clone().requires_grad_(), hidden.clone().requires_grad_()
    loss = FrozenHeadLoss.apply(ours, weight, bias, targets)
    oracle = functional.cross_entropy(functional.linear(theirs, weight, bias), targets, reduction="none")
    upstream = torch.linspace(-1, 2, 7, dtype=torch.float64)
    loss.backward(upstream)
    oracle.backward(upstream)
    torch.testing.assert_close(loss, oracle, rtol=0, atol=1e-12)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_logits_of_all_supervised_tokens_are_made_or_kept(dtype: torch.dtype) -> None:
    rows, words = 6 * HEAD_ROWS, 20_000
    hidden = torch.randn(rows, 16).to(dtype).requires_grad_()
    weight, targets = torch.randn(words, 16).to(dtype), torch.arange(rows)

    def run() -> None:
        FrozenHeadLoss.apply(hidden, weight, None, targets).sum().backward()

    piece = HEAD_ROWS * words * (4 if dtype == torch.float32 else 2 + 4)
    assert piece <= most_allocated(run) < 1.2 * piece < rows * words * 4 / 3


def test_only_positions_before_supervised_tokens_get_a_gradient(llama: Any) -> None:
    module = llama()
    states = []
    module.get_decoder().register_forward_hook(lambda _, __, output: states.append(output.last_hidden_state))
    module.get_input_embeddings().weight.requires_grad_(True)
    sequence = TrainingSequence((1, 2, 3, 4, 5, 6), (False, False, True, False, True, True))
    loss = token_losses(module, collate([sequence], "cpu"), True).sum()
    states[0].retain_grad()
    loss.backward()
    assert states[0].grad[0].abs().sum(dim=1).gt(0).tolist() == [False, True, False, True, True, False]


def test_padding_and_order_change_nothing(llama: Any, rows: Any) -> None:
    module, sequences = llama(), rows(6)
    together = float(token_losses(module, collate(sequences, "cpu"), True).sum())
    assert float(token_losses(module, collate(sequences[::-1], "cpu"), True).sum()) == pytest.approx(together, abs=1e-5)
    alone = sum(float(token_losses(module, collate([sequence], "cpu"), True).sum()) for sequence in sequences)
    assert alone == pytest.approx(together, abs=1e-5)


def test_a_supervised_first_token_is_left_out_since_nothing_stands_before_it() -> None:
    batch = collate([TrainingSequence((5, 6, 7), (True, True, True))], "cpu")
    assert batch.columns.tolist() == [0, 1]
    assert batch.targets.tolist() == [6, 7]


def _shape() -> dict[str, int]:
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "num_hidden_layers": 1}
    return {"hidden_size": 16, "intermediate_size": 16, "vocab_size": 32, "pad_token_id": 0, **heads}


def test_soft_caps_and_scales_are_noticed(llama: Any, rows: Any) -> None:
    capped = Gemma2ForCausalLM(Gemma2Config(**_shape(), head_dim=8, final_logit_softcapping=1.0))
    scaled = CohereForCausalLM(CohereConfig(**_shape(), logit_scale=0.25))
    gpt2 = GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=32))
    for module in (capped, scaled, gpt2):
        module.eval().requires_grad_(False)
    assert not has_plain_head(capped)
    assert not has_plain_head(scaled)
    assert has_plain_head(gpt2)
    assert has_plain_head(llama(torch.bfloat16))


def test_a_head_that_is_trained_is_not_taken_for_frozen(llama: Any) -> None:
    module = llama()
    module.get_output_embeddings().weight.requires_grad_(True)
    assert not has_plain_head(module)
