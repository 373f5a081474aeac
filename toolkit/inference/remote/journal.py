"""Journal: every answered request, written down at once. What is in it is never asked for again."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from toolkit.inference.remote.request import Request
from toolkit.inference.remote.response import Reply
from toolkit.store import Store

DAY_SECONDS = 86_400.0
FILE = "answer.json"


@dataclass(frozen=True)
class Kept:
    """An answer and how it came.

    Attributes:
        model: the one of the models asked for that gave it.
        requests: sent until it came, all models together.
        seconds: from sending the request that was answered to the answer's last byte.
        answered_at: seconds since 1970.
    """

    reply: Reply
    model: str
    requests: int
    seconds: float
    answered_at: float


class Journal:
    """Answers by their request's key, in the Store.

    Args:
        expires_days: older answers are not found, because a hosted model changes under its name.
    """

    def __init__(self, store: Store, expires_days: float) -> None:
        self._store = store
        self._expires_seconds = expires_days * DAY_SECONDS
        self._expired: set[str] = set()

    def find(self, request: Request, now: float) -> Kept | None:
        """The first model's answer to a request, else a further one's, if not too old at `now` (seconds since 1970)."""
        for key in dict.fromkeys((request.key, request.fallback_key)):
            kept = self._read(key)
            if kept is not None and now - kept.answered_at < self._expires_seconds:
                return kept
            if kept is not None:
                self._expired.add(key)
        return None

    def keep(self, request: Request, kept: Kept, first: bool) -> None:
        """Writes an answer down, whole or not at all, in the place of an expired one.

        Args:
            first: whether the first of the models gave it.

        Raises:
            RunError: the disk cannot be written.
        """

        def build(folder: Path) -> None:
            (folder / FILE).write_text(json.dumps(asdict(kept), ensure_ascii=False), encoding="utf-8")

        key = request.key if first else request.fallback_key
        if key in self._expired:
            self._store.forget(key)
        self._store.put(key, build)

    def _read(self, key: str) -> Kept | None:
        """None also where another process replaces the entry just now, or another version wrote it."""
        folder = self._store.get(key)
        if folder is None:
            return None
        try:
            record = json.loads((folder / FILE).read_text(encoding="utf-8"))
            return Kept(**{**record, "reply": Reply(**record["reply"])})
        except OSError:
            return None
        except (ValueError, KeyError, TypeError):
            self._expired.add(key)
            return None
