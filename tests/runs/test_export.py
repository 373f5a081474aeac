"""`toolkit export` of a real run on a tiny model: what is handed over loads, answers alike and names no place."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from typer.testing import CliRunner

from toolkit.cli import app
from toolkit.errors import ModelError, RunError
from toolkit.inference import LocalModel
from toolkit.models import load_pretrained
from toolkit.models.adapter_files import CONFIG, TENSORS
from toolkit.runs.export import appearing, tuned_weights, write_adapter, write_merged
from toolkit.runs.reopen import reopen
from toolkit.runs.run import run
from toolkit.strategies.system import System

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SNIPPET = re.compile(r"```python\n(.*?)```", re.DOTALL)
QUESTION = "what colour is lamp number 1"


@pytest.fixture(scope="module")
def finished(
    world: Any, all_strategies: Any, save_adapter: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A whole run in fp32 with two seeds and an adapter from elsewhere; it learns enough to answer otherwise."""
    folder = tmp_path_factory.mktemp("handed")
    save_adapter(load_pretrained(world.model, "float32", "cpu").module, folder / "mine")
    trained = {"tune": {**all_strategies["lora"][0]["tune"], "learning_rate": 0.05, "epochs": 3}}
    strategies = {
        "zero_shot": [],
        "lora": [trained],
        "lora_rag": [*all_strategies["rag"], trained],
        "mine": [{"adapter": {"path": "mine"}}],
        "full": [{"tune": {"method": "full", "learning_rate": 0.01, "epochs": 1}}],
    }
    recipe = world.recipe(folder / "recipe.yaml", strategies, dtype="float32", seeds=[3, 1])
    return run(recipe, out=folder / "run", store=folder / "store").folder


@pytest.fixture
def export(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """The command, in an empty working directory; a defect raises here."""
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments: str, code: int = 0) -> Any:
        result = CliRunner().invoke(app, ["export", str(finished), *arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.output
        return result

    return invoke


def answers(
    folder: Path, finished: Path, strategy: str, dtype: str = "float32"
) -> tuple[list[Any], list[Any], list[Any]]:
    """Texts of the test set by an exported model, by the run's own merged view, and by the base."""
    opened = reopen(finished)
    system, base = opened.system(strategy), opened.prepared.benches[strategy].model
    view = System(system.strategy, system.parts, base, system.conditions, merged=True)
    whole = LocalModel.of(load_pretrained(folder, dtype, "cpu"))
    handed = System(replace(system.strategy, adapters=()), (), whole, system.conditions)
    plain = System(replace(system.strategy, adapters=()), (), base, system.conditions)
    return tuple([one.token_ids for one in each.answer(opened.prepared.task.test)] for each in (handed, view, plain))  # type: ignore[return-value]


@pytest.mark.parametrize("strategy", ["lora", "mine"])
def test_a_merged_model_answers_like_the_merged_view(
    export: Callable[..., Any], finished: Path, tmp_path: Path, strategy: str
) -> None:
    said = export(strategy, "--merged", "--out", "whole").stdout
    handed, view, plain = answers(tmp_path / "whole", finished, strategy)
    assert handed == view
    assert handed != plain
    assert re.search(r"merged into float32, \d+ kB; `--dtype bfloat16` takes half of that", said)
    merge = json.loads(next((finished / "systems" / strategy).glob("*/merge.json")).read_text())
    assert f"Merging changed {merge['changed']} of 8 validation answers, measured in float32." in said


def test_in_bfloat16_too_it_answers_like_the_merged_view(
    start: Callable[..., Any], all_strategies: Any, tmp_path: Path
) -> None:
    trained = {"tune": {**all_strategies["lora"][0]["tune"], "learning_rate": 0.05}}
    folder = start({"zero_shot": [], "lora": [trained]}).folder
    tuned = tuned_weights(folder, "lora")
    with appearing(tmp_path / "whole") as whole:
        write_merged(tuned, whole, "bfloat16")
    handed, view, plain = answers(tmp_path / "whole", folder, "lora", "bfloat16")
    assert handed == view
    assert handed != plain


def test_an_adapter_is_its_two_files_and_a_card(export: Callable[..., Any], finished: Path, tmp_path: Path) -> None:
    said = export("lora").stdout
    folder = tmp_path / "exports" / "run-lora-seed-3"
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", CONFIG, TENSORS]
    own = finished / "systems" / "lora" / "seed-3" / "1-tune" / TENSORS
    assert (folder / TENSORS).read_bytes() == own.read_bytes()
    assert json.loads((folder / CONFIG).read_text())["base_model_name_or_path"] is None  # a folder has no such name
    assert "lora, seed 3: tune, on tiny-model" in said
    assert "it names no base" in said
    assert "folder: exports/run-lora-seed-3" in said


def test_all_weights_are_handed_over_as_a_whole_model(
    export: Callable[..., Any], finished: Path, tmp_path: Path
) -> None:
    assert "full, seed 3 has no adapter: all weights were trained; add `--merged`" in export("full", code=2).stderr
    assert not (tmp_path / "exports").exists()
    said = export("full", "--merged", "--out", "whole").stdout
    assert re.search(r"all weights, in float32, \d+ kB; `--dtype bfloat16` takes half of that", said)
    assert "Merging" not in said
    assert not list((finished / "systems" / "full").glob("*/merge.json"))
    handed, view, plain = answers(tmp_path / "whole", finished, "full")
    assert handed == view
    assert handed != plain
    card = (tmp_path / "whole" / "README.md").read_text()
    assert "All weights, trained (float32), of **tiny-model**" in card
    assert "lora" not in ModelCard(card).data.tags
    assert not re.search("LoRA|[Mm]erging", card.split("## What was not tested")[0])


def test_what_was_handed_over_is_a_strategy_of_another_recipe(
    export: Callable[..., Any], start: Callable[..., Any], finished: Path, tmp_path: Path
) -> None:
    export("lora", "--out", "handed")
    again = start({"zero_shot": [], "mine": [{"adapter": {"path": "handed"}}]}, dtype="float32", out="again").folder

    def said(path: Path) -> list[Any]:
        return [json.loads(line)["output"]["token_ids"] for line in path.read_text().splitlines()]

    assert said(again / "outputs/mine/seed-none.jsonl") == said(finished / "outputs/lora/seed-3.jsonl")


def test_another_seed_is_another_adapter(export: Callable[..., Any], tmp_path: Path) -> None:
    export("lora", "--seed", "1")
    export("lora", "--seed", "3")
    one, other = (tmp_path / "exports" / f"run-lora-seed-{seed}" / TENSORS for seed in (1, 3))
    assert one.read_bytes() != other.read_bytes()
    said = export("lora", "--seed", "1", "--merged", "--dtype", "bfloat16").stdout
    assert "What merging changes was not measured for lora, seed 1" in said
    assert "`--dtype bfloat16` takes half" not in said


@pytest.mark.parametrize("merged", [(), ("--merged",)])
@pytest.mark.parametrize("strategy", ["mine", "lora_rag"])
def test_nothing_handed_over_names_a_place_of_this_machine(
    export: Callable[..., Any], world: Any, finished: Path, tmp_path: Path, strategy: str, merged: tuple[str, ...]
) -> None:
    export(strategy, "--out", "out", *merged)
    for place in (world.root, finished.parent, tmp_path, Path.home(), Path(sys.prefix)):
        holding = [path.name for path in (tmp_path / "out").iterdir() if str(place).encode() in path.read_bytes()]
        assert holding == [], place


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
@pytest.mark.parametrize("merged", [(), ("--merged",)])
@pytest.mark.parametrize("strategy", ["lora", "mine"])
def test_the_cards_python_runs_and_answers_as_the_run_does(
    export: Callable[..., Any],
    world: Any,
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    strategy: str,
    merged: tuple[str, ...],
) -> None:
    export(strategy, "--out", "out", *merged)
    (tmp_path / "out" / "tiny-model").symlink_to(world.model)  # "the folder of the base's weights"
    monkeypatch.chdir(tmp_path / "out")
    code = python_of(tmp_path / "out")
    capsys.readouterr()
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out == f"{predicted(finished, strategy)}\n"


def python_of(folder: Path) -> str:
    """The card's Python as it stands but for the question."""
    (code,) = SNIPPET.findall((folder / "README.md").read_text(encoding="utf-8"))
    assert code.count('"your question"') == 1
    return code.replace('"your question"', json.dumps(QUESTION))


def predicted(finished: Path, strategy: str) -> str:
    opened = reopen(finished)
    (output,) = opened.predict(strategy, [opened.text_input(QUESTION)])
    return output.text


def test_a_base_of_the_hub_is_named_with_its_commit_and_loaded_by_it(
    finished: Path, world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run folder whose manifest says that the base came from the hub, and a hub's cache that holds it."""
    moved = Path(shutil.copytree(finished, tmp_path / "run"))
    manifest = json.loads((moved / "manifest.json").read_text())
    assert manifest["models"]["tiny-model"]["source"] == "folder"
    manifest["models"]["tiny-model"]["source"] = f"hub:acme/tiny@{COMMIT}"
    (moved / "manifest.json").write_text(json.dumps(manifest))
    cached = tmp_path / "hub" / "models--acme--tiny"
    shutil.copytree(world.model, cached / "snapshots" / COMMIT)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert CliRunner().invoke(app, ["export", str(moved), "lora", "--out", str(tmp_path / "out")]).exit_code == 0
    settings = json.loads((tmp_path / "out" / CONFIG).read_text())
    assert (settings["base_model_name_or_path"], settings["revision"]) == ("acme/tiny", COMMIT)
    assert ModelCard.load(tmp_path / "out" / "README.md").data.base_model == "acme/tiny"
    code, where = python_of(tmp_path / "out"), tmp_path / "out"
    done = subprocess.run([sys.executable, "-c", code], cwd=where, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{predicted(finished, 'lora')}\n"


def test_the_hub_reads_the_cards_front_matter(export: Callable[..., Any], finished: Path, tmp_path: Path) -> None:
    export("lora", "--out", "a")
    export("lora", "--merged", "--out", "b")
    comparison = json.loads((finished / "comparison.json").read_text())
    for name, library in (("a", "peft"), ("b", "transformers")):
        data = ModelCard.load(tmp_path / name / "README.md").data
        assert (data.library_name, data.base_model, data.license, data.language) == (library, None, None, None)
        (result,) = data.eval_results
        assert (result.dataset_name, result.metric_type) == ("store-room", comparison["metric"])
        assert result.metric_value == pytest.approx(comparison["strategies"]["lora"]["score"], abs=1e-4)


def test_the_card_says_what_the_run_found(export: Callable[..., Any], finished: Path, tmp_path: Path) -> None:
    export("lora_rag", "--out", "out")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    comparison = json.loads((finished / "comparison.json").read_text())
    manifest = json.loads((finished / "manifest.json").read_text())
    training = json.loads((finished / "systems/lora_rag/seed-3/2-tune/training.json").read_text())
    sentences = [one["sentence"] for one in comparison["contrasts"] if "lora_rag" in (one["a"], one["b"])]
    assert sentences
    for said in (
        *(sentence.replace("_", "\\_") if "\\_" in card else sentence for sentence in sentences),
        "one part of the strategy lora_rag (retrieve + tune)",
        "`toolkit predict run lora_rag`",
        manifest["task"]["instruction"],
        manifest["task"]["training_digest"],
        "32 train, 8 validation, 24 test",
        f"- steps: {training['steps']}",
        f"- computed by: {training['step']}",
        "the mean of seeds 1, 3",
        "One task (store-room) and the model tiny-model",
        f"- torch: {manifest['environment']['torch']}",
        manifest["hardware"]["cpu"],
    ):
        assert said in card, said
    assert "the lamp number" not in card.lower()  # the data itself is not there


def test_the_prompt_of_the_card_gives_the_ids_that_were_sent(finished: Path, world: Any) -> None:
    asked = tuned_weights(finished, "lora").report("prompt")
    assert asked is not None
    tokenizer = load_pretrained(world.model, "float32", "cpu").tokenizer
    opened = reopen(finished)
    by_id = {example.id: example for example in opened.prepared.task.test}
    lines = (finished / "outputs" / "lora" / "seed-3.jsonl").read_text().splitlines()
    for output in (json.loads(line)["output"] for line in lines):
        text = asked["text"].replace("{question}", by_id[output["example_id"]].inputs["question"])
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == output["prompt_token_ids"]


def test_a_card_of_weights_from_elsewhere_makes_nothing_up(export: Callable[..., Any], tmp_path: Path) -> None:
    export("mine", "--out", "out")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "whether it saw the test rows is unknown" in card
    assert "What prompts it was trained on is unknown" in card
    assert "## How it was trained" not in card
    assert "32 train" not in card.split("## Made with")[0]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("zero_shot",), r"'zero_shot' \(no adaptation\) has no tuned weights.* toolkit predict .*run zero_shot TEXT"),
        (("lorra",), r"has no strategy 'lorra' \(did you mean 'lora'\?\)"),
        (("lora", "--seed", "2"), r"'lora' has no seed 2; it was fitted with 3, 1"),
        (("mine", "--seed", "3"), r"'mine' was fitted once, without a seed: leave out `--seed`"),
        (("lora", "--dtype", "bfloat16"), r"--dtype is of merged weights: add `--merged`"),
        (("lora", "--merged", "--dtype", "bfloat61"), r"is none of float32, bfloat16 \(did you mean 'bfloat16'\?\)"),
        (("lora", "--out", "full"), r"full is there already and not an empty folder: give another `--out`"),
        (("lora", "--out", "full/file"), r"file is there already and not an empty folder"),
    ],
)
def test_what_cannot_be_handed_over_is_refused(
    export: Callable[..., Any], tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    (tmp_path / "empty").mkdir()
    assert re.search(said, export(*arguments, code=2).stderr)
    assert not (tmp_path / "exports").exists()
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["file"]
    export("lora", "--out", "empty")


def test_an_unfinished_or_damaged_run_is_refused(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="holds no run"):
        tuned_weights(tmp_path / "nothing", "lora")
    moved = Path(shutil.copytree(finished, tmp_path / "run"))
    weights = moved / "systems" / "lora" / "seed-3" / "1-tune" / TENSORS
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(RunError, match="1-tune is missing or damaged"):
        tuned_weights(moved, "lora")
    (moved / "comparison.json").unlink()
    with pytest.raises(RunError, match="is not finished: run the recipe to its end first"):
        tuned_weights(moved, "lora", 1)


def test_a_base_that_is_no_longer_the_runs_is_not_merged_into(finished: Path, tmp_path: Path) -> None:
    tuned = tuned_weights(finished, "lora")
    other = replace(tuned, base=replace(tuned.base, digest="f" * 64))
    with pytest.raises(ModelError, match=r"are no longer those of the run \(\w{12} and not ffffffffffff\)"):
        write_merged(other, tmp_path, "float32")


def test_an_adapter_is_handed_over_where_the_base_is_gone(finished: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(finished, tmp_path / "run"))
    (moved / "recipe.yaml").write_text((moved / "recipe.yaml").read_text().replace("tiny-model", "gone-model"))
    tuned = tuned_weights(moved, "lora")
    assert (tuned.base.name, tuned.base.source) == ("tiny-model", "folder")
    write_adapter(tuned, tmp_path)
    with pytest.raises(ModelError, match="the base 'tiny-model' is no longer where the run's recipe names it"):
        write_merged(tuned, tmp_path, "float32")


def test_a_failed_export_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with appearing(tmp_path / "a" / "out") as folder:
            (folder / "half").touch()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert list((tmp_path / "a").iterdir()) == []
    with appearing(tmp_path / "a" / "out") as folder:
        (folder / "whole").touch()
        assert not (tmp_path / "a" / "out").exists()
    assert [path.name for path in (tmp_path / "a" / "out").iterdir()] == ["whole"]


@pytest.mark.parametrize("mounted", [False, True], ids=["empty", "mounted"])
def test_an_export_takes_an_empty_folders_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mounted: bool) -> None:
    def refuse(*_: Any) -> None:
        raise OSError("device or resource busy")

    (tmp_path / "out").mkdir()
    with monkeypatch.context() as patched:
        if mounted:
            patched.setattr("toolkit.runs.export.os.replace", refuse)
        with appearing(tmp_path / "out") as folder:
            (folder / "whole").touch()
            assert list((tmp_path / "out").iterdir()) == []
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "whole"]
