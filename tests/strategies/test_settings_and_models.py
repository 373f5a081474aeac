"""What of `tune:` does not suit the model is told when a recipe is checked, not when its turn comes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from toolkit.errors import DataError
from toolkit.inference import LocalModel
from toolkit.inference.scripted import ScriptedModel
from toolkit.rendering import Renderer, Template
from toolkit.strategies.learning import check_rows
from toolkit.strategies.tune import TuneAdapter
from toolkit.tasks.task import Task


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"target_modules": ["q_porj", "v_proj"]}, "'q_porj' is the name of no layer"),
        ({"target_modules": ["q_porj"]}, "target_modules: "),
        ({"rank_pattern": {"q_porj": 8}}, "rank_pattern: 'q_porj' is the name of no adapted layer"),
        ({"rank_pattern": {"q_proj": 8, "layers.0.self_attn.q_proj": 4}}, "all name"),
        ({"method": "pissa", "rank": 999}, "cannot take 999 of the"),
        ({"learn": "corpus", "window_tokens": 100_000}, "window_tokens: 100000, but the context"),
        ({"learn": "corpus", "window_tokens": 64}, None),
        ({"rank": "auto"}, None),
        ({"method": "pissa"}, None),
    ],
)
def test_settings_that_do_not_suit_the_model_are_told(
    tiny_model: LocalModel, settings: dict[str, Any], said: str | None
) -> None:
    adapter = TuneAdapter.model_validate({"rank": 4, **settings})
    before = [name for name, _ in tiny_model.module.named_modules()]
    problems = adapter.check_model(tiny_model)
    assert [said in problem for problem in problems] == [True] if said else problems == []
    assert [name for name, _ in tiny_model.module.named_modules()] == before
    assert adapter.check_model(ScriptedModel(lambda prompt: "")) == []  # stands for one that is not here


def test_pissa_of_transposed_layers_is_told(make_module: Callable[..., Any], renderer: Renderer) -> None:
    model = LocalModel(make_module("gpt2"), renderer, "gpt2", "digest", 512)
    (problem,) = TuneAdapter.model_validate({"method": "pissa", "rank": 2}).check_model(model)
    assert "linear layers only" in problem


def test_rows_that_do_not_fit_into_the_context_are_told(
    text_task: Task, template: Template, renderer: Renderer, tiny_model: LocalModel, tmp_path: Path
) -> None:
    check_rows(text_task, renderer, template, "answers", tiny_model.module)
    config, room = tiny_model.module.config, tiny_model.module.config.max_position_embeddings
    config.max_position_embeddings = 8
    try:
        with pytest.raises(DataError, match="cannot be trained on"):
            check_rows(text_task, renderer, template, "answers", tiny_model.module)
    finally:
        config.max_position_embeddings = room
    check_rows(text_task, renderer, template, "answers")
