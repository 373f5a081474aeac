"""Contrasts compare scores of the same examples, whatever a score table holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from toolkit.errors import FairnessError, RecipeError
from toolkit.evaluation import ScoreRow, read_scores, write_scores
from toolkit.runs import run as runs

Edit = Callable[[list[ScoreRow]], list[ScoreRow]]


def _lacking_one(rows: list[ScoreRow]) -> list[ScoreRow]:
    gone = min(row.example_id for row in rows)
    return [row for row in rows if (row.strategy, row.example_id) != ("few_shot", gone)]


def _another_example(rows: list[ScoreRow]) -> list[ScoreRow]:
    gone = min(row.example_id for row in rows)
    return [
        replace(row, example_id="a-new-one") if (row.strategy, row.example_id) == ("few_shot", gone) else row
        for row in rows
    ]


@pytest.mark.parametrize(
    ("edit", "counts", "named"), [(_lacking_one, "3 and 4", "test-"), (_another_example, "4 and 4", "a-new-one")]
)
def test_a_contrast_over_differing_examples_is_refused(
    tiny_shipped: Any, monkeypatch: pytest.MonkeyPatch, edit: Edit, counts: str, named: str
) -> None:
    write_tables = runs._write_tables

    def planted(prepared: Any, examples: Any, answered: Any, folder: Any) -> None:
        write_tables(prepared, examples, answered, folder)
        write_scores(edit(read_scores(folder.scores)), folder.scores)

    monkeypatch.setattr(runs, "_write_tables", planted)
    error = tiny_shipped.refusal(
        "quickstart", "strategies={zero_shot: [], few_shot: [prompt: {shots: 2}]}", "metrics=[token_f1]"
    )
    assert isinstance(error, FairnessError)
    said = f"few_shot and zero_shot were not scored on the same examples ({counts}; for instance '{named}"
    assert str(error).startswith(said)
    assert str(error).endswith("every strategy must answer every example")
    assert not (tiny_shipped.last / "comparison.json").exists()


def test_seeds_of_one_strategy_are_averaged_over_the_same_examples_only(
    tiny_shipped: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tables = runs._write_tables

    def planted(prepared: Any, examples: Any, answered: Any, folder: Any) -> None:
        write_tables(prepared, examples, answered, folder)
        rows = read_scores(folder.scores)
        gone = max(row.example_id for row in rows)
        write_scores([row for row in rows if (row.seed, row.example_id) != (1, gone)], folder.scores)

    monkeypatch.setattr(runs, "_write_tables", planted)
    error = tiny_shipped.refusal(
        "quickstart", "strategies={zero_shot: [], few_shot: [prompt: {shots: 2}]}", "metrics=[token_f1]", "seeds=[0, 1]"
    )
    assert isinstance(error, FairnessError)
    assert "few_shot and few_shot were not scored on the same examples (4 and 3; for instance 'test-" in str(error)


def test_a_contrast_on_a_metric_that_is_not_measured_is_refused_before_anything_is_computed(tiny_shipped: Any) -> None:
    error = tiny_shipped.refusal("handbook", "contrasts=[{a: rag, b: zero_shot, metric: containz}]")
    assert isinstance(error, RecipeError)
    assert "contrasts: metrics are token_f1, contains, exact_match" in str(error)
    assert str(error).endswith("rag - zero_shot: 'containz' is not measured (did you mean 'contains'?)")
    assert not (tiny_shipped.last / "systems").exists()


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("margin=2", "margin: the margin 2 is as wide as token_f1, from 0 to 1"),
        ("contrasts=[{a: rag, b: zero_shot, metric: contains, margin: 1.5}]", "rag - zero_shot: the margin 1.5 is as"),
        ("contrasts=[{a: rag, b: zero_shot, metric: answer_tokens}]", "'answer_tokens' ranks nothing"),
        ("contrasts=[{a: rag, b: zero_shot, metric: token_f1}]", "'token_f1' is the primary metric, on which"),
    ],
)
def test_contrasts_that_would_not_say_what_was_meant_are_refused(tiny_shipped: Any, setting: str, said: str) -> None:
    error = tiny_shipped.refusal("handbook", "metrics=[token_f1, contains, answer_tokens]", setting)
    assert isinstance(error, RecipeError)
    assert str(error).count(said) == 1
    assert not (tiny_shipped.last / "systems").exists()
