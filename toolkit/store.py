"""Store: results by the content of what made them. A key leads to a folder; a folder appears whole or not at all.

Keys are content only: weights digests, settings, code versions, token ids. Never a path, never a name.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from toolkit.errors import RunError

SEAL = "sealed.json"
"""Lists a stored folder's files with their sizes and digests; a folder that does not match it is built again."""

BUILDING = ".building-"
ABANDONED_SECONDS = 24 * 3600
MOVES = 20
"""Tries to move a folder into place: it is taken by what is not whole only while others replace it too."""


Taken = TypeVar("Taken")


def key_of(content: Mapping[str, Any]) -> str:
    """sha256 over the canonical JSON of a mapping (32 hex digits)."""
    canonical = json.dumps(content, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:32]


class Store:
    """A folder of results.

    Args:
        root: created when first written to.
        read: False ignores what is there (`--fresh`) and replaces it.
    """

    def __init__(self, root: Path, read: bool = True) -> None:
        self.root = root
        self.read = read
        self._written: set[str] = set()
        self.hits = 0
        self.misses = 0

    def get(self, key: str) -> Path | None:
        """The folder of a key, whole and unchanged, or None."""
        folder = self._place(key)
        if (self.read or key in self._written) and folder.is_dir() and is_sealed(folder):
            self.hits += 1
            return folder
        self.misses += 1
        return None

    def put(self, key: str, build: Callable[[Path], None]) -> Path:
        """Builds a folder and moves it into place at once; a process that was faster wins.

        Raises:
            RunError: the disk is full or cannot be written.
        """
        folder = self._place(key)
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            _sweep(folder.parent)
            work = Path(tempfile.mkdtemp(prefix=BUILDING, dir=folder.parent))
        except OSError as error:
            raise RunError(f"the store at {self.root} cannot be written: {error}") from error
        try:
            build(work)
            seal(work)
            work.chmod(0o755)  # mkdtemp makes folders that nobody else may read
            if folder.exists() and not (self.read and is_sealed(folder)):
                _clear(folder)
            _move(work, folder)
        except OSError as error:
            raise RunError(f"the store at {self.root} cannot be written: {error}") from error
        finally:
            shutil.rmtree(work, ignore_errors=True)
        self._written.add(key)
        return folder

    def folder(self, key: str, build: Callable[[Path], None]) -> Path:
        """The folder of a key, built if it is not there."""
        found = self.get(key)
        return found if found is not None else self.put(key, build)

    def taking(self, key: str, take: Callable[[Path], Taken]) -> Taken | None:
        """What `take` makes of a key's folder, or None. Another process may replace a folder while it is read."""
        for _ in range(MOVES):
            folder = self.get(key)
            if folder is None:
                return None
            with suppress(FileNotFoundError):
                return take(folder)
        return None

    def forget(self, key: str) -> None:
        """Removes the folder of a key, if it is there."""
        shutil.rmtree(self._place(key), ignore_errors=True)

    def count_scoring(self, test_digest: str, run: str) -> int:
        """Notes that a run scored a test set; returns how many runs have scored it so far."""
        path = self.root / "scorings" / f"{test_digest[:32]}.jsonl"
        line = json.dumps({"run": run}) + "\n"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            known = set(path.read_text(encoding="utf-8").splitlines()) if path.exists() else set()
            if line.strip() not in known:
                with path.open("a", encoding="utf-8") as file:
                    file.write(line)
                known.add(line.strip())
        except OSError as error:
            raise RunError(f"the store at {self.root} cannot be written: {error}") from error
        return len(known)

    def _place(self, key: str) -> Path:
        return self.root / key[:2] / key


def _move(work: Path, folder: Path) -> None:
    """Moves a built folder into place, unless a process that was faster has put a whole one there."""
    for attempt in range(1, MOVES + 1):
        try:
            os.replace(work, folder)
            return
        except OSError:
            if is_sealed(folder):
                return
            if attempt == MOVES:
                raise
            _clear(folder)


def _clear(folder: Path) -> None:
    """Frees a place. The folder leaves it whole, so nobody takes what is half removed for what was built."""
    aside = Path(tempfile.mkdtemp(prefix=BUILDING, dir=folder.parent))
    with suppress(FileNotFoundError):  # another process has freed it
        os.replace(folder, aside / folder.name)
    shutil.rmtree(aside, ignore_errors=True)


def _sweep(parent: Path) -> None:
    """Removes what killed processes were building here; a build that still goes on is never a day old."""
    for left in parent.glob(f"{BUILDING}*"):
        try:
            if time.time() - left.stat().st_mtime > ABANDONED_SECONDS:
                shutil.rmtree(left, ignore_errors=True)
        except OSError:
            pass  # its own process has just removed it


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a file so that a reader sees the old bytes or the new ones, never half.

    Raises:
        RunError: the disk is full or the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, 0o644)
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error}") from error


def folder_digest(folder: Path) -> str:
    """sha256 over a folder's file names and bytes."""
    state = hashlib.sha256()
    for name, _, digest in _listing(folder):
        state.update(f"{name}\x00{digest}\x00".encode())
    return state.hexdigest()


def _listing(folder: Path) -> list[tuple[str, int, str]]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SEAL)
    listing = []
    for path in files:
        listing.append((path.relative_to(folder).as_posix(), path.stat().st_size, file_digest(path)))
    return listing


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes, which are never in memory all at once."""
    state = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            state.update(block)
    return state.hexdigest()


def seal(folder: Path) -> None:
    """Lists what a folder holds, by which `is_sealed` knows it whole."""
    (folder / SEAL).write_text(json.dumps(_listing(folder)), encoding="utf-8")


def is_sealed(folder: Path) -> bool:
    """Whether a stored folder, or a copy of one, is whole and unchanged."""
    try:
        sealed = json.loads((folder / SEAL).read_text(encoding="utf-8"))
        return bool(sealed == [list(row) for row in _listing(folder)])
    except (OSError, ValueError):
        return False
