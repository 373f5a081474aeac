"""Clock, RateLimit and Gate: when the next request may be sent, and beside how many others."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from toolkit.inference.remote.faults import GivenUp

STOP_SECONDS = 0.1
"""How often somebody who waits for others looks whether all is over."""


def _wait(seconds: float, stop: threading.Event) -> None:
    stop.wait(seconds)


@dataclass(frozen=True)
class Clock:
    """Times and waiting, so that tests need not wait.

    Attributes:
        wall: seconds since 1970: when an answer was given, what a Retry-After date means.
        steady: seconds that never jump: time-outs and rates.
        wait: waits so many seconds of `steady`, or until the event is set.
    """

    wall: Callable[[], float] = time.time
    steady: Callable[[], float] = time.monotonic
    wait: Callable[[float, threading.Event], None] = _wait


class RateLimit:
    """Hands out sending times: evenly spaced, and none while the server asked to be left alone.

    Args:
        per_minute: requests a minute, at most; None for no limit.
    """

    def __init__(self, per_minute: float | None, clock: Clock) -> None:
        self._spacing = 0.0 if per_minute is None else 60.0 / per_minute
        self._clock = clock
        self._lock = threading.Lock()
        self._next = 0.0

    def take(self, stop: threading.Event) -> None:
        """Waits for the next free sending time, which a server may put off while others wait for it; or for `stop`."""
        while not stop.is_set():
            with self._lock:
                now = self._clock.steady()
                left = self._next - now
                if left <= 0:
                    self._next = now + self._spacing
                    return
            self._clock.wait(left, stop)

    def hold(self, seconds: float) -> None:
        """No further request for so many seconds, whichever thread would send it."""
        with self._lock:
            self._next = max(self._next, self._clock.steady() + seconds)


class Gate:
    """How many requests may be under way: half as many once one is turned away, one more for each round answered.

    As TCP shares a line (additive increase, multiplicative decrease: Chiu and Jain 1989): how many a server takes,
    nobody says.
    """

    def __init__(self, most: int) -> None:
        self._most, self._allowed, self._inside = most, float(most), 0
        self._changed = threading.Condition()

    @contextmanager
    def through(self, stop: threading.Event) -> Iterator[None]:
        """Around one request.

        Raises:
            GivenUp: `stop` was set.
        """
        with self._changed:
            while self._inside >= int(self._allowed) and not stop.is_set():
                self._changed.wait(STOP_SECONDS)
            if stop.is_set():
                raise GivenUp
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify()

    def answered(self) -> None:
        with self._changed:
            self._allowed = min(float(self._most), self._allowed + 1 / self._allowed)
            self._changed.notify()

    def turned_away(self) -> None:
        with self._changed:
            self._allowed = max(1.0, self._allowed / 2)
