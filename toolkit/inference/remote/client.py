"""Client: one request to its answer, through retries and further models."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass

from toolkit.inference.remote.faults import Busy, Fault, GivenUp, Hopeless, Passing, Refused, Unknown
from toolkit.inference.remote.journal import Kept
from toolkit.inference.remote.rate import Clock, Gate, RateLimit
from toolkit.inference.remote.request import Request
from toolkit.inference.remote.response import excerpt, read_reply
from toolkit.inference.remote.retry import LONGEST_ASKED_SECONDS, asked_seconds, backoff_seconds
from toolkit.inference.remote.wire import Wire
from toolkit.models.endpoint import EndpointSource

LONG_WAIT_SECONDS = 10.0
"""From here on a wait is told: silence would be taken for a stop."""

BROKEN_SECONDS = 60.0
"""A model that failed for good is asked once a request for so long: the next model need not be waited for."""


class NoAnswer(Exception):
    """A request failed for good. `faults` are the last ones of each model asked, in order."""

    def __init__(self, faults: list[tuple[str, Fault]], requests: int) -> None:
        super().__init__("; ".join(f"'{model}': {fault.reason}" for model, fault in faults))
        self.faults = faults
        self.requests = requests


@dataclass
class _Known:
    """What is known of a model. Threads may count an answer twice or not at all: only whether it moved matters."""

    answered: int = 0
    missing: Unknown | None = None
    broken_until: float = 0.0


@dataclass
class _Asking:
    """A request on its way, and how often it was sent."""

    wire: Wire
    request: Request
    stop: threading.Event
    sent: int = 0


@dataclass
class Client:
    """How one endpoint is asked. Safe to use from several threads.

    Args:
        notice: told of long waits, by one thread at a time.
        jitter: numbers in [0, 1).
    """

    endpoint: EndpointSource
    clock: Clock
    notice: Callable[[str], None]
    jitter: Callable[[], float] = random.SystemRandom().random

    def __post_init__(self) -> None:
        self._limit = RateLimit(self.endpoint.requests_per_minute, self.clock)
        self._gate = Gate(self.endpoint.concurrency)
        self._known = {model: _Known() for model in self.endpoint.models}
        self._told = threading.Lock()

    def ask(self, wire: Wire, request: Request, stop: threading.Event) -> Kept:
        """The answer of the first model that gives one.

        Args:
            stop: once set, nothing more is sent.

        Raises:
            NoAnswer: no model gave one, or the key is wrong.
            GivenUp: `stop` was set.
        """
        faults: list[tuple[str, Fault]] = []
        asking = _Asking(wire, request, stop)
        for model in self.endpoint.models:
            missing = self._known[model].missing
            try:
                if missing is None:
                    return self._ask(asking, model)
                faults.append((model, missing))
            except (Refused, Passing) as fault:
                faults.append((model, fault))
            except Hopeless as fault:
                raise NoAnswer([*faults, (model, fault)], asking.sent) from None
        raise NoAnswer(faults, asking.sent)

    def _ask(self, asking: _Asking, model: str) -> Kept:
        """One model's answer.

        A request that is turned away while others are answered only stands in a queue: its repetitions count anew.

        Raises:
            Passing: it did not pass, however often it was asked.
            Refused, Hopeless, GivenUp: as they came.
        """
        known = self._known[model]
        repeated, answered = 0, known.answered
        while True:
            try:
                kept = self._attempt(asking, model)
            except Unknown as fault:
                known.missing = fault
                raise
            except Passing as fault:
                if isinstance(fault, Busy):
                    self._gate.turned_away()
                    repeated, answered = (repeated if answered == known.answered else 0), known.answered
                broken = self.clock.steady() < known.broken_until
                if repeated >= (0 if broken else self.endpoint.retries) or _asks_too_long(fault):
                    known.broken_until = self.clock.steady() + BROKEN_SECONDS
                    raise
                self._wait(repeated, fault, asking.stop)
                repeated += 1
            else:
                self._gate.answered()
                known.answered, known.broken_until = known.answered + 1, 0.0
                return kept

    def _attempt(self, asking: _Asking, model: str) -> Kept:
        wire = asking.wire
        with self._gate.through(asking.stop):
            self._limit.take(asking.stop)
            if asking.stop.is_set():
                raise GivenUp
            asking.sent += 1
            started = self.clock.steady()
            raw = wire.post(asking.request.body(self.endpoint, model))
        try:
            reply = read_reply(raw)
        except Passing as fault:
            raise Passing(f"{fault.reason}{excerpt(wire.redacted(fault.said))}", fault.advice) from None
        return Kept(reply, model, asking.sent, self.clock.steady() - started, self.clock.wall())

    def _wait(self, repeated: int, fault: Passing, stop: threading.Event) -> None:
        """Waits before the request is repeated."""
        jitter = self.jitter()
        seconds = backoff_seconds(repeated, fault.wait_seconds, jitter)
        if seconds >= LONG_WAIT_SECONDS:
            with self._told:
                self.notice(f"{fault.reason}; waiting {seconds:.0f} s before it is asked again")
        if fault.wait_seconds is not None:
            self._limit.hold(asked_seconds(fault.wait_seconds, jitter))  # others' requests would be refused as well
        self.clock.wait(seconds, stop)


def _asks_too_long(fault: Passing) -> bool:
    return fault.wait_seconds is not None and fault.wait_seconds > LONGEST_ASKED_SECONDS
