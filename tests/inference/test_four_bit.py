"""The packed path over weights in 4 bits: proven where it is taken, and what it gives is what the plain one gives."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from toolkit.inference import LocalModel
from toolkit.inference.model import Sampling
from toolkit.rendering.prompt import Prompt


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma", "gpt2"])
def test_packed_scores_and_answers_are_the_plain_ones(
    four_bits: Callable[..., Any], make_module: Callable[..., Any], prompts: list[Prompt], family: str
) -> None:
    loaded = four_bits(make_module(family))
    packed, plain = LocalModel.of(loaded), LocalModel.of(loaded)
    assert packed.path.startswith("packed")
    plain.why_plain = "asked for"
    choices = [((5, 6, 2), (5, 2), (9, 2))] * len(prompts)
    for one, other in zip(packed.score(prompts, choices), plain.score(prompts, choices), strict=True):
        assert one == pytest.approx(other, abs=1e-3)
    said, expected = (model.generate(prompts, Sampling(6)) for model in (packed, plain))
    assert [one.token_ids for one in said] == [one.token_ids for one in expected]
    assert len({one.token_ids for one in said}) > 1


@pytest.fixture
def prompts() -> list[Prompt]:
    generator = random.Random(0)
    return [
        Prompt((), tuple(generator.randrange(4, 300) for _ in range(generator.randint(5, 30))), {}, str(number))
        for number in range(8)
    ]
