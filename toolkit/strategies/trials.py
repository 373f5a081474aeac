"""Trials on validation that a fit has made, kept beside its work: a fit that was killed counts none twice."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from toolkit.inference.model import Weights
from toolkit.store import write_atomically


class KnownTrials:
    """The values of weights on validation, by their digest; what has no weights of its own is not kept.

    Args:
        path: of a file of JSON lines, which need not exist.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._found = dict(_read(path))

    @property
    def values(self) -> tuple[float, ...]:
        """In the order in which they were found."""
        return tuple(self._found.values())

    def get(self, weights: Weights | None) -> float | None:
        return None if weights is None else self._found.get(weights.digest)

    def put(self, weights: Weights | None, value: float) -> None:
        if weights is None:
            return
        self._found[weights.digest] = value
        lines = (json.dumps({"weights": digest, "value": known}) for digest, known in self._found.items())
        write_atomically(self._path, "".join(f"{line}\n" for line in lines).encode())


def _read(path: Path) -> Iterable[tuple[str, float]]:
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            yield str(row["weights"]), float(row["value"])
