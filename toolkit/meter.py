"""Meter: what happens and what it costs, as events. The only place that reads a clock for a ledger."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

try:
    import resource
except ImportError:  # not a Unix
    resource = None  # type: ignore[assignment]

Listener = Callable[[str, Mapping[str, Any]], None]


class Meter:
    """Tells a listener of events and of stages with their seconds.

    Args:
        listener: told of every event (name, fields) as it happens: a log, a ledger, a live view.
    """

    def __init__(self, listener: Listener | None = None) -> None:
        self._listener = listener

    def event(self, name: str, **fields: Any) -> None:
        """Something happened."""
        if self._listener is not None:
            self._listener(name, fields)

    @contextmanager
    def stage(self, name: str, **fields: Any) -> Iterator[dict[str, Any]]:
        """Measures a block; amounts written into the yielded mapping go with the `stage` event at its end.

        The event is not sent when the block raises.
        """
        amounts: dict[str, Any] = dict(fields)
        started = time.perf_counter()
        yield amounts
        self.event("stage", stage=name, seconds=time.perf_counter() - started, **amounts)


def peak_memory_bytes() -> int:
    """The process's largest resident set so far; 0 where the system does not say.

    On Linux `VmHWM` of `/proc/self/status`: what `getrusage` tells there begins with the peak of whoever started the
    process, a notebook's or a test runner's (`man 2 getrusage`: ru_maxrss; the kernel keeps it through `execve`).
    """
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:  # no Linux, or no /proc
        status = ""
    kilobytes = next((line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")), None)
    if kilobytes is not None:
        return int(kilobytes) * 1024
    if resource is None:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
