"""A server that limits by itself answers everything in the end, and is not pressed more than it can take."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from toolkit.inference.remote.client import BROKEN_SECONDS, Client, NoAnswer
from toolkit.inference.remote.faults import Busy, GivenUp, Passing
from toolkit.inference.remote.rate import Clock, Gate
from toolkit.inference.remote.request import Request
from toolkit.models.endpoint import EndpointSource

SPEED = 200.0
"""Seconds of the test's clock a second."""

ANSWER = b'{"choices": [{"message": {"content": "x"}, "finish_reason": "stop"}]}'
REQUESTS = 60


def steady() -> float:
    return time.monotonic() * SPEED


CLOCK = Clock(steady, steady, lambda seconds, stop: stop.wait(seconds / SPEED) and None)


class Server:
    """In the place of a wire: counts what it answers and what it turns away."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.answered = self.turned_away = 0

    def redacted(self, text: str) -> str:
        return text

    def post(self, body: dict[str, Any]) -> bytes:
        with self.taking():
            self.answered += 1
            return ANSWER

    @contextmanager
    def taking(self) -> Iterator[None]:
        yield

    def refuse(self, wait_seconds: float | None) -> None:
        self.turned_away += 1
        raise Busy("status 429", wait_seconds=wait_seconds)


class Bucket(Server):
    """So many requests a second and none at once, with an honest Retry-After in whole seconds."""

    def __init__(self, per_second: float) -> None:
        super().__init__()
        self.spacing, self.free = 1 / per_second, 0.0

    @contextmanager
    def taking(self) -> Iterator[None]:
        with self.lock:
            if steady() < self.free:
                self.refuse(math.ceil(self.free - steady()))
            self.free = steady() + self.spacing
        yield


class Slotted(Server):
    """So many requests at once, each of some seconds, and no word of when to come again."""

    def __init__(self, slots: int, seconds: float) -> None:
        super().__init__()
        self.left, self.seconds = slots, seconds

    @contextmanager
    def taking(self) -> Iterator[None]:
        with self.lock:
            if not self.left:
                self.refuse(None)
            self.left -= 1
        time.sleep(self.seconds / SPEED)
        with self.lock:
            self.left += 1
        yield


def client(**settings: Any) -> Client:
    values = {"url": "http://localhost:1/v1", "model": "small", **settings}
    return Client(EndpointSource(**values), CLOCK, lambda text: None)


REQUEST = Request({"messages": [{"role": "user", "content": "Why?"}]}, 0, "key", "other key")


@pytest.mark.parametrize("concurrency", [4, 16])
@pytest.mark.parametrize("make", [lambda: Bucket(1.0), lambda: Slotted(2, 3.0), lambda: Slotted(1, 40.0)])
def test_nothing_is_given_up_that_only_stands_in_a_queue(make: Any, concurrency: int) -> None:
    server, asking, stop = make(), client(concurrency=concurrency), threading.Event()
    with ThreadPoolExecutor(concurrency) as pool:
        kept = list(pool.map(lambda _: asking.ask(server, REQUEST, stop), range(REQUESTS)))
    assert len(kept) == server.answered == REQUESTS
    assert server.turned_away < 3 * REQUESTS
    assert sum(one.requests for one in kept) == server.answered + server.turned_away


def test_a_server_that_answers_nobody_is_given_up() -> None:
    class Full(Server):
        def post(self, body: dict[str, Any]) -> bytes:
            self.refuse(None)
            raise AssertionError

    server = Full()
    with pytest.raises(NoAnswer, match="status 429"):
        client(retries=3).ask(server, REQUEST, threading.Event())
    assert server.turned_away == 4


def test_a_fault_that_is_the_requests_own_counts_however_many_others_are_answered() -> None:
    asking, server, sent = client(retries=3), Server(), []

    class Broken(Server):
        def post(self, body: dict[str, Any]) -> bytes:
            sent.append(body)
            asking.ask(server, REQUEST, threading.Event())
            raise Passing("status 500")

    with pytest.raises(NoAnswer, match="status 500"):
        client_sharing(asking).ask(Broken(), REQUEST, threading.Event())
    assert len(sent) == 4


def client_sharing(other: Client) -> Client:
    """Another client that knows what this one knows, but whose gate is its own."""
    made = client(retries=3)
    made._known = other._known
    return made


def test_a_model_that_failed_for_good_is_asked_once_for_a_while() -> None:
    now = [0.0]
    clock = Clock(lambda: now[0], lambda: now[0], lambda seconds, stop: None)
    asked: list[str] = []

    class Half(Server):
        def post(self, body: dict[str, Any]) -> bytes:
            asked.append(body["model"])
            if body["model"] == "small":
                raise Passing("status 500")
            return ANSWER

    endpoint = EndpointSource(url="http://localhost:1/v1", model="small", fallback=("other",), retries=5)
    asking, server = Client(endpoint, clock, lambda text: None), Half()
    for passed, expected in ((0.0, 6), (0.0, 1), (BROKEN_SECONDS / 2, 1), (BROKEN_SECONDS + 1, 6)):
        now[0] += passed
        asked.clear()
        assert asking.ask(server, REQUEST, threading.Event()).model == "other"
        assert asked == ["small"] * expected + ["other"]


def test_a_request_under_way_when_its_model_is_found_broken_ends_too() -> None:
    asking, asked = client(retries=5), list[str]()

    class Broken(Server):
        def post(self, body: dict[str, Any]) -> bytes:
            asked.append(body["model"])
            assert len(asked) < 20, "asked for ever"
            if len(asked) == 3:  # another request has just failed for good
                asking._known["small"].broken_until = steady() + 1e9
            raise Passing("status 500")

    with pytest.raises(NoAnswer, match="status 500"):
        asking.ask(Broken(), REQUEST, threading.Event())
    assert len(asked) == 3


def test_a_gate_narrows_and_widens() -> None:
    gate, stop = Gate(4), threading.Event()

    def free() -> int:
        with gate.through(stop):
            return int(gate._allowed)

    assert free() == 4
    gate.turned_away()
    assert free() == 2
    for _ in range(8):
        gate.turned_away()
    assert free() == 1
    for _ in range(20):
        gate.answered()
    assert free() == 4


def test_who_waits_at_the_gate_goes_when_all_is_over() -> None:
    gate, stop = Gate(1), threading.Event()
    with gate.through(stop), ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(lambda: gate.through(stop).__enter__())
        stop.set()
        with pytest.raises(GivenUp):
            waiting.result(timeout=5)
