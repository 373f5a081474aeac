"""Ten real kills of one run in bf16, each resumed by the same command; it ends with an uninterrupted run's bytes."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.end_to_end

_SPEC = importlib.util.spec_from_file_location("runs_world", Path(__file__).parents[1] / "runs" / "conftest.py")
assert _SPEC is not None
assert _SPEC.loader is not None
_WORLD = importlib.util.module_from_spec(_SPEC)
sys.modules["runs_world"] = _WORLD  # its dataclass looks its own module up
_SPEC.loader.exec_module(_WORLD)
world = _WORLD.world
artefacts = _WORLD.artefacts

RETRIEVE = {"top_k": 2, "size_tokens": 16, "overlap_tokens": 4}
TUNE = {"rank": 4, "epochs": 5, "effective_batch_size": 4, "checkpoint_every": 5}
STRATEGIES = {
    "zero_shot": [],
    "few_shot": [{"prompt": {"shots": 2}}],
    "rag": [{"retrieve": RETRIEVE}],
    "lora": [{"tune": TUNE}],
    "lora_rag": [{"retrieve": RETRIEVE}, {"tune": TUNE}],
    "oracle": [{"oracle": RETRIEVE}],
}
CODE = "import sys; from pathlib import Path; from toolkit.runs.run import run; a = sys.argv; "
CODE += "run(a[1], out=Path(a[2]), store=Path(a[3]))"
DEADLINE_SECONDS = 120
POLL_SECONDS = 0.005


@dataclass(frozen=True)
class Kill:
    """When to kill: as soon as an event with these fields is in `events.jsonl` that was not there before.

    `until` is the event that must not have come when the process is dead: it ends the phase. Nor must the phase have
    left `unwritten`, or its stage's seconds.
    """

    phase: str
    event: str
    fields: Mapping[str, Any]
    until: str
    ended_by: Mapping[str, Any]
    unwritten: str = ""
    stage: str = ""


def answering(strategy: str, chunk: int) -> Kill:
    last = {"strategy": strategy, "chunk": CHUNKS}
    return Kill(f"answering of {strategy}", "chunk", {"strategy": strategy, "chunk": chunk}, "chunk", last)


CHUNKS = 24
KILLS = [
    answering("zero_shot", 3),
    answering("few_shot", 5),
    Kill("index build", "index", {}, "answer", {"strategy": "rag"}, stage="index"),
    answering("rag", 2),
    Kill("training of lora", "train", {"step": 13}, "answer", {"strategy": "lora"}, stage="train"),
    answering("lora", 4),
    Kill("training of lora_rag", "train", {"step": 22}, "answer", {"strategy": "lora_rag"}),
    answering("lora_rag", 3),
    answering("oracle", 2),
    Kill("statistics", "statistics", {}, "timed", {}, unwritten="comparison.json"),
    Kill("timing pass", "timed", {"strategy": "rag"}, "done", {}, unwritten="report.html"),
]


def events(root: Path, start: int = 0) -> list[dict[str, Any]]:
    """Whole lines of the log from a byte on."""
    path = root / "events.jsonl"
    if not path.exists():
        return []
    raw = path.read_bytes()[start:]
    return [json.loads(line) for line in raw.splitlines(keepends=True) if line.endswith(b"\n") and line.strip()]


def stages(root: Path) -> set[str]:
    return {json.loads(line)["stage"] for line in (root / "timings.jsonl").read_text().splitlines()}


def happened(found: list[dict[str, Any]], event: str, fields: Mapping[str, Any]) -> bool:
    return any(row["event"] == event and fields.items() <= row.items() for row in found)


def started(recipe: Path, root: Path, store: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "TOOLKIT_CACHE": str(store.parent / "cache"), "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, "-c", CODE, str(recipe), str(root), str(store)]
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment, cwd=store.parent
    )


def killed(kill: Kill, recipe: Path, root: Path, store: Path) -> None:
    """Starts the run, kills it in the phase and checks that it was in it."""
    before = (root / "events.jsonl").stat().st_size if (root / "events.jsonl").exists() else 0
    process = started(recipe, root, store)
    try:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not happened(events(root, before), kill.event, kill.fields):
            assert process.poll() is None, f"{kill.phase}: the run ended first: {process.communicate()[1][-2000:]}"
            assert time.monotonic() < deadline, f"{kill.phase} did not come"
            time.sleep(POLL_SECONDS)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not happened(events(root, before), kill.until, kill.ended_by), f"{kill.phase} was over before the kill"
    assert not kill.unwritten or not (root / kill.unwritten).exists()
    assert not kill.stage or kill.stage not in stages(root)


def finish(recipe: Path, root: Path, store: Path) -> None:
    process = started(recipe, root, store)
    said = process.communicate(timeout=DEADLINE_SECONDS)[1]
    assert process.returncode == 0, said[-2000:]


def test_ten_kills_and_their_resumptions_end_with_an_uninterrupted_runs_bytes(
    world: Any, artefacts: Callable[[Path], dict[str, bytes]], tmp_path: Path
) -> None:
    task = shutil.copytree(world.text_task, tmp_path / "task")
    for number in range(200):  # so that building the index takes long enough to be hit
        text = " ".join(f"The lamp of shelf {number} is blue of the rope {row}." for row in range(8))
        (task / "corpus" / f"shelf-{number:03}.md").write_text(text + "\n")
    words = {"task": str(task), "chunk_examples": 1, "timing": {"examples": 16}}
    recipe = world.recipe(tmp_path / "recipe.yaml", STRATEGIES, **words)
    for folder in ("whole", "killed"):
        (tmp_path / folder).mkdir()
    finish(recipe, tmp_path / "whole" / "run", tmp_path / "whole" / "store")

    root, store = tmp_path / "killed" / "run", tmp_path / "killed" / "store"
    for kill in KILLS:
        killed(kill, recipe, root, store)
    finish(recipe, root, store)

    assert json.loads((root / "manifest.json").read_text())["environment"]["dtype"] == "bfloat16"
    resumed = [row["event"] for row in events(root)].count("model")
    assert resumed == len(KILLS) + 1 >= 11
    uninterrupted, found = artefacts(tmp_path / "whole" / "run"), artefacts(root)
    assert sorted(found) == sorted(uninterrupted)
    assert [name for name in found if found[name] != uninterrupted[name]] == []
    trained = [row["step"] for row in events(root) if row["event"] == "train"]
    steps = 5 * 8
    assert trained.count(1) == 2  # both trainings went on from a checkpoint instead of starting again
    assert set(trained) == set(range(1, steps + 1))
