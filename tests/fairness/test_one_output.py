"""Point 3: one output an example, nothing dropped from a mean, and answers that owe nothing to the targets."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from toolkit.errors import FairnessError
from toolkit.evaluation import read_scores
from toolkit.rendering import Draft
from toolkit.runs import run as runs
from toolkit.strategies.adapter import Adapter, FitContext, Part, Responder
from toolkit.tasks.example import Answer
from toolkit.tasks.load import load_task
from toolkit.tasks.output import Output

CONTROLS = {"handbook": ("oracle", "random_passages"), "tickets": ("nearest_neighbour",)}


class MisbehavingPart(Part):
    def __init__(self, how: str) -> None:
        self.how = how

    def extend(self, drafts: Sequence[Draft]) -> list[Draft]:
        if self.how == "drops a draft":
            return list(drafts)[:-1]
        return list(drafts)[::-1] if self.how == "reorders drafts" else list(drafts)

    def respond(self, drafts: Sequence[Draft], answer: Responder) -> list[Output]:
        outputs = answer(drafts)
        if self.how == "drops an output":
            return outputs[:-1]
        if self.how == "reorders outputs":
            return outputs[::-1]
        if self.how == "answers one example twice":
            return [*outputs[:-1], replace(outputs[-1], example_id=outputs[0].example_id)]
        return [*outputs, outputs[-1]] if self.how == "adds an output" else outputs


class MisbehavingAdapter(Adapter):
    how: str

    def fit(self, context: FitContext) -> Part:
        return MisbehavingPart(self.how)


@pytest.mark.parametrize(
    ("how", "found"),
    [
        ("drops an output", "4 examples gave 3 outputs or another order; a part's `respond` must"),
        ("reorders outputs", "4 examples gave 4 outputs or another order; a part's `respond` must"),
        ("answers one example twice", "4 examples gave 4 outputs or another order; a part's `respond` must"),
        ("adds an output", "4 examples gave 5 outputs or another order; a part's `respond` must"),
        ("drops a draft", "4 examples gave 3 drafts or another order; a part's `extend` must"),
        ("reorders drafts", "4 examples gave 4 drafts or another order; a part's `extend` must"),
    ],
)
def test_an_adapter_must_return_one_output_an_example_in_order(
    tiny_shipped: Any, plant: Any, how: str, found: str
) -> None:
    plant(misbehaving=MisbehavingAdapter)
    error = tiny_shipped.refusal("quickstart", f"strategies={{zero_shot: [], odd: [misbehaving: {{how: {how}}}]}}")
    assert isinstance(error, FairnessError)
    assert str(error).startswith(f"strategy 'odd': {found} return exactly one")
    assert not (tiny_shipped.last / "outputs" / "odd").exists()


def test_errors_and_unparsable_answers_score_worst_and_stay_in_the_mean(tiny_shipped: Any, plant: Any) -> None:
    key: Mapping[str, tuple[Answer, ...] | None] = {item.id: item.targets for item in load_task("tickets").test}

    class Half(Part):
        """Right on two examples of four; fails on one, and is not understood on the other."""

        def respond(self, drafts: Sequence[Draft], answer: Responder) -> list[Output]:
            names = [draft.example.id for draft in drafts]
            right = [Output(name, "answered", answer=(key[name] or ("",))[0]) for name in names]
            failed = replace(right[0], status="error", error="planted")
            return [failed, replace(right[1], status="unparsable"), *right[2:]]

    class HalfAdapter(Adapter):
        def fit(self, context: FitContext) -> Part:
            return Half()

    plant(half=HalfAdapter)
    result = tiny_shipped.run("tickets", "strategies={zero_shot: [], half: [half: {}]}", "contrasts=[]")
    half = result.comparison["strategies"]["half"]
    assert (half["metric"], half["score"], half["n"]) == ("accuracy", 0.5, 4)
    assert half["statuses"] == {"answered": 2, "error": 1, "unparsable": 1}
    rows = [row for row in read_scores(result.folder / "scores.parquet") if row.strategy == "half"]
    assert sorted(row.value for row in rows if row.metric == "accuracy") == [0.0, 0.0, 1.0, 1.0]
    (contrast,) = result.comparison["contrasts"]
    assert (contrast["refused"], contrast["n"]) == (None, 4)
    assert math.isclose(contrast["difference"], 0.5 - result.comparison["strategies"]["zero_shot"]["score"])


def test_a_metric_that_does_not_apply_is_absent_and_every_other_covers_all_examples(whole_runs: Any) -> None:
    whole = whole_runs("handbook")
    strategies = whole.comparison["strategies"]
    assert "recall_at_k" in strategies["rag"]["metrics"]
    assert all("recall_at_k" not in strategies[name]["metrics"] for name in ("zero_shot", "few_shot", "lora"))
    rows = read_scores(whole.folder / "scores.parquet")
    asked = {json.loads(line)["output"]["example_id"] for line in _lines(whole.folder, "zero_shot")}
    targets = {item.id: item.targets for item in load_task("handbook").test if item.id in asked}
    assert len(asked) == 4
    for name in strategies:
        of_all = [row.example_id for row in rows if (row.strategy, row.metric) == (name, "token_f1")]
        assert sorted(of_all) == sorted(asked)
        answerable = {row.example_id for row in rows if (row.strategy, row.metric) == (name, "answered_contains")}
        assert answerable == {name for name in asked if targets[name]}


class EnoughError(Exception):
    """Stops a run whose outputs are all that is wanted."""


@pytest.mark.parametrize("recipe", ["handbook", "tickets"])
def test_stripping_all_test_targets_and_spans_leaves_the_same_bytes(
    tiny_shipped: Any, whole_runs: Any, recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = whole_runs(recipe)
    answer_all = runs._answer_all

    def stripped(prepared: Any, examples: Sequence[Any], *rest: Any) -> Any:
        def bare(items: Sequence[Any]) -> tuple[Any, ...]:
            return tuple(replace(item, targets=None, spans=(), rejected=()) for item in items)

        task = replace(prepared.task, test=bare(prepared.task.test))
        answer_all(replace(prepared, task=task), bare(examples), *rest)
        raise EnoughError

    monkeypatch.setattr(runs, "_answer_all", stripped)
    with pytest.raises(EnoughError):
        tiny_shipped.run(recipe, *whole.overrides, load=tiny_shipped.loader)  # in whole runs' dtype
    names = [strategy.name for strategy in whole.recipe.strategies]
    candidates = [name for name in names if name not in CONTROLS[recipe]]
    assert len(candidates) >= 6
    for name in candidates:
        assert len(_lines(whole.folder, name)) == 4
        assert _lines(tiny_shipped.last, name) == _lines(whole.folder, name), name
    if recipe == "handbook":  # the exception, which shows that the bytes could have differed
        assert _lines(tiny_shipped.last, "oracle") != _lines(whole.folder, "oracle")


@pytest.mark.parametrize("recipe", ["handbook", "tickets"])
def test_controls_are_marked_and_contrasted_only_where_declared(
    tiny_shipped: Any, whole_runs: Any, recipe: str
) -> None:
    whole = whole_runs(recipe)
    marked = {name for name, facts in whole.comparison["strategies"].items() if facts["control"]}
    assert marked == set(CONTROLS[recipe])
    shown = json.loads((whole.folder / "manifest.json").read_text(encoding="utf-8"))["strategies"]
    assert {name for name, facts in shown.items() if facts["control"]} == marked
    sides = [(row["a"], row["b"]) for row in whole.comparison["contrasts"]]
    declared = {"handbook": [("oracle", "rag")], "tickets": [("lora", "nearest_neighbour")]}[recipe]
    assert [pair for pair in sides if marked & set(pair)] == declared
    by_default = tiny_shipped.recipe(recipe, "contrasts=[]").contrasts
    assert {item.a for item in by_default} == set(shown) - marked - {"zero_shot"}
    assert {item.b for item in by_default} == {"zero_shot"}


def test_a_part_that_looks_at_targets_and_spans_sees_none(tiny_shipped: Any, plant: Any) -> None:
    seen: list[tuple[str, Any]] = []

    class Peeking(Part):
        def extend(self, drafts: Sequence[Draft]) -> list[Draft]:
            seen.extend((draft.example.id, _labels(draft)) for draft in drafts)
            return list(drafts)

        def respond(self, drafts: Sequence[Draft], answer: Responder) -> list[Output]:
            seen.extend((draft.example.id, _labels(draft)) for draft in drafts)
            return answer(drafts)

    class PeekingAdapter(Adapter):
        def fit(self, context: FitContext) -> Part:
            context.validate(Peeking())
            return Peeking()

    plant(peeking=PeekingAdapter)
    task = load_task("handbook")
    assert all(item.spans for item in (*task.train, *task.validation, *task.test) if item.targets)
    tiny_shipped.run(
        "quickstart",
        "strategies={zero_shot: [], peeking: [peeking: {}, tune: {rank: 2, max_steps: 1}]}",
        "unequal_trials=planted",
        "metrics=[token_f1]",
    )
    splits = {name.split("-")[0] for name, _ in seen}
    assert splits == {"train", "validation", "test"}
    assert {labels for _, labels in seen} == {(None, (), ())}


def _labels(draft: Draft) -> Any:
    return draft.example.targets, draft.example.spans, draft.example.rejected


def _lines(folder: Path, strategy: str) -> list[bytes]:
    (path,) = (folder / "outputs" / strategy).iterdir()
    return path.read_bytes().splitlines()
