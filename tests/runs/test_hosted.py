"""A recipe over a server: it survives every fault with nothing lost or asked twice, resumes, and says what it paid."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from faulty_server import Body, FaultyServer

from toolkit.errors import ModelError, RecipeError
from toolkit.evaluation import read_usage
from toolkit.inference import RemoteModel
from toolkit.inference.remote.rate import Clock
from toolkit.json_lines import read_lines
from toolkit.runs.hosted import expires
from toolkit.runs.reopen import reopen

Start = Callable[..., Any]
Entry = Callable[..., str]
STRATEGIES = {
    "zero_shot": [],
    "few_shot": [{"prompt": {"shots": 2}}],
    "rag": [{"retrieve": {"top_k": 2, "size_tokens": 16, "overlap_tokens": 4}}],
}
EXAMPLES = 24
PATIENCE = 3.0
"""Seconds: what is not meant to be late is in time on a busy machine too."""

FAULTS = ("429", "500", "503", "cut", "garbled", "half", "empty", "error", "slow")
DAY = 86_400.0


class Killed(BaseException):
    """Nothing catches it, as nothing catches a signal."""


def colour(body: Body) -> str:
    """An answer that depends on what is asked, right for one question in four."""
    asked = body["messages"][-1]["content"]
    return ("amber", "blue", "cream", "drab")[len(asked) % 4]


@pytest.fixture(autouse=True)
def no_report(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Drawing is slow; only the test of the report wants it."""
    if "report" not in request.node.name:
        monkeypatch.setattr("toolkit.report.write_report", lambda root: (root / "report.html").write_text("drawn"))


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Waiting before a repetition takes next to no time, but where the server asks for it; what stands in the list is
    added to the time of day.
    """
    added: list[float] = [0.0]

    def wall() -> float:
        return 1_800_000_000.0 + added[0]

    def wait(seconds: float, stop: threading.Event) -> None:
        stop.wait(min(seconds, 0.01))

    monkeypatch.setattr("toolkit.inference.remote.model.Clock", lambda: Clock(wall=wall, wait=wait))
    return added


@pytest.fixture
def server(later: list[float]) -> Iterator[FaultyServer]:
    running = FaultyServer(colour)
    running.slow_seconds, running.retry_after = 1.25 * PATIENCE, "1"
    yield running
    running.close()


@pytest.fixture
def entry(server: FaultyServer, tmp_path: Path) -> Entry:
    """The path of an entry file for the server."""

    def write(**settings: Any) -> str:
        endpoint = {"url": server.url, "model": "small", "concurrency": 3, "timeout_seconds": PATIENCE, **settings}
        path = tmp_path / "served.yaml"
        path.write_text(f"name: served\nkind: model\nsource: {json.dumps({'endpoint': endpoint})}\n", encoding="utf-8")
        return str(path)

    return write


def outputs(folder: Path, strategy: str) -> dict[str, str]:
    lines = read_lines(folder / "outputs" / strategy / "seed-none.jsonl") or read_lines(
        folder / "outputs" / strategy / "seed-0.jsonl"
    )
    return {line["output"]["example_id"]: line["output"]["text"] for line in lines}


def test_a_run_survives_every_fault_and_two_interruptions_with_nothing_lost_or_asked_twice(
    start: Start, entry: Entry, server: FaultyServer, tmp_path: Path
) -> None:
    def kill(name: str, fields: Mapping[str, Any]) -> None:
        if name == "chunk" and fields["strategy"] == "few_shot" and fields["chunk"] == 2:
            raise Killed

    words = {"model": entry(retries=4), "timing": {"examples": 4}}
    server.faults.extend(fault for fault in FAULTS for _ in range(1))
    with pytest.raises(Killed):
        start(STRATEGIES, listener=kill, **words)
    server.faults.extend(["", "", "400"])  # in the middle of a chunk one request fails for good
    with pytest.raises(ModelError, match=r"status 400.*run the same command again"):
        start(STRATEGIES, **words)
    before = len(server.answered)
    server.faults.extend(FAULTS)
    result = start(STRATEGIES, **words)
    assert before < len(server.answered)
    assert set(server.answered.values()) == {1}
    assert len(server.requests) == len(server.answered) + 2 * len(FAULTS) + 1
    for strategy in STRATEGIES:
        said = outputs(tmp_path / "run", strategy)
        assert len(said) == EXAMPLES
        assert set(said.values()) <= {"amber", "blue", "cream", "drab"}
        assert result.ledger["strategies"][strategy]["per_query"]["latency_seconds"]["n"] == 4
    rows = read_usage(tmp_path / "run" / "usage.parquet")
    assert len(rows) == len(STRATEGIES) * EXAMPLES
    assert {row.answered_by for row in rows} == {"small"}
    assert all(row.other > 0 and row.completion_tokens == 1 for row in rows)
    assert sum(row.calls for row in rows) > len(rows)


def test_an_interrupted_run_ends_with_what_an_uninterrupted_one_says(
    start: Start, entry: Entry, server: FaultyServer, tmp_path: Path
) -> None:
    words = {"model": entry(retries=0, concurrency=1), "timing": {"examples": 0}}
    start(STRATEGIES, out="whole", store="own", **words)
    whole = server.answered.copy()
    for _ in range(6):
        server.faults.extend([*[""] * 9, "503"])
        with pytest.raises(ModelError, match="status 503"):
            start(STRATEGIES, **words)
    server.faults.clear()
    start(STRATEGIES, **words)
    assert {question: 2 * count for question, count in whole.items()} == server.answered
    for strategy in STRATEGIES:
        assert outputs(tmp_path / "run", strategy) == outputs(tmp_path / "whole", strategy)


def test_a_second_run_pays_nothing_and_says_how_old_its_answers_are(
    start: Start, entry: Entry, server: FaultyServer, later: list[float], tmp_path: Path
) -> None:
    words = {"model": entry(), "timing": {"examples": 0}}
    start({"zero_shot": []}, **words)
    asked = len(server.requests)
    later[0] = 2 * DAY
    start(STRATEGIES, out="second", **words)
    told = [line["text"] for line in read_lines(tmp_path / "second" / "events.jsonl") if line["event"] == "notice"]
    (said,) = (text for text in told if text.startswith("served: "))
    assert f"{EXAMPLES} answers kept from before, the oldest 2.0 days old" in said
    assert set(server.answered.values()) == {1}
    later[0] = 31 * DAY
    start({"zero_shot": []}, out="third", **words)
    assert sum(server.answered.values()) - len(server.answered) == asked  # all of them again, none from the Store


def test_answers_are_timed_as_they_were_given_and_not_asked_for_again(
    start: Start, entry: Entry, server: FaultyServer
) -> None:
    server.seconds = 0.03
    result = start({"zero_shot": []}, model=entry(), timing={"examples": 3})
    latency = result.ledger["strategies"]["zero_shot"]["per_query"]["latency_seconds"]
    assert latency["n"] == 3
    assert latency["p50"] >= 0.03
    assert set(server.answered.values()) == {1}


def test_fresh_asks_again(start: Start, entry: Entry, server: FaultyServer) -> None:
    words = {"model": entry(), "timing": {"examples": 2}}
    start({"zero_shot": []}, **words)
    start({"zero_shot": []}, fresh=True, **words)
    assert set(server.answered.values()) == {2}


def test_a_price_file_prices_the_run_in_its_report(start: Start, entry: Entry, tmp_path: Path) -> None:
    prices = tmp_path / "own.yaml"
    prices.write_text("models:\n  small: {prompt: 10, completion: 1000, date: 2026-01-31, source: contract}\n")
    start({"zero_shot": []}, model=entry(prices="own.yaml"), timing={"examples": 0})
    rows = read_usage(tmp_path / "run" / "usage.parquet")
    for row in rows:
        assert row.price == pytest.approx((10 * row.other + 1000) / 1e6)
    mean = 1000 * sum(row.price or 0 for row in rows) / len(rows)
    report = (tmp_path / "run" / "report.md").read_text(encoding="utf-8")
    assert "price of 1,000 (USD)" in report
    assert "Prices of 2026-01-31: contract." in report
    (model,) = json.loads((tmp_path / "run" / "manifest.json").read_text(encoding="utf-8"))["models"].values()
    assert model["prices"] == {
        "small": {"prompt": 10.0, "completion": 1000.0, "date": "2026-01-31", "source": "contract", "host": None}
    }
    assert f"{mean:,.2f}" in report
    assert f"zero_shot: small {EXAMPLES} answers." in report


def test_old_answers_of_a_run_that_stopped_do_not_stand_beside_new_ones(
    start: Start, entry: Entry, server: FaultyServer, later: list[float], tmp_path: Path
) -> None:
    def kill(name: str, fields: Mapping[str, Any]) -> None:
        if name == "chunk" and fields["chunk"] == 2:
            raise Killed

    words = {"model": entry(expires_days=30), "timing": {"examples": 0}}
    with pytest.raises(Killed):
        start({"zero_shot": []}, listener=kill, **words)
    later[0] += 90 * DAY
    start({"zero_shot": []}, **words)
    assert sorted(server.answered.values()) == [1] * 8 + [2] * 16
    later[0] += 90 * DAY
    start({"zero_shot": []}, **words)
    assert sum(server.answered.values()) == 40, "what stands whole was asked for again"


def test_every_sample_is_asked_for_kept_and_paid(
    start: Start, entry: Entry, server: FaultyServer, tmp_path: Path
) -> None:
    words = {"decoding": {"max_new_tokens": 3, "temperature": 0.7, "samples": 3}, "timing": {"examples": 1}}
    start({"zero_shot": []}, model=entry(), **words)
    assert set(server.answered.values()) == {1}
    assert len(server.answered) == 3 * EXAMPLES
    lines = read_lines(tmp_path / "run" / "outputs" / "zero_shot" / "seed-0.jsonl")
    assert [len(line["output"]["samples"]) for line in lines] == [3] * EXAMPLES
    rows = read_usage(tmp_path / "run" / "usage.parquet")
    assert {(row.calls, row.completion_tokens) for row in rows} == {(3, 3)}


def test_a_fallback_is_a_comparison_of_systems_and_says_who_answered(
    start: Start, entry: Entry, server: FaultyServer, tmp_path: Path
) -> None:
    server.faults.extend(["404"])
    result = start(
        {"zero_shot": [], "few_shot": [{"prompt": {"shots": 2}}]},
        model=entry(fallback=["other", "third"], concurrency=1),
        timing={"examples": 0},
    )
    (contrast,) = result.comparison["contrasts"]
    assert list(contrast["varies"]) == ["model"]
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text(encoding="utf-8"))
    for strategy in manifest["strategies"].values():
        assert strategy["factors"]["model"].endswith(", else other, else third)")
    assert {row.answered_by for row in read_usage(tmp_path / "run" / "usage.parquet")} == {"other"}
    assert set(server.answered.values()) == {1}


@pytest.mark.parametrize(
    ("strategies", "words", "message"),
    [
        ({"zero_shot": [], "lora": [{"tune": {"rank": 2}}]}, {}, r"tune: the model 'served' cannot be tuned.*local"),
        ({"zero_shot": []}, {"task": "choice", "answer_by": "likelihood"}, "use `answer_by: generation`"),
    ],
)
def test_what_a_server_cannot_do_is_refused_before_any_call(
    start: Start,
    entry: Entry,
    server: FaultyServer,
    world: Any,
    strategies: dict[str, Any],
    words: dict[str, Any],
    message: str,
) -> None:
    if words.get("task") == "choice":
        words = {**words, "task": str(world.choice_task)}
    with pytest.raises(RecipeError, match=message):
        start(strategies, model=entry(), **words)
    assert not server.requests


def test_a_missing_key_is_told_before_any_work_but_not_to_who_only_looks(
    start: Start, entry: Entry, server: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVED_KEY", "sk-very-secret")
    words = {"model": entry(key_env="SERVED_KEY"), "timing": {"examples": 0}}
    result = start({"zero_shot": []}, **words)
    assert server.requests[0][1]["Authorization"] == "Bearer sk-very-secret"
    for path in (path for path in tmp_path.rglob("*") if path.is_file()):
        assert b"very-secret" not in path.read_bytes(), path
    monkeypatch.delenv("SERVED_KEY")
    (shown,) = reopen(result.folder).show("lamp-4")
    assert shown.output.answered_by == "small"
    sent = server.requests[0][2]["messages"][0]["content"]
    assert shown.sent.startswith(f"system: {sent}\n\nuser: ")
    assert "what colour is lamp number 4" in shown.sent
    with pytest.raises(ModelError, match="environment variable SERVED_KEY"):
        start({"zero_shot": []}, out="again", **words)
    assert not (tmp_path / "again" / "outputs").exists()


def test_what_uses_a_served_strategy_expires_with_it() -> None:
    served = object.__new__(RemoteModel)
    used = {"local": (), "served": (), "cascade": ("local", "served"), "outer": ("cascade", "outer")}
    benches: Any = {name: SimpleNamespace(model=served if name == "served" else None) for name in used}
    recipe: Any = SimpleNamespace(strategy=lambda name: SimpleNamespace(name=name, uses=used[name]))
    expiring = [name for name in used if expires(recipe.strategy(name), recipe, benches)]
    assert expiring == ["served", "cascade", "outer"]
