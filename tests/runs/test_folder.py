"""What a run leaves behind: the files and keys that are promised, no clocks, and a folder that can be opened again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from toolkit.errors import DataError, OverLengthError, RunError
from toolkit.inference import load_model
from toolkit.json_lines import append_line, read_lines
from toolkit.recipe import load_recipe
from toolkit.rendering import Draft, Template
from toolkit.runs.export import tuned_weights
from toolkit.runs.reopen import FinishedRun, reopen
from toolkit.runs.run import RunResult, run
from toolkit.strategies.system import Conditions, System
from toolkit.strategies.tune import TuneAdapter
from toolkit.tasks.contract import target_text
from toolkit.tasks.load import load_task

Start = Callable[..., Any]
SEEDLESS = ("zero_shot", "rag", "oracle")
SEEDED = ("few_shot", "lora", "lora_rag")


@pytest.fixture(scope="module")
def finished(world: Any, all_strategies: Any, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    """A run of all strategies in fp32, chunks of one: an answer does not depend on what is asked beside it."""
    folder = tmp_path_factory.mktemp("finished")
    recipe = world.recipe(
        folder / "recipe.yaml",
        all_strategies,
        dtype="float32",
        chunk_examples=1,
        contrasts=[{"a": "lora_rag", "b": "rag"}],
        timing={"examples": 20},
    )
    return run(recipe, out=folder / "run", store=folder / "store")


@pytest.fixture
def opened(finished: RunResult) -> FinishedRun:
    return reopen(finished.folder)


def outputs_of(root: Path, strategy: str) -> list[dict[str, Any]]:
    (path,) = (root / "outputs" / strategy).iterdir()
    return [json.loads(line)["output"] for line in path.read_bytes().splitlines()]


def keys_in(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from keys_in(item)


# ---------------------------------------------------------------------------------------------- files and keys


def test_the_promised_files_are_there_and_nothing_half_written(finished: RunResult) -> None:
    names = {path.relative_to(finished.folder).as_posix() for path in finished.folder.rglob("*") if path.is_file()}
    tables = ("scores.parquet", "usage.parquet", "comparison.json", "ledger.json", "report.html", "report.md")
    logs = ("recipe.yaml", "manifest.json", "events.jsonl", "timings.jsonl")
    outputs = [
        *(f"outputs/{name}/seed-none.jsonl" for name in SEEDLESS),
        *(f"outputs/{name}/seed-0.jsonl" for name in SEEDED),
    ]
    systems = [
        "systems/few_shot/seed-0/1-prompt/demonstrations.json",
        "systems/lora/seed-0/1-tune/adapter_config.json",
        "systems/lora/seed-0/1-tune/adapter_model.safetensors",
        "systems/lora_rag/seed-0/2-tune/adapter_model.safetensors",
        "systems/rag/seed-none/1-retrieve/index.faiss",
        "systems/rag/seed-none/1-retrieve/manifest.json",
    ]
    assert {*tables, *logs, *outputs, *systems} <= names
    assert {path.name for path in finished.folder.iterdir() if path.is_dir()} == {"outputs", "systems"}
    ours = {".lock", ".recipe-digest", ".recipe-source"}
    assert {name for name in names if any(part.startswith(".") for part in name.split("/"))} == ours
    assert {path.name for path in (finished.folder / "systems").glob("*/*/.*")} == set()


def test_the_adapter_is_read_by_peft(finished: RunResult, world: Any) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(world.model, dtype=torch.float32)
    ids = torch.tensor([outputs_of(finished.folder, "lora")[0]["prompt_token_ids"]])
    with torch.no_grad():
        before = base(ids).logits
        adapted = PeftModel.from_pretrained(base, finished.folder / "systems/lora/seed-0/1-tune")
        assert not torch.equal(adapted(ids).logits, before)


def test_the_comparison_has_the_promised_keys(finished: RunResult) -> None:
    comparison = json.loads((finished.folder / "comparison.json").read_text())
    assert comparison == json.loads(json.dumps(finished.comparison))
    assert list(comparison["strategies"]) == ["zero_shot", "few_shot", "rag", "lora", "lora_rag", "oracle"]
    for figures in comparison["strategies"].values():
        assert figures["n"] == comparison["n"] == 24
        assert figures["metric"] == comparison["metric"]
        low, high = figures["interval"]
        assert 0 <= low <= figures["score"] <= high <= 1
    pairs = [(contrast["a"], contrast["b"]) for contrast in comparison["contrasts"]]
    candidates = ("few_shot", "rag", "lora", "lora_rag")
    assert pairs == [*((name, "zero_shot") for name in candidates), ("lora_rag", "rag")]
    for contrast in comparison["contrasts"]:
        promised = {"difference", "interval", "p_value", "p_holm", "verdict", "resolvable_difference"}
        assert promised <= set(contrast)
        assert contrast["verdict"] in ("BETTER", "WORSE", "UNRESOLVED")
        assert contrast["p_value"] <= contrast["p_holm"] <= 1
        scores = [comparison["strategies"][contrast[side]]["score"] for side in "ab"]
        assert contrast["difference"] == pytest.approx(scores[0] - scores[1])
    assert comparison["smoke"] is False
    assert comparison["strategies"]["oracle"]["control"] is True
    assert comparison["claim"].startswith("artefact")


def test_the_recipe_kept_is_the_whole_recipe(finished: RunResult) -> None:
    kept = load_recipe(finished.folder / "recipe.yaml")
    assert kept.digest == finished.comparison["recipe_digest"]
    assert (kept.dtype, kept.chunk_examples, kept.baseline) == ("float32", 1, "zero_shot")


def test_the_manifest_says_what_the_run_was_made_of(finished: RunResult, world: Any) -> None:
    manifest = json.loads((finished.folder / "manifest.json").read_text())
    task = load_task(world.text_task)
    assert manifest["task"]["digest"] == task.digest
    assert manifest["task"]["sizes"] == {"train": 32, "validation": 8, "test": 24}
    assert manifest["environment"]["dtype"] == "float32"
    assert {"torch", "transformers", "peft", "faiss-cpu", "threads"} <= set(manifest["environment"])
    assert manifest["strategies"]["rag"]["seeds"] == [None]
    assert manifest["strategies"]["lora"]["seeds"] == [0]


def test_no_clock_is_in_what_must_be_reproduced(finished: RunResult) -> None:
    records = [
        json.loads((finished.folder / "comparison.json").read_text()),
        json.loads((finished.folder / "manifest.json").read_text()),
        *(output for name in (*SEEDLESS, *SEEDED) for output in outputs_of(finished.folder, name)),
    ]
    found = {key for record in records for key in keys_in(record)}
    clocks = {"second", "seconds", "time", "times", "date", "dates", "clock"}
    assert {key for key in found if clocks & set(key.split("_"))} == set()
    import pyarrow.parquet as pq

    for name in ("scores.parquet", "usage.parquet"):
        schema = pq.read_schema(finished.folder / name)
        assert not [column for column in schema.names if "second" in column or "time" in column]


def test_the_ledger_tells_fixed_from_per_query_costs(finished: RunResult) -> None:
    ledger = json.loads((finished.folder / "ledger.json").read_text())
    assert ledger["peak_memory_bytes"] > 10**8
    assert {"load", "index", "train", "answer", "latency"} <= set(ledger["stages_seconds"])
    lora, rag, zero = (ledger["strategies"][name] for name in ("lora", "rag", "zero_shot"))
    adapter = finished.folder / "systems/lora/seed-0/1-tune/adapter_model.safetensors"
    assert lora["fixed"]["adapter_bytes"] == adapter.stat().st_size
    assert rag["fixed"]["index_bytes"] > 0
    assert zero["fixed"]["adapter_bytes"] is zero["fixed"]["index_bytes"] is None
    assert zero["per_query"]["prompt_tokens"]["passages"] == 0 < rag["per_query"]["prompt_tokens"]["passages"]
    latency = zero["per_query"]["latency_seconds"]
    assert latency["n"] == 20
    assert 0 < latency["p50"] <= latency["p95"]
    assert ledger["strategies"]["oracle"]["per_query"]["latency_seconds"] is None


def test_what_was_sent_is_what_the_renderer_gives_today(finished: RunResult, world: Any) -> None:
    task, model = load_task(world.text_task), load_model(str(world.model), "float32")
    conditions = Conditions(Template.load("answer"), task.contract, "generation")
    plain = outputs_of(finished.folder, "zero_shot")
    assert [output["example_id"] for output in plain] == [example.id for example in task.test]
    for example, output in zip(task.test, plain, strict=True):
        prompt = model.renderer.prompt(Draft(example.unlabelled(), conditions.template, task.contract))
        assert output["prompt_token_ids"] == list(prompt.token_ids or ())
        assert output["prompt_digest"] == prompt.digest


# ---------------------------------------------------------------------------------------------- opened again


def test_a_reopened_run_answers_an_input_as_the_run_did(opened: FinishedRun, finished: RunResult) -> None:
    asked = {example.id: dict(example.inputs) for example in opened.prepared.task.test}
    for name in ("zero_shot", "few_shot", "rag", "lora", "lora_rag"):
        for recorded in outputs_of(finished.folder, name)[:6]:
            (output,) = opened.predict(name, [asked[recorded["example_id"]]])
            for key in ("prompt_token_ids", "token_ids"):
                assert list(getattr(output, key)) == recorded[key]
            assert (output.status, output.answer, output.text) == tuple(
                recorded[k] for k in ("status", "answer", "text")
            )
            assert output.confidence == recorded["confidence"]


def test_a_reopened_run_fits_nothing(finished: RunResult) -> None:
    seen: list[str] = []
    again = reopen(finished.folder, listener=lambda name, fields: seen.append(name))
    for name in ("zero_shot", "rag", *SEEDED):
        again.system(name)
    assert {"fit", "train", "index", "drafts"}.isdisjoint(seen)
    assert isinstance(again.system("oracle"), System)
    assert {"fit", "train", "drafts"}.isdisjoint(seen)  # a control's index comes from the Store, here another one


def test_a_new_input_is_answered_and_a_wrong_one_refused(opened: FinishedRun) -> None:
    outputs = opened.predict("rag", [opened.text_input("what colour is the new lamp"), {"question": ""}])
    assert [len(output.retrieved) for output in outputs] == [2, 2]
    with pytest.raises(DataError, match=r"input 1 has query; expected: question"):
        opened.predict("rag", [{"query": "?"}])
    with pytest.raises(RunError, match=r"no strategy 'rga' \(did you mean 'rag'\?\); it has: zero_shot"):
        opened.predict("rga", [{"question": "?"}])


def test_show_gives_the_sent_text_and_the_supervised_tokens(opened: FinishedRun, finished: RunResult) -> None:
    task, model = opened.prepared.task, opened.prepared.benches["lora"].model
    example = next(item for item in task.test if item.targets)
    shown = {item.strategy: item for item in opened.show(example.id)}
    assert list(shown) == ["zero_shot", "few_shot", "rag", "lora", "lora_rag", "oracle"]
    for item in shown.values():
        assert item.sent.startswith("<|im_start|>system\n")
        assert item.sent.endswith("<|im_start|>assistant\n")
        assert f"Question: {example.inputs['question']}<|im_end|>" in item.sent
        assert item.sent.count("Passage ") == len([p for p in item.output.retrieved if p.used])
    assert [name for name, item in shown.items() if item.trained is not None] == ["lora", "lora_rag"]
    for name in ("lora", "lora_rag"):
        trained = shown[name].trained
        assert trained is not None
        prompt = shown[name].output.prompt_token_ids
        assert prompt is not None
        assert trained.token_ids[: len(prompt)] == prompt
        assert trained.supervised == (False,) * len(prompt) + (True,) * (len(trained.token_ids) - len(prompt))
        taught = [token for token, learnt in zip(trained.token_ids, trained.supervised, strict=True) if learnt]
        assert model.renderer.text(taught) == target_text(task.contract, example)
        assert taught[-len(model.renderer.stop) :] == list(model.renderer.stop)
    with pytest.raises(DataError, match=f"did you mean '{example.id}'"):
        opened.show(example.id + "0")


def test_rows_of_train_that_are_too_long_are_not_shown_as_learnt(
    opened: FinishedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = opened.prepared.task.train[:2]
    fitted = System.fitted

    def short_of_room(self: System, draft: Draft) -> Draft:
        if draft.example.id == first.id:
            raise OverLengthError("too long")
        return fitted(self, draft)

    monkeypatch.setattr(System, "fitted", short_of_room)
    shown = [(item.strategy, item.name, item.sequence is None) for item in opened.training(2)]
    assert shown == [(name, row.id, row is first) for name in ("lora", "lora_rag") for row in (first, second)]


def test_a_run_without_tuned_strategies_shows_no_training(opened: FinishedRun) -> None:
    recipe = opened.prepared.recipe
    untuned = replace(opened.prepared, recipe=replace(recipe, strategies=recipe.strategies[:3]))
    with pytest.raises(DataError, match=r"no strategy of .* is tuned"):
        FinishedRun(opened.folder, untuned).training(1)


def test_weights_that_learnt_no_answers_show_none(opened: FinishedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    example = opened.prepared.task.test[0].id
    assert {item.strategy for item in opened.show(example) if item.trained is not None} == {"lora", "lora_rag"}
    monkeypatch.setattr(TuneAdapter, "learns_answers", False)
    assert {item.trained for item in opened.show(example)} == {None}
    with pytest.raises(DataError, match="is tuned: none learnt"):
        opened.training(1)


def test_a_folder_without_a_run_is_not_opened(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"holds no run: `recipe.yaml` is missing"):
        reopen(tmp_path)


def test_a_moved_run_folder_is_opened(finished: RunResult, tmp_path: Path) -> None:
    moved = reopen(Path(shutil.copytree(finished.folder, tmp_path / "moved")))
    assert isinstance(moved.system("lora"), System)
    assert moved.system("lora").weights is not None


def test_results_of_other_data_do_not_stand_beside_what_is_fitted_anew(
    start: Start, world: Any, all_strategies: Any, tmp_path: Path
) -> None:
    """The recipe is the same, its data are not, and the second run is interrupted: the first one's scores are gone."""
    data = Path(shutil.copytree(world.text_task, tmp_path / "data"))
    strategies = {name: all_strategies[name] for name in ("zero_shot", "lora")}
    folder = start(strategies, task=str(data)).folder
    finished = reopen(folder)
    rows = (data / "train.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (data / "train.jsonl").write_text("".join(rows[::-1]), encoding="utf-8")
    with pytest.raises(
        RunError, match=r"the task of 'store-room' is no longer that of the run in .*run the recipe again"
    ):
        reopen(folder)
    for name in ("comparison.json", "report.html"):
        assert (folder / name).is_file()

    def interrupt(name: str, fields: Any) -> None:
        if name == "train":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        start(strategies, task=str(data), listener=interrupt)
    left = {path.name for path in folder.iterdir()}
    assert not left & {"comparison.json", "ledger.json", "scores.parquet", "usage.parquet", "report.html", "report.md"}
    with pytest.raises(RunError, match="is not finished"):
        tuned_weights(folder, "lora")
    with pytest.raises(RunError, match="is not finished"):
        reopen(folder)
    start(strategies, task=str(data))
    assert reopen(folder).show(finished.prepared.task.test[0].id)
    test = (data / "test.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (data / "test.jsonl").write_text("".join(test[1:]), encoding="utf-8")
    with pytest.raises(RunError, match="the test split of"):
        reopen(folder).show(finished.prepared.task.test[0].id)


def test_a_changed_corpus_is_other_data(start: Start, world: Any, all_strategies: Any, tmp_path: Path) -> None:
    data = Path(shutil.copytree(world.text_task, tmp_path / "data"))
    folder = start({"zero_shot": [], "rag": all_strategies["rag"]}, task=str(data)).folder
    document = next(path for path in sorted((data / "corpus").rglob("*")) if path.is_file())
    document.write_text(document.read_text(encoding="utf-8") + " More is said now.", encoding="utf-8")

    def interrupt(name: str, fields: Any) -> None:
        if name == "chunk":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        start({"zero_shot": [], "rag": all_strategies["rag"]}, task=str(data), listener=interrupt)
    assert not (folder / "comparison.json").exists()


def test_a_contrast_that_cannot_be_measured_is_refused_and_the_others_stand(start: Start, all_strategies: Any) -> None:
    """Half-way through, a run must not end without its report for one question that has no answer."""
    strategies = {"zero_shot": [], "few_shot": all_strategies["few_shot"], "rag": all_strategies["rag"]}
    asked = [{"a": "rag", "b": "few_shot", "metric": "recall_at_k"}]
    result = start(strategies, contrasts=asked, timing={"examples": 0})
    *others, refused = result.comparison["contrasts"]
    assert "has no scores of metric 'recall_at_k'" in refused["refused"]
    assert [one["refused"] for one in others] == [None, None]
    assert "Refused, and so without a verdict: rag – few" in (result.folder / "report.md").read_text(encoding="utf-8")


def test_a_run_is_not_opened_on_other_weights(start: Start, world: Any, tmp_path: Path) -> None:
    model = Path(shutil.copytree(world.model, tmp_path / "model"))
    folder = start({"zero_shot": []}, model=str(model)).folder
    tensors = load_file(model / "model.safetensors")
    first = next(iter(tensors))
    save_file({**tensors, first: tensors[first] + 1}, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        RunError, match=r"the model 'model' is no longer that of the run in .* \(\w{12} and not \w{12}\)"
    ):
        reopen(folder)


def test_the_peak_memory_is_that_of_every_process_that_worked_on_a_run(start: Start) -> None:
    folder = start({"zero_shot": []}).folder
    append_line(folder / "timings.jsonl", {"stage": "train", "seconds": 1.0, "peak_memory_bytes": 1 << 50})
    assert start({"zero_shot": []}).ledger["peak_memory_bytes"] == 1 << 50
    assert start({"zero_shot": []}, fresh=True).ledger["peak_memory_bytes"] < 1 << 50


# ---------------------------------------------------------------------------------------------- seeds and limits


def test_seeded_strategies_run_once_a_seed_and_others_once(start: Start, all_strategies: Any, tmp_path: Path) -> None:
    strategies = {name: all_strategies[name] for name in ("zero_shot", "few_shot", "rag", "lora")}
    result = start(strategies, overrides=["seeds=[0,1]"], timing={"examples": 1})
    made = sorted(
        path.relative_to(tmp_path / "run/outputs").as_posix() for path in (tmp_path / "run").rglob("seed-*.jsonl")
    )
    assert made == [
        "few_shot/seed-0.jsonl",
        "few_shot/seed-1.jsonl",
        "lora/seed-0.jsonl",
        "lora/seed-1.jsonl",
        "rag/seed-none.jsonl",
        "zero_shot/seed-none.jsonl",
    ]
    for name in ("few_shot/seed-{}/1-prompt/demonstrations.json", "lora/seed-{}/1-tune/adapter_model.safetensors"):
        one, other = ((tmp_path / "run/systems" / name.format(seed)).read_bytes() for seed in (0, 1))
        assert one != other
    seeds = {name: figures["seeds"] for name, figures in result.comparison["strategies"].items()}
    assert seeds == {"zero_shot": [None], "few_shot": [0, 1], "rag": [None], "lora": [0, 1]}
    assert {figures["n"] for figures in result.comparison["strategies"].values()} == {24}
    assert "the mean of 2 fitted systems" in result.comparison["claim"]


def test_a_smoke_run_is_marked_and_gives_no_verdict(start: Start, all_strategies: Any, tmp_path: Path) -> None:
    strategies = {name: all_strategies[name] for name in ("zero_shot", "few_shot")}
    result = start(strategies, overrides=["limit=6"], timing={"examples": 2})
    assert result.comparison["smoke"] is True
    assert result.comparison["n"] == 6
    assert [contrast["verdict"] for contrast in result.comparison["contrasts"]] == ["SMOKE"]
    assert any(note.startswith("SMOKE") for note in result.comparison["notes"])
    assert "SMOKE" in (tmp_path / "run/report.md").read_text()
    chosen = [output["example_id"] for output in outputs_of(tmp_path / "run", "zero_shot")]
    everything = [example.id for example in reopen(tmp_path / "run").prepared.task.test]
    assert chosen == [name for name in everything if name in chosen]
    assert chosen != everything[:6]
    assert len(set(chosen)) == 6


def test_test_set_scorings_are_counted_by_recipe_and_printed(start: Start, all_strategies: Any) -> None:
    one, two = {"zero_shot": []}, {"zero_shot": [], "few_shot": all_strategies["few_shot"]}
    words: dict[str, Any] = {"timing": {"examples": 0}}
    assert start(one, **words).comparison["test_scorings"] == 1
    assert start(two, out="second", **words).comparison["test_scorings"] == 2
    again = start(one, out="third", **words)
    assert again.comparison["test_scorings"] == 2
    assert again.comparison["notes"][0] == "The test set has been scored by 2 different recipes here."


# ---------------------------------------------------------------------------------------------- lines


def test_lines_are_read_whatever_characters_they_hold_and_torn_ones_left_out(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "lines.jsonl"
    said = ["plain", "line\u2028separator", "next\x85line", "new\nline", "\x1c"]
    for text in said:
        append_line(path, {"text": text})
    with path.open("ab") as file:
        file.write(b'{"text": "tor')
    append_line(path, {"text": "after"})
    assert [record["text"] for record in read_lines(path)] == [*said, "after"]
    assert read_lines(tmp_path / "absent.jsonl") == []
