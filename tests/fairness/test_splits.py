"""Point 4: splits share nothing, no part shows an example to itself, and scorings of the test set are counted."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from toolkit.errors import FairnessError
from toolkit.prompting import rank_nearest
from toolkit.rendering import Draft
from toolkit.runs.reopen import reopen
from toolkit.strategies.adapter import Adapter, FitContext, Part
from toolkit.tasks.example import Example

BARE = ("strategies={zero_shot: []}", "contrasts=[]", "limit=1")


@pytest.mark.parametrize(("split", "other"), [("test", "train"), ("validation", "train"), ("test", "validation")])
def test_the_same_content_in_two_splits_is_refused(tiny_shipped: Any, split: str, other: str) -> None:
    planted: dict[str, str] = {}

    def duplicate(rows: dict[str, list[dict[str, Any]]]) -> None:
        copied, original = rows[split][3], rows[other][5]
        copied["inputs"] = dict(original["inputs"])
        planted.update({split: copied["id"], other: original["id"]})

    error = tiny_shipped.refusal("tickets", f"task={tiny_shipped.task('tickets', duplicate)}", *BARE)
    assert isinstance(error, FairnessError)
    order = [name for name in ("train", "validation", "test") if name in planted]
    said = ", ".join(f"{name} '{planted[name]}'" for name in order)
    assert str(error) == f"task 'tickets': its splits are not disjoint: the same inputs stand in {said}"
    assert not (tiny_shipped.last / "outputs").exists()


def test_a_test_row_in_train_is_refused_before_any_training(tiny_shipped: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[Any] = []
    monkeypatch.setattr("toolkit.tuning.train", lambda *given, **_: trained.append(given))

    def leak(rows: dict[str, list[dict[str, Any]]]) -> None:
        rows["train"].append(rows["test"][7] | {"id": "leaked"})

    folder = tiny_shipped.task("tickets", leak)
    error = tiny_shipped.refusal(
        "tickets",
        f"task={folder}",
        "strategies={zero_shot: [], lora: [tune: {rank: 2, max_steps: 1}]}",
        "contrasts=[]",
    )
    assert isinstance(error, FairnessError)
    assert re.fullmatch(r".*: the same inputs stand in train 'leaked', test '[\w-]+'", str(error))
    assert trained == []
    assert not (tiny_shipped.last / "systems").exists()


def test_a_group_in_two_splits_is_refused_without_a_reason(tiny_shipped: Any) -> None:
    folder = tiny_shipped.task("handbook", _by_document, shared_groups=False)
    assert tiny_shipped.run("quickstart", f"task={folder}", *BARE).comparison["n"] == 1

    def share(rows: dict[str, list[dict[str, Any]]]) -> None:
        _by_document(rows)
        rows["train"][0]["group"] = rows["test"][0]["group"] = "c05-storm-aldwin-report"

    tiny_shipped.root = tiny_shipped.root / "shared"
    error = tiny_shipped.refusal("quickstart", f"task={tiny_shipped.task('handbook', share, False)}", *BARE)
    assert isinstance(error, FairnessError)
    assert str(error) == (
        "task 'handbook': its splits are not disjoint: group 'c05-storm-aldwin-report' is in test, train: "
        "split by group, or declare `shared_groups: why`"
    )


def test_a_shipped_dataset_without_its_reason_is_refused_with_ten_groups_named(tiny_shipped: Any) -> None:
    folder = tiny_shipped.task("handbook", lambda rows: None, shared_groups=False)
    lines = str(tiny_shipped.refusal("quickstart", f"task={folder}", *BARE)).splitlines()
    assert lines[0] == "task 'handbook': its splits are not disjoint: 11 problems"
    assert all("split by group, or declare `shared_groups: why`" in line for line in lines[1:11])
    assert re.fullmatch(r"  - and \d+ more", lines[11])
    assert len(lines) == 12


def test_the_reason_for_shared_groups_is_printed(whole_runs: Any) -> None:
    from toolkit.report import write_report

    whole = whole_runs("handbook")
    reason = "questions of one document stand in every split on purpose"
    assert [reason in note for note in whole.comparison["notes"]].count(True) == 1
    write_report(whole.folder)
    for name in ("report.md", "report.html"):
        assert reason in (whole.folder / name).read_text(encoding="utf-8")


class SelfishPart(Part):
    """Shows each training example a demonstration that gives it away."""

    def __init__(self, pool: Sequence[Example], shows: str) -> None:
        self.pool, self.shows = pool, shows

    def extend(self, drafts: Sequence[Draft]) -> list[Draft]:
        return [draft.with_demonstrations([self.shown(draft.example)]) for draft in drafts]

    def shown(self, example: Example) -> Example:
        own = next((item for item in self.pool if item.id == example.id), self.pool[0])
        stranger = next(item for item in self.pool if item.group != own.group)
        if self.shows == "its id":
            return replace(stranger, id=own.id)
        if self.shows == "its content":
            return replace(stranger, inputs=own.inputs)
        return next(item for item in self.pool if item.group == own.group and item.id != own.id)


class SelfishAdapter(Adapter):
    shows: str

    def fit(self, context: FitContext) -> Part:
        return SelfishPart(context.task.train, self.shows)


@pytest.mark.parametrize("shows", ["its id", "its content", "its group"])
def test_a_part_that_shows_an_example_itself_is_refused(tiny_shipped: Any, plant: Any, shows: str) -> None:
    plant(selfish=SelfishAdapter)
    folder = tiny_shipped.task("handbook", _by_document, shared_groups=False)
    error = tiny_shipped.refusal(
        "quickstart",
        f"task={folder}",
        f"strategies={{zero_shot: [], odd: [selfish: {{shows: {shows}}}, tune: {{rank: 2, max_steps: 1}}]}}",
    )
    assert isinstance(error, FairnessError)
    assert re.fullmatch(
        r"strategy 'odd' shows example 'train-\d+' a demonstration that is itself, has its content or comes from its "
        r"group \('train-\d+'\): leave these out in the adapter's `extend`",
        str(error),
    )
    assert not (tiny_shipped.last / "outputs" / "odd").exists()


def test_a_shared_group_may_be_shown_but_never_the_example_itself(tiny_shipped: Any, plant: Any) -> None:
    plant(selfish=SelfishAdapter)

    def stack(shows: str) -> str:
        return f"strategies={{zero_shot: [], odd: [selfish: {{shows: {shows}}}, tune: {{rank: 2, max_steps: 1}}]}}"

    many = tiny_shipped.task("handbook", _groups_of_two_or_more)
    result = tiny_shipped.run("quickstart", f"task={many}", stack("its group"), "limit=1", "metrics=[token_f1]")
    assert result.comparison["strategies"]["odd"]["n"] == 1
    assert isinstance(tiny_shipped.refusal("quickstart", f"task={many}", stack("its id")), FairnessError)


@pytest.mark.parametrize("select", ["nearest", "random"])
def test_shipped_demonstrations_leave_the_example_and_its_group_out(tiny_shipped: Any, select: str) -> None:
    folder = tiny_shipped.task("handbook", _by_document, shared_groups=False)
    result = tiny_shipped.run(
        "handbook",
        f"task={folder}",
        f"strategies={{zero_shot: [], shots: [prompt: {{shots: 4, select: {select}}}]}}",
        "contrasts=[]",
        "limit=1",
        "metrics=[token_f1]",
    )
    finished = reopen(result.folder)
    train = finished.prepared.task.train
    drafts = finished.system("shots").drafts(train)
    assert len(drafts) == len(train) > 40
    for example, draft in zip(train, drafts, strict=True):
        assert len(draft.demonstrations) == 4
        assert example.id not in {shown.id for shown in draft.demonstrations}
        assert example.inputs not in [shown.inputs for shown in draft.demonstrations]
        assert example.group not in {shown.group for shown in draft.demonstrations}
    # Without that rule each would be shown itself: it is its own nearest neighbour, and is among the fixed ones.
    if select == "nearest":
        vectors = finished.prepared.benches["shots"].encoder.encode_queries([e.inputs["question"] for e in train])
        for row, (first, *_) in enumerate(rank_nearest(vectors, vectors)):
            assert vectors[row] @ vectors[first] >= 0.9999
    else:
        assert len({tuple(shown.id for shown in draft.demonstrations) for draft in drafts}) > 1


def test_scorings_of_the_test_set_count_recipes_not_runs(tiny_shipped: Any) -> None:
    def scorings(*overrides: str) -> tuple[int, str]:
        comparison = tiny_shipped.run("quickstart", *BARE, "metrics=[token_f1]", *overrides).comparison
        return comparison["test_scorings"], comparison["notes"][0]

    assert scorings() == (1, "The test set has been scored by 1 different recipe here.")
    assert scorings() == (1, "The test set has been scored by 1 different recipe here.")
    assert scorings("decoding.max_new_tokens=2") == (2, "The test set has been scored by 2 different recipes here.")
    assert scorings("decoding.max_new_tokens=2", "description=the same under another description")[0] == 2
    assert scorings()[0] == 2
    another = tiny_shipped.task("handbook", lambda rows: rows["test"].pop())
    assert scorings(f"task={another}")[0] == 1


def _by_document(rows: dict[str, list[dict[str, Any]]]) -> None:
    """Splits that share no document: the handbook's parts A, B and C."""
    for split, letter in (("train", "a"), ("validation", "b"), ("test", "c")):
        rows[split][:] = [row for row in rows[split] if str(row.get("group")).startswith(letter)]
    _groups_of_two_or_more(rows)


def _groups_of_two_or_more(rows: dict[str, list[dict[str, Any]]]) -> None:
    groups = [row.get("group") for row in rows["train"]]
    rows["train"][:] = [row for row in rows["train"] if row.get("group") and groups.count(row["group"]) > 1]
