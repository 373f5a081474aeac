"""RunFolder: what a run leaves behind, and who may write into it."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from toolkit.errors import RunError
from toolkit.json_lines import append_line, read_lines
from toolkit.meter import Listener, peak_memory_bytes
from toolkit.recipe import Recipe
from toolkit.seeds import seed_name
from toolkit.store import Store, write_atomically


class RunFolder:
    """The paths of one run."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.recipe = root / "recipe.yaml"
        self.recipe_source = root / ".recipe-source"
        self.manifest = root / "manifest.json"
        self.events = root / "events.jsonl"
        self.timings = root / "timings.jsonl"
        self.training = root / "training.jsonl"
        self.tensorboard = root / "tensorboard"
        self.mlflow = root / "mlflow.json"
        self.scores = root / "scores.parquet"
        self.usage = root / "usage.parquet"
        self.comparison = root / "comparison.json"
        self.ledger = root / "ledger.json"
        self.report = root / "report.html"
        self.markdown = root / "report.md"

    @property
    def is_finished(self) -> bool:
        """Whether the results of what the manifest names are there: every system was fitted under it."""
        return self.manifest.is_file() and self.comparison.is_file()

    def system(self, strategy: str, seed: int | None) -> Path:
        return self.root / "systems" / strategy / seed_name(seed)

    def outputs(self, strategy: str, seed: int | None) -> Path:
        return self.root / "outputs" / strategy / f"{seed_name(seed)}.jsonl"

    def made_of(self) -> dict[str, Any]:
        """The manifest."""
        found: dict[str, Any] = json.loads(self.manifest.read_text(encoding="utf-8"))
        return found

    def begin(self, manifest: bytes) -> None:
        """Writes what the run is made of. Where that is new, the results of what it was made of before are removed:
        until there are others, nothing may take them for this run's.
        """
        if not self.manifest.is_file() or self.manifest.read_bytes() != manifest:
            for path in (self.comparison, self.ledger, self.scores, self.usage, self.report, self.markdown):
                path.unlink(missing_ok=True)
        write_atomically(self.manifest, manifest)

    def forget(self) -> None:
        """Removes what was fitted, answered, timed and tracked here, so that it is computed anew; without the manifest
        `begin` removes the results too.
        """
        for folder in (self.root / "systems", self.root / "outputs", self.tensorboard):
            shutil.rmtree(folder, ignore_errors=True)
        for path in (self.timings, self.training, self.mlflow, self.manifest):
            path.unlink(missing_ok=True)

    def unkeep(self, strategy: str, seed: int | None, store: Store) -> None:
        """Removes what a refused strategy left, here and in the Store: the same command must refuse it again."""
        system, outputs = self.system(strategy, seed), self.outputs(strategy, seed)
        parts = [json.loads(path.read_text(encoding="utf-8"))["key"] for path in system.glob("*/part.json")]
        for key in {*parts, *(line["chunk"] for line in read_lines(outputs))}:
            store.forget(key)
        shutil.rmtree(system, ignore_errors=True)
        outputs.unlink(missing_ok=True)

    def listener(self, also: Listener | None = None) -> Listener:
        """Writes events and timings as they come, and passes them on to a live view."""

        def listen(name: str, fields: Mapping[str, Any]) -> None:
            if name == "stage":
                append_line(self.timings, {**fields, "peak_memory_bytes": peak_memory_bytes()})
            elif name != "progress":
                append_line(self.events, {"time": round(time.time(), 3), "event": name, **fields})
            if also is not None:
                also(name, fields)

        return listen


@contextmanager
def opened(root: Path, recipe: Recipe, replace: bool) -> Iterator[RunFolder]:
    """The folder of a recipe's run, locked against other processes; made if it is not there.

    Raises:
        RunError: it holds another recipe's run (unless `replace` moves that aside), another process is running in it,
            or it cannot be written.
    """
    folder = RunFolder(root)
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(root / ".lock")
        lock.acquire(timeout=0)
    except Timeout as error:
        raise RunError(f"another process is running in {root}; wait for it, or give another `--out`") from error
    except OSError as error:
        raise RunError(f"the run folder {root} cannot be written: {error}") from error
    try:
        try:
            _claim(folder, recipe, replace)
        except OSError as error:
            raise RunError(f"the run folder {root} cannot be written: {error}") from error
        yield folder
    finally:
        lock.release()


def _claim(folder: RunFolder, recipe: Recipe, replace: bool) -> None:
    marker = folder.root / ".recipe-digest"
    there = marker.read_text(encoding="utf-8").strip() if marker.exists() else None
    strangers = [path.name for path in folder.root.iterdir() if path.name not in {".lock", marker.name}]
    if there is None and any(not name.startswith(".recipe-") for name in strangers):  # those a killed claim leaves
        raise RunError(f"{folder.root} is not empty and holds no run ({', '.join(sorted(strangers)[:3])}, ...)")
    begun = (folder.recipe.name, folder.events.name, folder.timings.name)  # there is a manifest once it is accepted
    claimed_only = all(name in begun or name.startswith(".recipe-") for name in strangers)
    if there is not None and there != recipe.digest and not claimed_only:  # a recipe that was refused leaves its claim
        if not replace:
            raise RunError(
                f"{folder.root} holds the run of another recipe; give another `--out`, or `--replace` to move it aside"
            )
        aside = _unused(folder.root.resolve(), there)
        aside.mkdir()
        for name in strangers:
            (folder.root / name).rename(aside / name)
    if there != recipe.digest and claimed_only:
        for path in (folder.events, folder.timings):
            path.unlink(missing_ok=True)
    write_atomically(marker, recipe.digest.encode())
    write_atomically(folder.recipe, recipe.text.encode())
    write_atomically(folder.recipe_source, str(recipe.path.resolve()).encode())


def _unused(root: Path, digest: str) -> Path:
    """A folder beside a run's, to move what it holds into."""
    names = (f"{root.name}.replaced-{digest[:8]}-{number}" for number in count(1))
    return next(root.with_name(name) for name in names if not root.with_name(name).exists())
