"""A recipe over two processes, as `torchrun` and `accelerate launch` start them, against the same in one."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet
import pytest
import torch
from safetensors.torch import load_file

pytestmark = pytest.mark.end_to_end

_SPEC = importlib.util.spec_from_file_location("runs_world", Path(__file__).parents[1] / "runs" / "conftest.py")
assert _SPEC is not None
assert _SPEC.loader is not None
_WORLD = importlib.util.module_from_spec(_SPEC)
sys.modules["runs_world"] = _WORLD  # its dataclass looks its own module up
_SPEC.loader.exec_module(_WORLD)
world = _WORLD.world

TUNE = {"rank": 4, "epochs": 2, "effective_batch_size": 4, "checkpoint_every": 2}
STRATEGIES = {"zero_shot": [], "lora": [{"tune": TUNE}], "dora": [{"tune": {**TUNE, "method": "dora"}}]}
LONG = ["strategies={zero_shot: [], lora: [{tune: {rank: 4, epochs: 20, effective_batch_size: 4}}]}"]
"""120 steps, which are not over before they are interrupted."""

COMMANDS = Path(sys.executable).parent
TORCHRUN = [str(COMMANDS / "torchrun"), "--standalone", "--nproc-per-node", "2"]  # on any free port
ACCELERATE = [str(COMMANDS / "accelerate"), "launch", "--num_processes", "2"]
DEADLINE_SECONDS = 180


def started(launcher: list[str], recipe: Path, out: Path, *more: str) -> subprocess.Popen[str]:
    """`toolkit run` under a launcher, or alone; every run has a cache and a Store of its own."""
    command = [*(launcher or [sys.executable]), "-m", "toolkit", "run", str(recipe), "--out", str(out), *more]
    quiet = {"GLOO_SOCKET_IFNAME": "lo", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    path = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, sys.path)])
    return subprocess.Popen(
        command,
        env={**os.environ, **quiet, "TOOLKIT_CACHE": f"{out}-cache", "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finished(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit code, standard output and standard error."""
    try:
        said = process.communicate(timeout=DEADLINE_SECONDS)
    finally:
        process.terminate()  # a launcher ends what it started
        process.wait(DEADLINE_SECONDS)
    return process.returncode, *said


def scores(run: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = parquet.read_table(run / "scores.parquet").to_pylist()
    return rows


def trained(run: Path) -> list[int]:
    """The steps that a run's log tells of, in their order."""
    log = run / "events.jsonl"
    lines = log.read_text().splitlines(keepends=True) if log.exists() else []
    events = [json.loads(line) for line in lines if line.endswith("\n")]
    return [event["step"] for event in events if event["event"] == "train"]


@pytest.fixture
def recipe(world: Any, tmp_path: Path) -> Path:
    words = {"task": str(world.choice_task), "dtype": "float32", "embedder": None, "timing": {"examples": 0}}
    path: Path = world.recipe(tmp_path / "recipe.yaml", STRATEGIES, **words)
    return path


def test_a_recipe_over_two_processes_gives_the_scores_of_one(recipe: Path, tmp_path: Path) -> None:
    code, told, said = finished(started([], recipe, tmp_path / "one"))
    assert code == 0, said
    launchers = {"torchrun": TORCHRUN, "accelerate": [*ACCELERATE, "--multi_gpu", "--main_process_port", "0"]}
    for name, launcher in launchers.items():
        code, shown, said = finished(started(launcher, recipe, tmp_path / name))
        assert code == 0, said
        assert shown.count("report:") == 1, "one process speaks"
        assert len(shown.splitlines()) == len(told.splitlines())
        assert scores(tmp_path / name) == scores(tmp_path / "one")
        for strategy in ("lora", "dora"):
            one, two = (tmp_path / run / "systems" / strategy / "seed-0/1-tune" for run in ("one", name))
            facts = json.loads((two / "training.json").read_text())
            assert facts["processes"] == 2
            assert facts["losses"] == pytest.approx(json.loads((one / "training.json").read_text())["losses"], rel=1e-5)
            wanted = load_file(one / "adapter_model.safetensors")
            for key, tensor in load_file(two / "adapter_model.safetensors").items():
                torch.testing.assert_close(tensor, wanted[key], rtol=1e-3, atol=1e-4)
    first, second = (tmp_path / name / "systems" / "lora" / "seed-0/1-tune" for name in launchers)
    name = "adapter_model.safetensors"
    assert (first / name).read_bytes() == (second / name).read_bytes()


def test_accelerate_starts_one_process_on_cpus_and_the_run_says_so(recipe: Path, tmp_path: Path) -> None:
    launcher = [*ACCELERATE, "--cpu"]
    code, _, said = finished(started(launcher, recipe, tmp_path / "run", "strategies={zero_shot: []}"))
    assert code == 0, said
    assert "torchrun --nproc-per-node" in said


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("strategies.lora.tune.rank=none", "must be 'auto' or a whole number, found 'none'"),
        ("strategies.lora.tune.target_modules=[nowhere]", "target_modules: "),  # found by both, in the training
    ],
)
def test_an_error_ends_both_processes_and_is_told_once(recipe: Path, tmp_path: Path, override: str, told: str) -> None:
    began = time.monotonic()
    code, _, said = finished(started(TORCHRUN, recipe, tmp_path / "run", override))
    assert code != 0
    assert said.count("error: ") == said.count(told) == 1
    assert time.monotonic() - began < DEADLINE_SECONDS / 2


def test_interrupted_while_training_both_processes_end_and_the_same_command_goes_on(
    recipe: Path, tmp_path: Path
) -> None:
    run, deadline = tmp_path / "run", time.monotonic() + DEADLINE_SECONDS
    process = started(TORCHRUN, recipe, run, *LONG)
    while 26 not in trained(run):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    code, _, said = finished(process)
    assert code != 0
    assert said.count("interrupted; run the same command again, without `--fresh`, to go on") == 1
    code, _, said = finished(started(TORCHRUN, recipe, run, *LONG))
    assert code == 0, said
    assert trained(run).count(1) == 1  # it went on from a checkpoint
    assert set(trained(run)) == set(range(1, 121))
