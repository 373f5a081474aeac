"""A model's files are what they seem: those that were fetched are what the hub has, and none lies elsewhere."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

from toolkit.errors import ModelError
from toolkit.store import file_digest

SHA256_LETTERS, SHA1_LETTERS = 64, 40


def check_snapshot(folder: Path) -> None:
    """Compares each file of a hub cache's snapshot with the digest that its blob is named by.

    Large files' are sha256, small ones' are git's own: sha1 with the size before the bytes. Files that are no links (a
    cache on a disk without links) have no such name and are not checked.

    Raises:
        ModelError: a file is damaged.
    """
    for path in sorted(path for path in folder.rglob("*") if path.is_symlink() and path.is_file()):
        blob = path.resolve()
        if len(blob.name) == SHA256_LETTERS:
            found = file_digest(blob)
        elif len(blob.name) == SHA1_LETTERS:
            data = blob.read_bytes()
            found = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
        else:
            continue
        if found != blob.name:
            raise ModelError(
                f"{path} is not what the model hub has (its digest is {found[:12]} and not {blob.name[:12]}): delete "
                f"{blob}, and it is fetched anew"
            )


def check_inside(folder: Path) -> None:
    """Looks where a model's own lists say that weights and modules lie. A hub cache's links may stand for files.

    Raises:
        ModelError: one lies outside the folder.
    """
    for name in (*indexed(folder), *_modules(folder)):
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name:
            raise ModelError(f"the model folder {folder} names '{name}', which lies outside it; nothing of it is used")


def indexed(folder: Path) -> Iterator[str]:
    """Names of the files in which weights lie, by the folder's lists; one that cannot be read is told on loading."""
    for index in sorted(folder.glob("*.index.json")):
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            yield from sorted({str(name) for name in json.loads(index.read_text("utf-8"))["weight_map"].values()})


def _modules(folder: Path) -> Iterator[str]:
    with suppress(OSError, ValueError, KeyError, TypeError):
        for module in json.loads((folder / "modules.json").read_text("utf-8")):
            yield str(module["path"])
