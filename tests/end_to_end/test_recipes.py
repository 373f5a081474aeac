"""Every shipped recipe with the starter model, shortened: eight examples, a few training steps."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.end_to_end

FEW_STEPS = {"max_steps": 2, "effective_batch_size": 4}
"""Retrieved passages and demonstrations make long rows: a step of sixteen takes a processor without bf16 a minute."""

REAL_DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


def few_steps(*strategies: str) -> list[str]:
    """Overrides of a recipe whose trainings are to be short."""
    return [f"strategies.{name}.tune.{key}={value}" for name in strategies for key, value in FEW_STEPS.items()]


def toolkit(*arguments: str, folder: Path, given: str | None = None) -> subprocess.CompletedProcess[str]:
    """The installed command in a process of its own."""
    command = [str(Path(sys.executable).with_name("toolkit")), *arguments]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    if "PYTEST_XDIST_WORKER" not in os.environ:  # beside another run a core each is faster than two each
        environment.pop("OMP_NUM_THREADS", None)  # the tests' own setting, for tiny models
    return subprocess.run(
        command, cwd=folder, env=environment, input=given, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("recipe", "shortened"),
    [
        ("quickstart", few_steps("lora")),
        ("handbook", few_steps("lora", "lora_rag", "sft_then_rag")),
        ("tickets", few_steps("lora", "few_shot_lora", "lora_few_shot")),
    ],
)
def test_a_shipped_recipe_runs_shortened(recipe: str, shortened: list[str], tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = toolkit("run", recipe, "--limit", "8", "--out", str(out), "timing.examples=1", *shortened, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    comparison = json.loads((out / "comparison.json").read_text(encoding="utf-8"))
    assert comparison["smoke"]
    assert {row["verdict"] for row in comparison["contrasts"]} == {"SMOKE"}
    for name, found in comparison["strategies"].items():
        assert found["n"] == 8, name
        assert "error" not in found["statuses"], name
    assert "<html" in (out / "report.html").read_text(encoding="utf-8")


def test_a_finished_run_predicts_and_shows_what_it_sent(tmp_path: Path) -> None:
    out = tmp_path / "run"
    strategies = "strategies={zero_shot: [], rag: [{retrieve: {top_k: 2}}]}"
    done = toolkit("run", "quickstart", "--limit", "2", "--out", str(out), strategies, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    said = toolkit("predict", str(out), "rag", "How long may a boat trailer stay on the gravel strip?", folder=tmp_path)
    assert said.returncode == 0, said.stderr
    assert said.stdout.strip()
    line = (out / "outputs" / "rag" / "seed-none.jsonl").read_text(encoding="utf-8").splitlines()[0]
    example = json.loads(line)["output"]["example_id"]
    shown = toolkit("inspect", str(out), "--example", example, folder=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "<|im_start|>" in shown.stdout
    assert "Passage 1" in shown.stdout


def test_a_tuned_strategy_is_handed_over(tmp_path: Path) -> None:
    strategies = "strategies={zero_shot: [], lora: [{tune: {max_steps: 4}}]}"
    # in float32 the tokens are promised to be transformers' own; in bfloat16 two near answers may change places
    done = toolkit("run", "quickstart", "--limit", "2", "--out", "run", "dtype=float32", strategies, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    question = "How long may a boat trailer stay on the gravel strip?"
    answer = toolkit("predict", "run", "lora", question, "--json", folder=tmp_path)
    for form in ([], ["--merged"]):
        out = tmp_path / f"out{len(form)}"
        handed = toolkit("export", "run", "lora", "--out", str(out), *form, folder=tmp_path)
        assert handed.returncode == 0, handed.stderr
        (code,) = re.findall(r"```python\n(.*?)```", (out / "README.md").read_text(encoding="utf-8"), re.DOTALL)
        code = code.replace('"your question"', json.dumps(question))
        asked = subprocess.run([sys.executable, "-c", code], cwd=out, capture_output=True, text=True, check=False)
        assert asked.returncode == 0, asked.stderr
        assert asked.stdout.strip() == json.loads(answer.stdout)["text"]


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="the public data sets are not beside this checkout")
@pytest.mark.parametrize(
    ("recipe", "data", "shortened"),
    [
        (
            "banking77",
            ["task.data.files.train={}/banking77/train.jsonl", "task.data.files.test={}/banking77/test.jsonl"],
            few_steps("lora"),
        ),
        (
            "xquad",
            ["task.data.files={}/xquad_en/questions.jsonl", "task.corpus={}/xquad_en/documents.jsonl"],
            few_steps("lora_rag"),
        ),
    ],
)
def test_public_data_needs_no_code(recipe: str, data: list[str], shortened: list[str], tmp_path: Path) -> None:
    path = Path(__file__).resolve().parents[2] / "recipes" / "own_data" / f"{recipe}.yaml"
    places = [text.format(REAL_DATA) for text in data]
    out = tmp_path / "run"
    done = toolkit(
        "run", str(path), "--limit", "8", "--out", str(out), "timing.examples=1", *places, *shortened, folder=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((out / "comparison.json").read_text(encoding="utf-8"))["n"] == 8
