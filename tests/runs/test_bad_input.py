"""Bad input: one message a person can act on, nothing already computed lost; and odd input that must simply work."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest

from toolkit.errors import DataError, FairnessError, ModelError, OverLengthError, RecipeError, RunError, ToolkitError
from toolkit.inference import LocalModel, load_model
from toolkit.inference.families import PROVEN_FAMILIES
from toolkit.rendering import Renderer, TrainingSequence
from toolkit.runs import chunks
from toolkit.runs.run import run

Start = Callable[..., Any]
Calls = list[tuple[str, int]]
ZERO: dict[str, Any] = {"zero_shot": []}
TWO: dict[str, Any] = {"zero_shot": [], "few_shot": [{"prompt": {"shots": 2}}]}
UNTIMED = {"timing": {"examples": 0}}


@pytest.fixture(autouse=True)
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing is slow and none of this is about it."""
    monkeypatch.setattr("toolkit.report.write_report", lambda root: None)


def refusal(kind: type[ToolkitError], call: Callable[[], Any]) -> str:
    """The message of the error a call ends with."""
    with pytest.raises(ToolkitError) as caught:
        call()
    assert type(caught.value) is kind
    message = str(caught.value)
    assert message
    assert "Traceback" not in message
    assert "pydantic" not in message
    return message


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def text_task(world: Any, tmp_path: Path) -> Path:
    """A copy of the text task to spoil."""
    return Path(shutil.copytree(world.text_task, tmp_path / "text-task"))


@pytest.fixture
def choice_task(world: Any, tmp_path: Path) -> Path:
    return Path(shutil.copytree(world.choice_task, tmp_path / "choice-task"))


# ---------------------------------------------------------------------------------------------- recipes


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"decodings": {}}, ["recipe.yaml:8", "decodings", "did you mean 'decoding'"]),
        ({"seeds": "zero"}, ["recipe.yaml:8", "seeds", "must be a list", "zero"]),
        ({"chunk_examples": 0}, ["recipe.yaml:6", "chunk_examples", "at least 1", "0"]),
        ({"decoding": {"max_new_tokens": "many"}}, ["recipe.yaml:5", "max_new_tokens", "whole number", "many"]),
        ({"baseline": "zero_shots"}, ["recipe.yaml:8", "baseline", "did you mean 'zero_shot'"]),
        ({"dtype": "bfloat"}, ["recipe.yaml:4", "dtype", "bfloat16", "float32"]),
    ],
)
def test_a_bad_key_is_named_with_its_line_and_what_is_allowed(
    start: Start, tmp_path: Path, changes: dict[str, Any], said: list[str]
) -> None:
    message = refusal(RecipeError, lambda: start(ZERO, **changes))
    for part in said:
        assert part in message
    assert not (tmp_path / "run").exists()


def test_all_problems_of_a_recipe_are_told_at_once(start: Start) -> None:
    message = refusal(RecipeError, lambda: start(ZERO, modle="x", alpha=2, limit=0))
    assert "3 problems" in message
    assert [word in message for word in ("did you mean 'model'", "alpha", "limit")] == [True] * 3


@pytest.mark.parametrize(
    ("strategies", "said"),
    [
        ({"a": [{"retreive": {}}]}, ["strategies.a.0.retreive", "did you mean 'retrieve'", "tune"]),
        ({"a": [{"retrieve": {"topk": 3}}]}, ["strategies.a.0.retrieve.topk", "did you mean 'top_k'"]),
        ({"a": [{"tune": {"rank": 0}}]}, ["strategies.a.0.tune.rank", "at least 1"]),
    ],
)
def test_an_unknown_adapter_or_setting_names_the_nearest(
    start: Start, strategies: dict[str, Any], said: list[str]
) -> None:
    message = refusal(RecipeError, lambda: start({**ZERO, **strategies}))
    for part in ["recipe.yaml:8", *said]:
        assert part in message


@pytest.mark.parametrize(("name", "said"), [("quickstrat", "quickstart"), ("nowhere/mine.yaml", "nowhere/mine.yaml")])
def test_a_missing_recipe_is_told(tmp_path: Path, name: str, said: str) -> None:
    message = refusal(RecipeError, lambda: run(name, out=tmp_path / "run"))
    assert said in message
    assert not (tmp_path / "run").exists()


def test_an_unknown_model_names_the_nearest(start: Start) -> None:
    message = refusal(ModelError, lambda: start(ZERO, model="smollm2-135m-instruct-q5"))
    assert "smollm2-135m-instruct-q5" in message
    assert "did you mean 'smollm2-135m-instruct-q4'" in message


def test_an_unknown_embedder_is_told_before_anything_is_computed(start: Start, asked: Calls) -> None:
    strategies = {**ZERO, "rag": [{"retrieve": {}}]}
    message = refusal(ModelError, lambda: start(strategies, embedder="all-minilm-l6-v3"))
    assert "did you mean 'all-minilm-l6-v2'" in message
    assert asked == []


@pytest.mark.parametrize("adapter", ["retrieve", "oracle", {"prompt": {"shots": 2, "select": "nearest"}}])
def test_a_missing_embedder_is_told_before_anything_is_computed(start: Start, asked: Calls, adapter: Any) -> None:
    message = refusal(RecipeError, lambda: start({**ZERO, "rag": [adapter]}, embedder=None))
    for part in ("recipe.yaml", "strategies.rag", "needs an embedder", "embedder: all-minilm-l6-v2"):
        assert part in message
    assert asked == []


def test_a_recipe_that_needs_no_embedder_names_none(start: Start) -> None:
    assert start(TWO, embedder=None, **UNTIMED).comparison["strategies"]["few_shot"]["n"] == 24


# ---------------------------------------------------------------------------------------------- tasks


def test_a_missing_task_names_the_nearest_and_what_a_task_holds(start: Start, tmp_path: Path) -> None:
    assert "did you mean 'handbook'" in refusal(DataError, lambda: start(ZERO, task="handbok"))
    (tmp_path / "empty").mkdir()
    message = refusal(DataError, lambda: start(ZERO, out="second", task=str(tmp_path / "empty")))
    for name in ("task.yaml", "train.jsonl", "validation.jsonl", "test.jsonl"):
        assert f"{name}: the file is missing" in message


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_an_empty_split_is_told(start: Start, text_task: Path, split: str) -> None:
    (text_task / f"{split}.jsonl").write_text("")
    message = refusal(DataError, lambda: start(ZERO, task=str(text_task)))
    assert f"{split}.jsonl" in message


def test_a_label_outside_the_choices_is_told_with_file_and_line(start: Start, choice_task: Path) -> None:
    rows = rows_of(choice_task / "validation.jsonl")
    rows[2]["targets"] = ["ambre"]
    write_rows(choice_task / "validation.jsonl", rows)
    message = refusal(DataError, lambda: start(ZERO, task=str(choice_task)))
    for part in ("validation.jsonl:3", "ambre", "did you mean 'amber'"):
        assert part in message


def test_an_unreadable_corpus_file_is_told_before_anything_is_computed(
    start: Start, text_task: Path, asked: Calls
) -> None:
    (text_task / "corpus" / "rope.md").write_bytes(b"# rope\n\nThe rope is \xff\xfe.\n")
    message = refusal(DataError, lambda: start({**ZERO, "rag": [{"retrieve": {}}]}, task=str(text_task)))
    for part in ("rope.md:3", "not UTF-8"):
        assert part in message
    assert asked == []


def test_retrieval_on_a_task_without_corpus_is_refused_with_its_line(start: Start, world: Any, asked: Calls) -> None:
    strategies = {**ZERO, "rag": [{"retrieve": {}}]}
    message = refusal(RecipeError, lambda: start(strategies, task=str(world.choice_task)))
    for part in ("recipe.yaml:8", "strategies.rag", "has no corpus"):
        assert part in message
    assert asked == []


@pytest.mark.parametrize(
    ("task", "shots", "said"),
    [("text_task", 4, "needs a choice task"), ("choice_task", 2, "4 labels"), ("choice_task", 24, "24 examples")],
)
def test_demonstrations_that_cannot_be_chosen_are_refused(
    start: Start, world: Any, asked: Calls, task: str, shots: int, said: str
) -> None:
    strategies = {**ZERO, "few_shot": [{"prompt": {"shots": shots, "select": "balanced"}}]}
    message = refusal(RecipeError, lambda: start(strategies, task=str(getattr(world, task))))
    assert "strategies.few_shot" in message
    assert said in message
    assert asked == []


def test_a_prompt_longer_than_the_context_is_told_before_any_model_call(
    start: Start, text_task: Path, asked: Calls
) -> None:
    rows = rows_of(text_task / "test.jsonl")
    rows[3]["inputs"] = {"question": "what colour is it " * 300}
    write_rows(text_task / "test.jsonl", rows)
    message = refusal(OverLengthError, lambda: start(TWO, task=str(text_task)))
    for part in (rows[3]["id"], "1021", "over_length: score_as_error"):
        assert part in message
    assert asked == []

    result = start(TWO, out="second", task=str(text_task), over_length="score_as_error", **UNTIMED)
    for name in TWO:
        assert result.comparison["strategies"][name]["statuses"]["error"] == 1
        assert result.comparison["strategies"][name]["n"] == 24
    outputs = [row["output"] for row in rows_of(result.folder / "outputs/zero_shot/seed-none.jsonl")]
    assert [output["example_id"] for output in outputs if output["status"] == "error"] == [rows[3]["id"]]


# ---------------------------------------------------------------------------------------------- memory and disk


def failing(error: Exception, after: int) -> Callable[[str], LocalModel]:
    """Loads the model; its generation fails once it was called so many times."""
    left = [after]

    class Failing(LocalModel):
        def generate(self, prompts: Any, sampling: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise error
            return super().generate(prompts, sampling)

    def load(name: str) -> LocalModel:
        loaded = load_model(name, "bfloat16")
        return Failing(loaded.module, loaded.renderer, loaded.name, loaded.digest, loaded.context_tokens)

    return load


def out_of_memory_errors() -> list[Exception]:
    import torch

    return [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: you tried..."),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    ]


@pytest.mark.parametrize("error", out_of_memory_errors(), ids=lambda error: type(error).__name__)
def test_out_of_memory_is_one_message_and_finished_chunks_are_kept(
    start: Start, artefacts: Any, tmp_path: Path, error: Exception
) -> None:
    start(TWO, out="whole", store="own", load=failing(error, 1000), **UNTIMED)
    message = refusal(RunError, lambda: start(TWO, load=failing(error, 4), **UNTIMED))
    for part in ("out of memory", str(tmp_path / "run"), "finished work is kept", "batch_tokens"):
        assert part in message
    assert len(rows_of(tmp_path / "run/outputs/few_shot/seed-0.jsonl")) == 8
    start(TWO, load=failing(error, 2), **UNTIMED)  # more than the two missing chunks would fail again
    assert artefacts(tmp_path / "run") == artefacts(tmp_path / "whole")


def test_an_error_that_is_not_the_machines_is_not_hidden(start: Start) -> None:
    with pytest.raises(RuntimeError, match="a defect of ours") as caught:
        start(ZERO, load=failing(RuntimeError("a defect of ours"), 0))
    assert not isinstance(caught.value, ToolkitError)


def full() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def nth_call(plain: Callable[..., Any], number: int, instead: Callable[..., Any]) -> Callable[..., Any]:
    """A function that does something else the nth time."""
    calls = [0]

    def call(*args: Any, **words: Any) -> Any:
        calls[0] += 1
        return instead(*args, **words) if calls[0] == number else plain(*args, **words)

    return call


def test_a_disk_that_fills_while_outputs_are_appended_keeps_finished_chunks(
    start: Start, artefacts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(TWO, out="whole", store="own", **UNTIMED)
    path = tmp_path / "run/outputs/few_shot/seed-0.jsonl"
    fsync, seen = os.fsync, [0]

    def half_written(descriptor: int) -> None:
        if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
            seen[0] += 1
            if seen[0] == 2:
                os.ftruncate(descriptor, path.stat().st_size - 100)
                raise full()
        fsync(descriptor)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", half_written)
        message = refusal(RunError, lambda: start(TWO, **UNTIMED))
    for part in (str(path), "No space left", "finished chunks are kept"):
        assert part in message
    assert path.read_bytes().count(b"\n") == 15
    start(TWO, **UNTIMED)
    assert artefacts(tmp_path / "run") == artefacts(tmp_path / "whole")


def half_then_full(path: Path, *args: Any, **words: Any) -> None:
    path.write_bytes(b'{"outputs":[')
    raise full()


def copied_in_part(source: Path, target: Path) -> None:
    target.mkdir(parents=True)
    raise shutil.Error([(str(source / "a"), str(target / "a"), f"[Errno 28] {os.strerror(errno.ENOSPC)}")])


def no_space(*args: Any, **words: Any) -> None:
    raise full()


FILLED = {
    "a chunk of the Store": ("toolkit.runs.chunks._write", 4, half_then_full),
    "a part copied into the run": ("shutil.copytree", 2, copied_in_part),
    "a training checkpoint": ("toolkit.tuning.checkpoint.write_tensors", 1, no_space),
    "the adapter": ("toolkit.tuning.adapter.write_atomically", 2, half_then_full),
    "the index": ("toolkit.retrieval.storage._write", 2, half_then_full),
    "the score table": ("pyarrow.parquet.write_table", 1, no_space),
    "the comparison": ("toolkit.runs.run.write_atomically", 2, no_space),
    "a note of a scoring": ("toolkit.store:Store.count_scoring", 1, no_space),
}


TUNED = ("zero_shot", "few_shot", "lora_rag")


@pytest.fixture(scope="module")
def undisturbed(
    world: Any, artefacts: Any, all_strategies: Any, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("undisturbed")
    recipe = world.recipe(folder / "recipe.yaml", {name: all_strategies[name] for name in TUNED}, **UNTIMED)
    run(recipe, out=folder / "run", store=folder / "store")
    found: dict[str, bytes] = artefacts(folder / "run")
    return found


@pytest.mark.parametrize("place", FILLED)
def test_a_full_disk_is_one_message_and_the_run_goes_on_later(
    start: Start,
    artefacts: Any,
    all_strategies: Any,
    tmp_path: Path,
    undisturbed: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    place: str,
) -> None:
    target, number, instead = FILLED[place]
    strategies = {name: all_strategies[name] for name in TUNED}
    with monkeypatch.context() as patched:
        patched.setattr(target.replace(":", "."), nth_call(resolve_name(target), number, instead))
        message = refusal(RunError, lambda: start(strategies, **UNTIMED))
    assert "no space left" in message.lower() or "no space is left" in message
    start(strategies, **UNTIMED)
    assert artefacts(tmp_path / "run") == undisturbed


def test_a_run_folder_that_cannot_be_made_is_told(start: Start, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    message = refusal(RunError, lambda: start(ZERO, out="file/run"))
    assert str(tmp_path / "file/run") in message
    assert "cannot be written" in message


def test_a_store_that_cannot_be_made_is_told(start: Start, tmp_path: Path) -> None:
    (tmp_path / "store").write_text("in the way")
    message = refusal(RunError, lambda: start(ZERO))
    assert str(tmp_path / "store") in message
    assert "cannot be written" in message


# ---------------------------------------------------------------------------------------------- odd, and works


def test_a_model_without_a_pad_token_answers_as_with_one(start: Start, world: Any, tmp_path: Path) -> None:
    model = Path(shutil.copytree(world.model, tmp_path / "padless"))
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (model / name).is_file():
            settings = json.loads((model / name).read_text())
            settings.pop("pad_token", None)
            (model / name).write_text(json.dumps(settings))
    assert load_model(str(model)).renderer.tokenizer.pad_token is None
    strategies = {**ZERO, "lora": [{"tune": {"rank": 2, "max_steps": 2, "target_modules": ["q_proj"]}}]}
    with_pad, without = start(strategies, **UNTIMED), start(strategies, out="second", model=str(model), **UNTIMED)
    for name in ("zero_shot/seed-none.jsonl", "lora/seed-0.jsonl"):
        answered = [
            [row["output"] for row in rows_of(result.folder / "outputs" / name)] for result in (with_pad, without)
        ]
        assert answered[0] == answered[1]


def test_a_corpus_of_one_document_gives_all_its_chunks_to_a_larger_top_k(start: Start, text_task: Path) -> None:
    for path in (text_task / "corpus").iterdir():
        if path.name != "lamp.md":
            path.unlink()
    (text_task / "corpus" / "lamp.md").write_text("The lamp is amber.\n")
    for split in ("train", "validation", "test"):
        path = text_task / f"{split}.jsonl"
        write_rows(path, [{**row, "spans": []} for row in rows_of(path)])
    strategies = {**ZERO, "rag": [{"retrieve": {"top_k": 50}}], "control": [{"random_passages": {"top_k": 50}}]}
    result = start(strategies, task=str(text_task), **UNTIMED)
    for name in ("rag/seed-none.jsonl", "control/seed-0.jsonl"):
        for row in rows_of(result.folder / "outputs" / name):
            assert [passage["document"] for passage in row["output"]["retrieved"]] == ["lamp"]


@pytest.mark.parametrize("question", ["zzz qqq xxx", "", "   ", "?"])
def test_a_question_that_no_passage_answers_is_answered_all_the_same(
    start: Start, text_task: Path, all_strategies: Any, question: str
) -> None:
    rows = rows_of(text_task / "test.jsonl")
    odd = next(row for row in rows if row["targets"] == [])
    odd["inputs"] = {"question": question}
    write_rows(text_task / "test.jsonl", rows)
    strategies = {name: all_strategies[name] for name in ("zero_shot", "rag", "oracle")}
    result = start(strategies, task=str(text_task), **UNTIMED)
    for name in strategies:
        outputs = {
            row["output"]["example_id"]: row["output"]
            for row in rows_of(result.folder / f"outputs/{name}/seed-none.jsonl")
        }
        assert len(outputs) == len(rows)
        assert outputs[odd["id"]]["status"] in ("answered", "abstained", "unparsable")
        assert len(outputs[odd["id"]]["retrieved"]) == (0 if name == "zero_shot" else 2)


# ---------------------------------------------------------------------------------------------- the run folder


def test_a_folder_with_another_recipes_run_is_refused_and_left_alone(
    start: Start, artefacts: Any, tmp_path: Path
) -> None:
    start(ZERO, **UNTIMED)
    before = artefacts(tmp_path / "run")
    message = refusal(RunError, lambda: start(TWO, **UNTIMED))
    for part in (str(tmp_path / "run"), "another recipe", "--out", "--replace"):
        assert part in message
    assert artefacts(tmp_path / "run") == before


def test_a_folder_that_a_refused_recipe_claimed_is_free(start: Start, tmp_path: Path) -> None:
    unequal = {"zero_shot": [], "longer": [{"decoding": {"max_new_tokens": 9}}]}
    contrasts = [{"a": "longer", "b": "zero_shot"}]
    refusal(FairnessError, lambda: start(unequal, contrasts=contrasts, **UNTIMED))
    assert (tmp_path / "run" / "timings.jsonl").is_file()
    start(TWO, **UNTIMED)
    assert list(tmp_path.glob("run.replaced-*")) == []


def test_replace_moves_the_other_run_aside_whole_and_uses_its_results(
    start: Start, artefacts: Any, tmp_path: Path, asked: Calls
) -> None:
    start(ZERO, **UNTIMED)
    first = artefacts(tmp_path / "run")
    asked.clear()
    start(TWO, replace=True, **UNTIMED)
    assert asked == [("generate", 8)] * 3  # few_shot's only
    second = artefacts(tmp_path / "run")
    start(ZERO, replace=True, **UNTIMED)
    start(TWO, replace=True, **UNTIMED)
    aside = sorted(tmp_path.glob("run.replaced-*"))
    assert sorted(len(artefacts(folder)) for folder in aside) == sorted([len(first), len(second), len(first)])
    assert [artefacts(folder)["outputs/zero_shot/seed-none.jsonl"] for folder in aside] == [
        first["outputs/zero_shot/seed-none.jsonl"]
    ] * 3
    assert all((folder / "recipe.yaml").is_file() for folder in aside)


def test_replace_on_the_same_recipe_goes_on_with_it(start: Start, tmp_path: Path, asked: Calls) -> None:
    start(ZERO, **UNTIMED)
    asked.clear()
    start(ZERO, replace=True, **UNTIMED)
    assert asked == []
    assert list(tmp_path.glob("run.replaced-*")) == []


@pytest.mark.parametrize("name", ["notes.txt", "recipe.yaml"])
@pytest.mark.parametrize("replace", [False, True])
def test_a_folder_with_strangers_files_is_refused_and_left_alone(
    start: Start, tmp_path: Path, name: str, replace: bool
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).write_text("mine")
    message = refusal(RunError, lambda: start(ZERO, replace=replace))
    for part in (str(tmp_path / "run"), "holds no run", name):
        assert part in message
    assert (tmp_path / "run" / name).read_text() == "mine"


def test_a_claim_that_was_killed_does_not_block_the_folder(start: Start, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".recipe-digest-k3x8").write_text("half")
    assert start(ZERO, **UNTIMED).comparison["n"] == 24


def test_a_second_process_in_the_folder_is_refused(start: Start, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    code = (
        "import sys; from filelock import FileLock; lock = FileLock(sys.argv[1]); lock.acquire(); "
        "print('held', flush=True); input()"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "run" / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        message = refusal(RunError, lambda: start(ZERO))
        other.communicate("done\n")
    for part in ("another process is running", str(tmp_path / "run"), "--out"):
        assert part in message
    assert start(ZERO, **UNTIMED).comparison["n"] == 24


def test_the_lock_is_free_after_an_error(start: Start, tmp_path: Path) -> None:
    refusal(ModelError, lambda: start(ZERO, model="smollm"))
    message = refusal(ModelError, lambda: start(ZERO, model="smollm"))
    assert "another process" not in message


def test_chunks_finished_before_a_bad_strategy_are_kept(
    start: Start, monkeypatch: pytest.MonkeyPatch, asked: Calls
) -> None:
    with monkeypatch.context() as patched:
        plain = chunks.chunk_key

        def refuses(system: Any, chunk: Any) -> str:
            if system.strategy.name == "few_shot":
                raise DataError("row 3 is no good")
            return plain(system, chunk)

        patched.setattr(chunks, "chunk_key", refuses)
        assert refusal(DataError, lambda: start(TWO, **UNTIMED)) == "row 3 is no good"
    assert asked == [("generate", 8)] * 3
    start(TWO, **UNTIMED)
    assert asked == [("generate", 8)] * 6


# ---------------------------------------------------------------------------------------------- lessons


def test_rows_that_cannot_be_trained_on_are_told_before_anything_is_answered(
    start: Start, asked: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = Renderer.training_sequence

    def without_stop(self: Renderer, draft: Any, answer: str) -> TrainingSequence:
        found = sound(self, draft, answer)
        return TrainingSequence(found.token_ids[:-1], found.supervised[:-1])

    monkeypatch.setattr(Renderer, "training_sequence", without_stop)
    with pytest.raises(DataError, match=r"example '.*do not end with the stop token"):
        start({"zero_shot": [], "lora": [{"tune": {"rank": 2}}]}, **UNTIMED)
    assert asked == []


# ---------------------------------------------------------------------------------------------- slow models


def test_a_model_that_takes_the_plain_path_is_told_with_the_reason(
    start: Start, make_module: Callable[..., Any], renderer: Renderer, tmp_path: Path
) -> None:
    model = LocalModel(make_module("gpt_neox"), renderer, "neox", "digest", 512)
    start(TWO, load=lambda name: model, **UNTIMED)
    events = rows_of(tmp_path / "run" / "events.jsonl")
    said = [event["text"] for event in events if event["event"] == "notice" and "'neox'" in event["text"]]
    assert said == [
        "'neox' answers row by row, several times slower and with the same numbers: the family 'gpt_neox' is not among "
        + ", ".join(sorted(PROVEN_FAMILIES))
    ]
