"""Runs of several processes share one Store: none fails, and all say the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

TUNE = {"rank": 2, "epochs": 1, "effective_batch_size": 8, "target_modules": ["q_proj"]}
STRATEGIES = {"zero_shot": [], "few_shot": [{"prompt": {"shots": 2}}], "lora": [{"tune": TUNE}]}


def test_three_runs_at_once_on_one_store_end_alike(world: Any, tmp_path: Path) -> None:
    recipe = world.recipe(tmp_path / "recipe.yaml", STRATEGIES, timing={"examples": 0}, chunk_examples=2)
    environment = {**os.environ, "TOOLKIT_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    commands = {
        name: [sys.executable, "-m", "toolkit", "run", str(recipe), "--out", str(tmp_path / name), *more]
        for name, more in (("one", ["--fresh"]), ("two", []), ("three", ["--fresh"]))
    }
    running = {
        name: subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for name, command in commands.items()
    }
    for name, process in running.items():
        said, _ = process.communicate(timeout=300)
        assert process.returncode == 0, f"{name}: {said}"
    outputs = {
        name: {
            str(path.relative_to(tmp_path / name)): path.read_bytes()
            for path in sorted((tmp_path / name / "outputs").rglob("*.jsonl"))
        }
        for name in commands
    }
    assert outputs["one"]
    assert outputs["one"] == outputs["two"] == outputs["three"]
