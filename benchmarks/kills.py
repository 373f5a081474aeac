"""Claim: a tuning of 500 steps that is killed five times ends with the adapter of one that was not.

usage: python benchmarks/kills.py [--steps 500] [--kills 5] [--batch 16] [--keep FOLDER]

`toolkit run recipes/tickets.yaml` with the one strategy `lora`, twice at the same time, each with a Store and half of
the processor's threads of its own. One of them is sent SIGKILL where its log shows the next of as many steps, drawn at
random, and started again. Writes `kills.json`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from measure import RESULTS, say, stamp

FILES = ("adapter_model.safetensors", "adapter_config.json", "training.json")


class Work(NamedTuple):
    """Optimiser steps, and sequences of each."""

    steps: int
    batch: int


def command(folder: Path, work: Work) -> list[str]:
    """The run: many epochs, of which the first steps are taken."""
    tune = f"{{rank: 16, epochs: {work.steps}, max_steps: {work.steps}, effective_batch_size: {work.batch}}}"
    asked = [f"strategies={{zero_shot: [], lora: [tune: {tune}]}}", "contrasts=[]", "limit=8", "timing.examples=1"]
    start = "from toolkit.cli import main; main()"
    return [sys.executable, "-c", start, "run", "tickets", *asked, "--out", str(folder / "run")]


def environment(folder: Path) -> dict[str, str]:
    """With the user's models, but a Store and threads of its own."""
    cache = folder / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    models = Path(os.environ.get("TOOLKIT_CACHE", Path.home() / ".cache" / "adaptation-toolkit")) / "models"
    if models.is_dir() and not (cache / "models").exists():
        (cache / "models").symlink_to(models)
    threads = max(1, len(os.sched_getaffinity(0)) // 2)
    return {**os.environ, "TOOLKIT_CACHE": str(cache), "OMP_NUM_THREADS": str(threads)}


def started(folder: Path, work: Work) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command(folder, work), env=environment(folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def ended(process: subprocess.Popen[bytes]) -> None:
    """Waits for a run's end; one that failed ends all."""
    if process.wait():
        raise SystemExit(f"a run that was not killed ended with {process.returncode}")


def steps_done(folder: Path) -> int:
    """The last step of training that the run's log shows."""
    path = folder / "run" / "events.jsonl"
    if not path.is_file():
        return 0
    rows = [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
    return next((int(row["step"]) for row in reversed(rows) if row.get("event") == "train"), 0)


def killed_at(folder: Path, work: Work, at: int) -> int:
    """Starts or goes on until at least so many steps are done; how many were when it was killed."""
    process = started(folder, work)
    while process.poll() is None and steps_done(folder) < at:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    if process.returncode != -signal.SIGKILL:
        raise SystemExit(f"the run ended by itself before step {at}, with {process.returncode}")
    return steps_done(folder)


def digests(folder: Path) -> dict[str, str]:
    """sha256 of the adapter's files."""
    (place,) = (folder / "run" / "systems" / "lora").glob("seed-*/*-tune")
    return {name: hashlib.sha256((place / name).read_bytes()).hexdigest() for name in FILES}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--steps", type=int, default=500)
    arguments.add_argument("--kills", type=int, default=5)
    arguments.add_argument("--batch", type=int, default=16, help="sequences a step; fewer where a step takes long")
    arguments.add_argument("--keep", type=Path, help="where the two runs are left; a temporary folder by default")
    asked = arguments.parse_args()
    from toolkit.models import describe

    with tempfile.TemporaryDirectory() as temporary:
        root = asked.keep or Path(temporary)
        whole, killed = root / "whole", root / "killed"
        work = Work(asked.steps, asked.batch)
        beside = started(whole, work)
        at = sorted(random.Random(0).sample(range(1, asked.steps), asked.kills))
        try:
            places = [killed_at(killed, work, step) for step in at]
            say(f"killed at steps {', '.join(map(str, places))}")
            for process in (started(killed, work), beside):
                ended(process)
        finally:
            beside.kill()
        found = {"whole": digests(whole), "killed": digests(killed)}
    same = found["whole"] == found["killed"]
    say("the same bytes" if same else "OTHER BYTES")
    told = {"claim": "kills", **work._asdict(), "killed_at_steps": places, "same_bytes": same, "sha256": found}
    whole_story = {**told, "hardware": {"cpu": describe()["cpu"]}, **stamp()}
    if asked.steps >= 500:
        (RESULTS / "kills.json").write_text(json.dumps(whole_story, indent=1) + "\n", encoding="utf-8")
    raise SystemExit(0 if same else 1)


if __name__ == "__main__":
    main()
