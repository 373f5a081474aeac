"""How was it trained: what the section says of trainings, of old ones and of those without a record."""

from __future__ import annotations

import json
import shutil
from typing import get_args

import pytest
from written_trainings import falling, write_steps, write_training

from toolkit.report import write_report
from toolkit.report.how_trained import METHODS, how_trained
from toolkit.report.read import read_run
from toolkit.tracking import JsonLines, TrackedRun
from toolkit.tuning.settings import Method

TITLE = "How was it trained?"


@pytest.fixture(scope="module")
def untrained(tmp_path_factory, fake_run):
    root = tmp_path_factory.mktemp("run")
    fake_run(n=12, groups=12).write(root)
    return root


@pytest.fixture
def root(tmp_path, untrained):
    """A run folder without a record of any training."""
    return shutil.copytree(untrained, tmp_path / "run")


def cells(root):
    """Of each row of the table: its cells by column, as (text, note)."""
    table = how_trained(read_run(root)).blocks[0]
    titles = [column.title for column in table.columns]
    return [
        {title: (cell.text, cell.note) for title, cell in zip(titles, row.cells, strict=True)} for row in table.rows
    ]


def texts(root):
    """The section's paragraphs and bullets."""
    blocks = how_trained(read_run(root)).blocks[1:]
    return [line for block in blocks for line in getattr(block, "items", (getattr(block, "text", ""),))]


def more_seeds(root, name, seeds):
    path = root / "comparison.json"
    comparison = json.loads(path.read_text())
    comparison["strategies"][name]["seeds"] = seeds
    path.write_text(json.dumps(comparison))


def test_without_a_record_of_a_training_there_is_no_section(root):
    assert how_trained(read_run(root)) is None
    write_report(root)
    assert TITLE not in (root / "report.md").read_text(encoding="utf-8")


def test_the_section_stands_before_the_costs_in_both_files(root):
    write_training(root, "lora", falling(20))
    write_report(root)
    for name in ("report.md", "report.html"):
        text = (root / name).read_text(encoding="utf-8")
        places = [text.rindex(title) for title in ("What lies under it", TITLE, "Paid once")]
        assert places == sorted(places)


def test_a_row_says_what_the_training_was(root):
    looks = [[0, 0.1], [30, 0.25], [60, 0.2]]
    losses = [2.0, *falling(58), 0.0123]
    write_training(root, "lora", losses, looks=looks, kept_step=30, settings={"method": "rslora", "max_steps": 60})
    write_steps(root, "lora", 60, seconds=0.25, peak=2.5e9)
    assert cells(root) == [
        {
            "Strategy": ("lora", "seed 0"),
            "Method": ("rsLoRA", "rank 16"),
            "Learns": ("answers", "240 examples"),
            "Trained parameters": ("4.9 M", "of 139 M"),
            "Steps": ("60", "2 epochs"),
            "Supervised": ("9.0 %", "of 60,000\ntokens"),
            "Learning rate": ("0.001", "linear"),
            "Loss": ("2.00 → 0.012", ""),
            "Kept": ("step 30", "token F1 25.0, 3 looks"),
            "Computed by": ("fast step", ""),
            "Time": ("15.0 s", "peak ≤ 2.5 GB"),
        }
    ]


def test_a_record_of_an_old_run_leaves_dashes(root):
    folder = write_training(root, "lora", [2.0, 1.0])
    for name in ("part.json", "cost.json"):
        (folder / name).unlink()
    (folder / "training.json").write_text(json.dumps({"losses": [2.0, 1.0], "settings": {"rank": 8}}))
    (row,) = cells(root)
    assert row["Method"] == ("LoRA", "rank 8")
    assert row["Learns"] == ("answers", "240 examples")
    assert row["Steps"] == ("2", "")
    assert row["Kept"] == ("last step", "no look at validation")
    for title in ("Trained parameters", "Supervised", "Learning rate", "Computed by", "Time"):
        assert row[title] == ("–", "")
    write_report(root)


@pytest.mark.parametrize("record", ["", "{torn", "[1]", "{}", '{"losses": []}', '{"losses": [1.0, null]}'])
def test_a_record_that_cannot_be_read_is_named_as_missing(root, record):
    write_training(root, "lora_rag", falling(20), place=2)
    (write_training(root, "lora", falling(20)) / "training.json").write_text(record)
    assert [row["Strategy"][0] for row in cells(root)] == ["lora_rag"]
    assert "No record of the training of lora is in the run folder." in texts(root)


def test_what_a_killed_fit_left_half_done_is_no_training(root):
    folder = write_training(root, "lora", falling(20))
    folder.rename(folder.with_name(".1-tune.work-1a2b"))
    assert how_trained(read_run(root)) is None


def test_seconds_are_those_of_every_step_or_of_the_whole_fit(root):
    write_training(root, "lora", falling(20))
    write_steps(root, "lora", 19)
    assert cells(root)[0]["Time"][0] == "5.3 min"
    assert "whole fit" in cells(root)[0]["Time"][1]
    write_steps(root, "lora", 20, seconds=2.0)  # trained anew: the first 19 no longer count
    assert cells(root)[0]["Time"] == ("40.0 s", "peak ≤ 1.5 GB")


def test_what_was_expected_stands_beside_what_it_took(root):
    write_training(root, "lora", falling(20))
    lines = JsonLines(root / "training.jsonl")
    lines.start(TrackedRun("lora", 0))
    lines.log(1, {"forecast/seconds": 50.0, "forecast/memory_bytes": 1.4e9})
    assert cells(root)[0]["Time"] == ("5.3 min", "whole fit,\nforecast\n50.0 s, 1.4 GB")


@pytest.mark.parametrize(
    ("learn", "settings", "shown"),
    [
        ("answers", {"max_steps": 45}, "1.5 epochs"),  # 240 examples, 8 a step
        ("answers", {"epochs": 9}, "9 epochs"),
        ("answers", {"epochs": 9, "validate_every": 5, "patience": 1}, "1.5 epochs"),
        ("corpus", {"epochs": 9}, "9 epochs"),
        ("corpus", {"max_steps": 45}, ""),  # into how many windows it was cut is not in the folder
        ("corpus", {"validate_every": 5, "patience": 1}, ""),
        ("preferences", {"max_steps": 45}, ""),
    ],
)
def test_epochs_are_counted_where_they_follow_from_the_folder(root, learn, settings, shown):
    write_training(root, "lora", falling(45), learn=learn, settings=settings)
    assert cells(root)[0]["Steps"] == ("45", shown)


def test_what_all_seeds_share_is_said_once(root):
    more_seeds(root, "lora", [0, 1])
    dropout = {"step": "packed, through autograd: it has dropout", "notices": ["learning_rate: `auto` <b>chooses</b>"]}
    for seed in (0, 1):
        write_training(root, "lora", falling(20, seed=seed), seed=seed, **dropout)
    write_training(root, "lora_rag", falling(20), place=2, step=dropout["step"])
    said = texts(root)
    reason = (
        "the fast step could not be used (it has dropout): its steps went through autograd, on rows without padding."
    )
    assert f"lora_rag and lora: {reason}" in said
    assert "lora: learning_rate: `auto` <b>chooses</b>" in said
    assert [row["Strategy"] for row in cells(root)] == [("lora_rag", "seed 0"), ("lora", "seed 0"), ("lora", "seed 1")]
    write_report(root)
    assert "<b>chooses" not in (root / "report.html").read_text(encoding="utf-8")


def test_what_is_said_of_some_seeds_names_them_after_what_all_share(root):
    more_seeds(root, "lora", [0, 1, 2])
    for seed, notices in enumerate((["first", "all"], ["odd", "all"], ["odd", "all"])):
        write_training(root, "lora", falling(20, seed=seed), seed=seed, notices=notices)
    said = [line for line in texts(root) if line.startswith("lora")]
    assert said == ["lora: all", "lora (seeds 1 and 2): odd", "lora (seed 0): first"]


def test_every_method_has_a_readers_name():
    assert set(METHODS) == set(get_args(Method))


def test_methods_and_engines_have_readers_names(root):
    write_training(
        root, "lora", [1.0], step="padded, through autograd: it has dropout", rank=None, settings={"method": "full"}
    )
    write_training(root, "lora_rag", [1.0], step="an engine to come", processes=2)
    rows = {row["Strategy"][0]: row for row in cells(root)}
    assert rows["lora"]["Method"] == ("all weights", "")
    assert rows["lora"]["Computed by"] == ("autograd, padded", "")
    assert rows["lora_rag"]["Computed by"] == ("an engine to come", "2 processes")
