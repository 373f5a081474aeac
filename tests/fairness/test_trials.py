"""Point 6: trials on validation are counted, printed, and equal unless the recipe says why not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from toolkit.errors import FairnessError
from toolkit.report import write_report
from toolkit.strategies.adapter import Adapter, FitContext, Part

STACKS = (
    "strategies={zero_shot: [], few_shot: [prompt: {shots: 4}], searched: [searching: {trials: 2}], "
    "also_searched: [searching: {trials: 2}, searching: {trials: 0}], longer: [searching: {trials: 3}]}"
)
PAIRS = (
    "contrasts=[{a: searched, b: few_shot}, {a: also_searched, b: searched}, {a: longer, b: searched}, "
    "{a: searched, b: zero_shot}, {a: also_searched, b: zero_shot}, {a: longer, b: zero_shot}]"
)
TRIALS = {"zero_shot": 0, "few_shot": 0, "searched": 2, "also_searched": 2, "longer": 3}


class SearchingAdapter(Adapter):
    """Looks at validation so many times."""

    trials: int

    def fit(self, context: FitContext) -> Part:
        for _ in range(self.trials):
            context.validate(Part())
        return Part()

    def load(self, folder: Path, context: FitContext) -> Part:
        return Part()


def shorten(rows: dict[str, list[dict[str, Any]]]) -> None:
    del rows["validation"][4:]


@pytest.fixture
def searching(tiny_shipped: Any, plant: Any) -> Any:
    plant(searching=SearchingAdapter)
    task = tiny_shipped.task("handbook", shorten)

    def run(*overrides: str) -> Any:
        base = (STACKS, PAIRS, f"task={task}", "limit=2", "metrics=[token_f1]")
        return tiny_shipped.run("quickstart", *base, *overrides)

    return run


def test_a_contrast_of_unequal_tuning_effort_is_refused(searching: Any) -> None:
    result = searching()
    written = json.loads((result.folder / "comparison.json").read_text(encoding="utf-8"))
    assert {name: facts["trials"] for name, facts in written["strategies"].items()} == TRIALS
    found = {(row["a"], row["b"]): row for row in written["contrasts"]}
    assert len(found) == 7
    for (a, b), row in found.items():
        if TRIALS[a] == TRIALS[b]:
            assert row["refused"] is None
            assert (row["n"], row["verdict"]) == (2, "SMOKE")
            continue
        reason = (
            f"{a} made {TRIALS[a]} trials on validation and {b} made {TRIALS[b]}; "
            "give both the same number, or say in the recipe `unequal_trials: why`"
        )
        assert row["refused"] == reason
        assert row["sentence"] == f"{a} against {b} is refused: {reason}"
        assert (row["verdict"], row["difference"], row["p_value"], row["p_holm"]) == (None, None, None, None)
    refused = {pair for pair, row in found.items() if row["refused"] is not None}
    assert len(refused) == 5
    assert {("few_shot", "zero_shot"), ("also_searched", "searched")} == set(found) - refused


def test_a_reason_lets_it_stand_and_is_printed(searching: Any) -> None:
    result = searching("unequal_trials=only one of them has settings")
    assert len(result.comparison["contrasts"]) == 7
    assert all(row["refused"] is None and row["n"] == 2 for row in result.comparison["contrasts"])
    note = "Tuning effort is unequal on purpose: only one of them has settings."
    assert note in result.comparison["notes"]


LOOKS = "strategies={zero_shot: [], lora: [tune: {max_steps: 1, validate_every: 1}]}"


@pytest.mark.parametrize(
    ("overrides", "refused"),
    [
        ([LOOKS], True),
        ([LOOKS, "unequal_trials=only one of them has settings"], False),
        ([LOOKS, "strategies.lora.tune.validate_every=0"], False),
        ([LOOKS, "strategies.other=[tune: {max_steps: 2, validate_every: 1}]"], True),
    ],
)
def test_trials_of_only_one_side_are_refused_before_anything_is_computed(
    tiny_shipped: Any, overrides: list[str], refused: bool, tmp_path: Path
) -> None:
    task = tiny_shipped.task("handbook", shorten)
    overrides = [*overrides, f"task={task}", "limit=2", "metrics=[token_f1]"]
    if not refused:
        assert tiny_shipped.run("quickstart", *overrides).comparison["contrasts"][0]["refused"] is None
        return
    said = "lora - zero_shot is refused: lora will make trials on validation and zero_shot none; .*unequal_trials"
    with pytest.raises(FairnessError, match=said):
        tiny_shipped.run("quickstart", *overrides)
    assert not list(tmp_path.rglob("outputs"))


def test_trials_are_still_counted_when_parts_come_from_the_store(searching: Any) -> None:
    first, again = searching(), searching()
    events = [json.loads(line) for line in (again.folder / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    assert not [event for event in events if event["event"] in ("fit", "trial")]
    for result in (first, again):
        assert {name: facts["trials"] for name, facts in result.comparison["strategies"].items()} == TRIALS
        assert {name: facts["fixed"]["trials"] for name, facts in result.ledger["strategies"].items()} == TRIALS


def test_trials_and_the_reason_stand_in_the_report(searching: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    result = searching("unequal_trials=only one of them has settings")
    monkeypatch.undo()
    write_report(result.folder)
    page = (result.folder / "report.md").read_text(encoding="utf-8")
    assert "Tuning effort is unequal on purpose: only one of them has settings." in page
    (head,) = [line for line in page.splitlines() if line.startswith("| Strategy") and "trials on validation" in line]
    column = [cell.strip() for cell in head.split("|")].index("trials on validation")
    table = page[page.index(head) :].split("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in row.split("|")] for row in table]
    assert {row[1].split()[0].strip("*"): int(row[column]) for row in cells} == TRIALS
