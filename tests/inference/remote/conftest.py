"""A faulty server, a clock that need not be waited for, prompts, and models over them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from faulty_server import FaultyServer

from toolkit.inference import RemoteModel
from toolkit.inference.remote.rate import Clock
from toolkit.models import EndpointSource
from toolkit.rendering import Draft, Prompt, Renderer, Template
from toolkit.store import Store
from toolkit.tasks.contract import TextContract
from toolkit.tasks.example import Example

NOW = 1_800_000_000.0


class ShortClock:
    """Waits pass at once and are noted; time is that of the waits."""

    def __init__(self) -> None:
        self.waits: list[float] = []
        self.passed = 0.0
        self._lock = threading.Lock()

    def clock(self) -> Clock:
        return Clock(lambda: NOW + self.passed, lambda: self.passed, self._wait)

    def _wait(self, seconds: float, stop: threading.Event) -> None:
        with self._lock:
            self.waits.append(seconds)
            self.passed += seconds


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    running = FaultyServer()
    yield running
    running.close()


@pytest.fixture
def time_passed() -> ShortClock:
    return ShortClock()


@pytest.fixture
def told() -> list[str]:
    """What models say while they wait."""
    return []


@pytest.fixture
def make_model(
    server: FaultyServer, time_passed: ShortClock, tmp_path: Path, told: list[str]
) -> Callable[..., RemoteModel]:
    """A model over the faulty server; settings are the endpoint's, `store` names a folder of this test's."""

    def make(store: str = "store", clock: Clock | None = None, **settings: Any) -> RemoteModel:
        values = {"url": server.url, "model": "small", "concurrency": 2, "timeout_seconds": 5.0, **settings}
        chosen = clock or time_passed.clock()
        return RemoteModel("served", EndpointSource(**values), Store(tmp_path / store), chosen, told.append)

    return make


@pytest.fixture
def prompts(template: Template) -> list[Prompt]:
    questions = ("What does the winch lift?", "Who paints the fence?", "When does the store open?", "Why?")
    renderer, contract = Renderer(None), TextContract()
    return [
        renderer.prompt(Draft(Example(str(number), {"question": question}), template, contract))
        for number, question in enumerate(questions)
    ]
