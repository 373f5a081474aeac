"""A run killed anywhere, or left with damaged files, goes on with the same command and ends with the same bytes.

Here a listener that raises stands for the kill; `tests/end_to_end/test_kills.py` sends real signals.
"""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from toolkit import Adapter, Part
from toolkit.meter import Listener
from toolkit.recipe import load_recipe
from toolkit.rendering import Draft
from toolkit.resources import shipped
from toolkit.runs import chunks
from toolkit.runs.run import run
from toolkit.strategies.adapter import FitContext
from toolkit.strategies.strategy import NamedAdapter, Strategy

Start = Callable[..., Any]
Calls = list[tuple[str, int]]
TWO = {"zero_shot": [], "few_shot": [{"prompt": {"shots": 2}}]}


@pytest.fixture(autouse=True)
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing is slow and changes nothing else; the test of a kill in it puts its own in the place."""
    monkeypatch.setattr("toolkit.report.write_report", lambda root: (root / "report.html").write_text("drawn"))


class Killed(BaseException):
    """Nothing catches it, as nothing catches a signal."""


def killing(event: str, times: int = 1, **wanted: Any) -> Listener:
    """Raises when an event with these fields comes for the nth time."""
    left = [times]

    def listen(name: str, fields: Mapping[str, Any]) -> None:
        if name == event and wanted.items() <= fields.items():
            left[0] -= 1
            if left[0] == 0:
                raise Killed

    return listen


@pytest.fixture(scope="module")
def uninterrupted(
    world: Any, artefacts: Any, all_strategies: Any, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes]:
    """What a run of all strategies leaves when nothing happens to it."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    run(world.recipe(folder / "recipe.yaml", all_strategies), out=folder / "run", store=folder / "store")
    found: dict[str, bytes] = artefacts(folder / "run")
    return found


@pytest.fixture
def chunk_names(uninterrupted: dict[str, bytes]) -> list[str]:
    return sorted(name for name in uninterrupted if name.startswith("outputs/"))


KILLS = [
    ("train", 1, {"step": 1}),  # nothing is written down yet
    ("train", 1, {"step": 2}),  # just after a checkpoint
    ("train", 2, {"step": 3}),  # of the second tuned strategy, over retrieval's drafts
    ("stage", 1, {"stage": "train"}),  # the adapter is written and not yet in the Store
    ("chunk", 2, {"strategy": "lora_rag"}),
    ("statistics", 1, {}),
]


@pytest.mark.parametrize(
    ("event", "times", "fields"), KILLS, ids=[f"{name}-{'-'.join(map(str, f.values()))}-{n}" for name, n, f in KILLS]
)
def test_a_killed_run_goes_on_to_the_same_bytes(
    start: Start,
    artefacts: Any,
    all_strategies: Any,
    tmp_path: Path,
    uninterrupted: dict[str, bytes],
    event: str,
    times: int,
    fields: dict[str, Any],
) -> None:
    with pytest.raises(Killed):
        start(all_strategies, listener=killing(event, times, **fields))
    assert not (tmp_path / "run" / "ledger.json").exists()
    start(all_strategies)
    assert artefacts(tmp_path / "run") == uninterrupted


def test_a_run_killed_again_and_again_goes_on_to_the_same_bytes(
    start: Start, artefacts: Any, all_strategies: Any, tmp_path: Path, uninterrupted: dict[str, bytes]
) -> None:
    for event, fields in (
        ("chunk", {"strategy": "zero_shot", "chunk": 1}),
        ("chunk", {"strategy": "few_shot", "chunk": 2}),
        ("index", {}),
        ("chunk", {"strategy": "rag", "chunk": 3}),
        ("train", {"step": 1}),
        ("train", {"step": 2}),
        ("train", {"step": 4}),
        ("chunk", {"strategy": "lora", "chunk": 1}),
        ("train", {"step": 4}),
        ("chunk", {"strategy": "lora_rag", "chunk": 3}),
        ("strategy", {"strategy": "oracle"}),
        ("chunk", {"strategy": "oracle", "chunk": 2}),
        ("statistics", {}),
        ("timed", {"strategy": "rag"}),
    ):
        with pytest.raises(Killed):
            start(all_strategies, listener=killing(event, **fields))
    start(all_strategies)
    assert artefacts(tmp_path / "run") == uninterrupted


def test_training_goes_on_from_its_checkpoint(start: Start) -> None:
    strategies = {
        "zero_shot": [],
        "lora": [{"tune": {"rank": 2, "epochs": 1, "effective_batch_size": 8, "checkpoint_every": 2}}],
    }
    with pytest.raises(Killed):
        start(strategies, listener=killing("train", step=3))
    steps: list[int] = []

    def noted(name: str, fields: Mapping[str, Any]) -> None:
        if name == "train":
            steps.append(fields["step"])

    start(strategies, listener=noted)
    assert steps == [3, 4]


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_kill_between_store_and_outputs_loses_nothing(
    start: Start, artefacts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str, asked: Calls
) -> None:
    start(TWO, out="whole", store="own")
    per_run = len(asked)
    append = chunks._append

    def stopped(path: Path, key: str, outputs: Sequence[dict[str, Any]]) -> None:
        if when == "after":
            append(path, key, outputs)
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(chunks, "_append", stopped)
        with pytest.raises(Killed):
            start(TWO)
    asked_before = len(asked)
    start(TWO)
    assert artefacts(tmp_path / "run") == artefacts(tmp_path / "whole")
    assert len(asked) - asked_before == per_run - 1  # the chunk in the Store is not answered again


def test_a_run_killed_during_the_report_is_finished_without_answering_again(
    start: Start, artefacts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: Calls
) -> None:
    def stopped(root: Path) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr("toolkit.report.write_report", stopped)
        with pytest.raises(Killed):
            start(TWO)
    before = artefacts(tmp_path / "run")
    asked.clear()
    start(TWO)
    assert asked == []
    assert artefacts(tmp_path / "run") == before
    assert (tmp_path / "run" / "report.html").read_text() == "drawn"


def test_timings_of_a_killed_timing_pass_are_kept(start: Start, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        start(TWO, listener=killing("timed", 3))
    result = start(TWO)
    rows = [json.loads(line) for line in (tmp_path / "run" / "timings.jsonl").read_text().splitlines()]
    timed = [(row["strategy"], row["example"]) for row in rows if row["stage"] == "latency"]
    assert len(timed) == len(set(timed)) == 4
    assert result.ledger["strategies"]["few_shot"]["per_query"]["latency_seconds"]["n"] == 2


# ---------------------------------------------------------------------------------------------- fits with trials


class ShotsByValidation(Adapter):
    """Shows one or two training examples, whichever scores better on validation."""

    def depends_on(self) -> frozenset[Any]:
        return frozenset({"model"})

    def fit(self, context: FitContext) -> Part:
        candidates = [Shown(context, shots) for shots in (1, 2)]
        scores = [context.validate(part) for part in candidates]
        return candidates[scores.index(max(scores))]

    def load(self, folder: Path, context: FitContext) -> Part:
        return Shown(context, json.loads((folder / "shots.json").read_text()))


class Shown(Part):
    def __init__(self, context: FitContext, shots: int) -> None:
        self.examples, self.shots = context.task.train[:shots], shots

    def extend(self, drafts: Sequence[Draft]) -> list[Draft]:
        return [draft.with_demonstrations(list(self.examples)) for draft in drafts]

    def save(self, folder: Path) -> None:
        (folder / "shots.json").write_text(json.dumps(self.shots))


@pytest.mark.parametrize("times", [1, 2])
def test_a_kill_at_a_trial_counts_no_trial_twice(world: Any, artefacts: Any, tmp_path: Path, times: int) -> None:
    plain = load_recipe(world.recipe(tmp_path / "recipe.yaml", TWO, unequal_trials="a test"))
    searched = Strategy("few_shot", (NamedAdapter("shots_by_validation", ShotsByValidation()),))
    recipe = replace(plain, strategies=(plain.strategies[0], searched))
    whole = run(recipe, out=tmp_path / "whole", store=tmp_path / "own")
    assert whole.comparison["strategies"]["few_shot"]["trials"] == 2

    with pytest.raises(Killed):
        run(recipe, out=tmp_path / "run", store=tmp_path / "store", listener=killing("trial", times))
    resumed = run(recipe, out=tmp_path / "run", store=tmp_path / "store")
    assert resumed.comparison == whole.comparison
    assert artefacts(tmp_path / "run") == artefacts(tmp_path / "whole")


# ---------------------------------------------------------------------------------------------- damaged files


@pytest.fixture
def finished(start: Start, artefacts: Any, tmp_path: Path) -> dict[str, bytes]:
    """A finished run of two strategies in `run`, and what it left."""
    start(TWO, timing={"examples": 0})
    found: dict[str, bytes] = artefacts(tmp_path / "run")
    return found


def half_a_line(raw: bytes) -> bytes:
    return raw[: len(raw) - len(raw.splitlines()[-1]) // 2]


def without_the_last_chunk(raw: bytes) -> bytes:
    return b"".join(raw.splitlines(keepends=True)[:16])


def within_a_chunk(raw: bytes) -> bytes:
    return b"".join(raw.splitlines(keepends=True)[:11])


def without_the_final_newline(raw: bytes) -> bytes:
    return raw[:-1]


def a_line_of_another_key(raw: bytes) -> bytes:
    lines = raw.splitlines(keepends=True)
    record = json.loads(lines[9])
    return b"".join([*lines[:9], json.dumps({**record, "chunk": "0" * 32}).encode() + b"\n", *lines[10:]])


def swapped_lines(raw: bytes) -> bytes:
    lines = raw.splitlines(keepends=True)
    return b"".join([lines[1], lines[0], *lines[2:]])


def garbage_behind(raw: bytes) -> bytes:
    return raw + b'{"chunk": "x"}\n\xff\xfe not JSON'


def repeated(raw: bytes) -> bytes:
    return raw + raw.splitlines(keepends=True)[0]


def a_changed_answer(raw: bytes) -> bytes:
    """Whole, well-formed, under the right key, and not what was computed."""
    lines = raw.splitlines(keepends=True)
    record = json.loads(lines[3])
    record["output"]["text"] = record["output"]["text"] + "?"
    changed = json.dumps(record, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode() + b"\n"
    return b"".join([*lines[:3], changed, *lines[4:]])


def lines_of_a_version_without_digests(raw: bytes) -> bytes:
    records = [json.loads(line) for line in raw.splitlines()]
    return b"".join(
        json.dumps({"chunk": record["chunk"], "output": record["output"]}).encode() + b"\n" for record in records
    )


def nothing_left(raw: bytes) -> bytes:
    return b""


DAMAGES = [
    half_a_line,
    without_the_last_chunk,
    within_a_chunk,
    without_the_final_newline,
    a_line_of_another_key,
    swapped_lines,
    garbage_behind,
    repeated,
    a_changed_answer,
    lines_of_a_version_without_digests,
    nothing_left,
]


@pytest.mark.parametrize("store", ["kept", "deleted"])
def test_damaged_outputs_are_mended(
    start: Start, artefacts: Any, tmp_path: Path, finished: dict[str, bytes], asked: Calls, store: str
) -> None:
    name = "outputs/few_shot/seed-0.jsonl"
    for damage in DAMAGES:
        damaged = damage(finished[name])
        assert damaged != finished[name]
        (tmp_path / "run" / name).write_bytes(damaged)
        if store == "deleted":
            shutil.rmtree(tmp_path / "store")
        chunks_asked = len(asked)
        start(TWO, timing={"examples": 0})
        assert artefacts(tmp_path / "run") == finished, damage.__name__
        if store == "kept":
            assert len(asked) == chunks_asked, damage.__name__


def test_a_cut_chunk_is_the_only_one_answered_again(
    start: Start, tmp_path: Path, finished: dict[str, bytes], asked: Calls
) -> None:
    path = tmp_path / "run" / "outputs/few_shot/seed-0.jsonl"
    path.write_bytes(within_a_chunk(path.read_bytes()))
    shutil.rmtree(tmp_path / "store")
    start(TWO, timing={"examples": 0})
    assert asked == [("generate", 8), ("generate", 8)]  # the second chunk, and the third that stood behind it
    assert path.read_bytes() == finished["outputs/few_shot/seed-0.jsonl"]


def test_torn_events_and_timings_do_not_stop_a_run(start: Start, tmp_path: Path) -> None:
    start(TWO)
    for name in ("events.jsonl", "timings.jsonl"):
        path = tmp_path / "run" / name
        path.write_bytes(path.read_bytes()[:-20])
    result = start(TWO)
    for name in ("zero_shot", "few_shot"):
        assert result.ledger["strategies"][name]["per_query"]["latency_seconds"]["n"] == 2
    torn = [line for line in (tmp_path / "run" / "timings.jsonl").read_text().splitlines() if not line.endswith("}")]
    assert len(torn) == 1  # what was written afterwards stands on lines of its own
    assert start(TWO).ledger["strategies"]["few_shot"]["per_query"]["latency_seconds"]["n"] == 2


def test_a_poisoned_chunk_in_the_store_is_computed_again(
    start: Start, artefacts: Any, tmp_path: Path, finished: dict[str, bytes], asked: Calls
) -> None:
    poisoned = sorted((tmp_path / "store").glob("*/*/chunk.json"))
    assert len(poisoned) == 6
    poisoned[0].write_text(poisoned[0].read_text().replace('"status":"', '"status":"un', 1))
    poisoned[1].write_bytes(b"")
    poisoned[2].unlink()
    (poisoned[3].parent / "sealed.json").write_text("[]")
    start(TWO, out="second", timing={"examples": 0})
    assert asked == [("generate", 8)] * 4
    assert artefacts(tmp_path / "second") == finished
    asked.clear()
    start(TWO, out="third", timing={"examples": 0})
    assert asked == []


def test_a_damaged_adapter_in_the_run_folder_is_put_back(
    start: Start, artefacts: Any, tmp_path: Path, all_strategies: Any
) -> None:
    strategies = {name: all_strategies[name] for name in ("zero_shot", "lora")}
    start(strategies)
    before = artefacts(tmp_path / "run")
    adapter = tmp_path / "run" / "systems/lora/seed-0/1-tune/adapter_model.safetensors"
    adapter.write_bytes(adapter.read_bytes()[:-8] + b"\x01" * 8)
    start(strategies)
    assert artefacts(tmp_path / "run") == before


def test_a_run_whose_store_was_deleted_is_finished_from_its_folder(
    start: Start, artefacts: Any, tmp_path: Path, finished: dict[str, bytes], asked: Calls
) -> None:
    shutil.rmtree(tmp_path / "store")
    start(TWO, timing={"examples": 0})
    assert asked == []
    assert artefacts(tmp_path / "run") == finished


# ---------------------------------------------------------------------------------------------- what is done again


@pytest.mark.parametrize("out", ["run", "second"])
def test_fresh_computes_everything_anew_with_the_same_bytes(
    start: Start, artefacts: Any, tmp_path: Path, all_strategies: Any, asked: Calls, out: str
) -> None:
    strategies = {name: all_strategies[name] for name in ("zero_shot", "lora")}
    start(strategies)
    first, before = list(asked), artefacts(tmp_path / "run")
    asked.clear()
    steps: list[str] = []
    start(strategies, out=out, fresh=True, listener=lambda name, fields: steps.append(name))
    assert asked == first
    assert steps.count("train") == 4
    assert artefacts(tmp_path / out) == before


def test_an_identical_run_elsewhere_answers_from_the_store(
    start: Start, artefacts: Any, tmp_path: Path, all_strategies: Any, asked: Calls
) -> None:
    start(all_strategies, timing={"examples": 0})
    assert len(asked) > 18
    asked.clear()
    seen: list[str] = []
    start(all_strategies, out="second", timing={"examples": 0}, listener=lambda name, fields: seen.append(name))
    assert asked == []
    assert {"train", "index", "fit"}.isdisjoint(seen)
    assert artefacts(tmp_path / "second") == artefacts(tmp_path / "run")


def test_one_more_strategy_computes_that_one_only(start: Start, asked: Calls, all_strategies: Any) -> None:
    start(TWO, timing={"examples": 0})
    asked.clear()
    fitted: list[str] = []

    def noted(name: str, fields: Mapping[str, Any]) -> None:
        if name == "fit":
            fitted.append(fields["strategy"])

    start({**TWO, "rag": all_strategies["rag"]}, out="second", timing={"examples": 0}, listener=noted)
    assert asked == [("generate", 8)] * 3
    assert fitted == ["rag"]


def test_keys_are_content_and_never_paths_or_names(
    start: Start, world: Any, artefacts: Any, tmp_path: Path, asked: Calls
) -> None:
    start(TWO, timing={"examples": 0})
    asked.clear()
    shutil.copytree(world.text_task, tmp_path / "moved-task")
    shutil.copytree(world.model, tmp_path / "moved-model")
    start(
        {"other_name": TWO["zero_shot"], "another": TWO["few_shot"]},
        out="second",
        timing={"examples": 0},
        task=str(tmp_path / "moved-task"),
        model=str(tmp_path / "moved-model"),
    )
    assert asked == []
    moved, known = artefacts(tmp_path / "second"), artefacts(tmp_path / "run")
    assert moved["outputs/another/seed-0.jsonl"] == known["outputs/few_shot/seed-0.jsonl"]


@pytest.mark.parametrize("change", ["template", "dtype", "decoding", "chunk_examples", "batch_tokens"])
def test_a_change_of_what_bytes_depend_on_computes_again(
    start: Start, tmp_path: Path, asked: Calls, change: str
) -> None:
    strategies = {"zero_shot": []}
    start(strategies, timing={"examples": 0})
    first = len(asked)
    asked.clear()
    template = (shipped("configs/prompts") / "answer.yaml").read_text()
    (tmp_path / "other.yaml").write_text(template.replace("capitalize", "upper"))
    values: dict[str, Any] = {
        "template": str(tmp_path / "other.yaml"),
        "dtype": "float32",
        "decoding": {"max_new_tokens": 2},
        "chunk_examples": 12,
        "batch_tokens": 512,
    }
    start(strategies, out="second", **{"timing": {"examples": 0}, change: values[change]})
    assert len(asked) == (2 if change == "chunk_examples" else first) == len(set(range(len(asked))))


@pytest.mark.parametrize("changed", ["code", "a library"])
def test_what_another_version_computed_is_not_believed(
    start: Start, tmp_path: Path, asked: Calls, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    start(TWO, timing={"examples": 0})
    first = list(asked)
    asked.clear()
    start(TWO, timing={"examples": 0})
    start(TWO, out="second", timing={"examples": 0})
    assert asked == []
    if changed == "code":
        monkeypatch.setattr("toolkit.runs.environment.code_digest", lambda: "0" * 16)
    else:
        real = importlib.metadata.version
        monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.1" if name == "tokenizers" else real(name))
    start(TWO, store="empty", timing={"examples": 0})
    assert asked == first, "what stands in the run's folder was believed"
    start(TWO, out="third", timing={"examples": 0})
    assert asked == first * 2, "what stands in the Store was believed"
    start(TWO, timing={"examples": 0})
    assert asked == first * 2


@pytest.mark.parametrize("change", [{"alpha": 0.1}, {"description": "said otherwise"}, {"metrics": ["token_f1"]}])
def test_a_change_of_how_results_are_read_computes_nothing(start: Start, asked: Calls, change: dict[str, Any]) -> None:
    start(TWO, timing={"examples": 0})
    asked.clear()
    start(TWO, out="second", timing={"examples": 0}, **change)
    assert asked == []


def test_a_changed_test_example_answers_its_chunk_again_and_a_changed_train_example_what_saw_it(
    start: Start, world: Any, tmp_path: Path, asked: Calls
) -> None:
    task = shutil.copytree(world.text_task, tmp_path / "task")
    start(TWO, timing={"examples": 0}, task=str(task))
    asked.clear()
    test = (task / "test.jsonl").read_text()
    (task / "test.jsonl").write_text(test.replace("what colour is gate number 4", "which colour has gate number 4"))
    start(TWO, out="second", timing={"examples": 0}, task=str(task))
    assert asked == [("generate", 8)] * 2
    asked.clear()
    train = (task / "train.jsonl").read_text()
    (task / "train.jsonl").write_text(train.replace("who sold the", "who bought the"))
    start(TWO, out="third", timing={"examples": 0}, task=str(task))
    assert asked == [("generate", 8)] * 3  # few_shot's; zero_shot has not seen train


def test_a_run_says_that_a_learning_rate_is_one_of_full_fine_tuning(start: Start) -> None:
    said: list[str] = []

    def noted(name: str, fields: Mapping[str, Any]) -> None:
        if name == "notice":
            said.append(fields["text"])

    tune = {"rank": 2, "max_steps": 1, "learning_rate": 1e-5}
    start({"zero_shot": [], "lora": [{"tune": tune}]}, listener=noted)
    assert any("looks like a learning rate of full fine-tuning" in text for text in said)
