"""Client: one request to its answer, through retries and further models."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass

from toolkit.inference.remote.faults import Fault, GivenUp, Hopeless, Passing, Refused, Unknown
from toolkit.inference.remote.journal import Kept
from toolkit.inference.remote.rate import Clock, RateLimit
from toolkit.inference.remote.request import Request
from toolkit.inference.remote.response import excerpt, read_reply
from toolkit.inference.remote.retry import LONGEST_ASKED_SECONDS, asked_seconds, backoff_seconds
from toolkit.inference.remote.wire import Wire
from toolkit.models.endpoint import EndpointSource

LONG_WAIT_SECONDS = 10.0
"""From here on a wait is told: silence would be taken for a stop."""


class NoAnswer(Exception):
    """A request failed for good. `faults` are the last ones of each model asked, in order."""

    def __init__(self, faults: list[tuple[str, Fault]], requests: int) -> None:
        super().__init__("; ".join(f"'{model}': {fault.reason}" for model, fault in faults))
        self.faults = faults
        self.requests = requests


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
        self._unknown: dict[str, Unknown] = {}
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
        sent = 0
        for model in self.endpoint.models:
            if model in self._unknown:
                faults.append((model, self._unknown[model]))
                continue
            for repeated in range(self.endpoint.retries + 1):
                self._limit.take(stop)
                if stop.is_set():
                    raise GivenUp
                sent += 1
                try:
                    return self._attempt(wire, request, model, sent)
                except Hopeless as fault:
                    raise NoAnswer([*faults, (model, fault)], sent) from None
                except Refused as fault:
                    if isinstance(fault, Unknown):
                        self._unknown[model] = fault
                    faults.append((model, fault))
                    break
                except Passing as fault:
                    if repeated == self.endpoint.retries or _asks_too_long(fault):
                        faults.append((model, fault))
                        break
                    self._wait(repeated, fault, stop)
        raise NoAnswer(faults, sent)

    def _attempt(self, wire: Wire, request: Request, model: str, sent: int) -> Kept:
        started = self.clock.steady()
        raw = wire.post(request.body(self.endpoint, model))
        try:
            reply = read_reply(raw)
        except Passing as fault:
            raise Passing(f"{fault.reason}{excerpt(wire.redacted(fault.said))}", fault.advice) from None
        return Kept(reply, model, sent, self.clock.steady() - started, self.clock.wall())

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
