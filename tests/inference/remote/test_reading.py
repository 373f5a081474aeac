"""Small parts by themselves: what a server sent, what it asks for, what an answer costs."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.errors import ModelError
from toolkit.inference.remote.faults import Passing
from toolkit.inference.remote.prices import price_dollars, prices_for
from toolkit.inference.remote.rate import Clock, RateLimit
from toolkit.inference.remote.response import read_reply
from toolkit.inference.remote.retry import LONGEST_SECONDS, backoff_seconds, retry_after_seconds
from toolkit.models import EndpointSource

LOCAL = {"url": "http://localhost:8000/v1", "model": "small"}


@pytest.mark.parametrize(
    ("choice", "text", "termination"),
    [
        ({"message": {"content": "four"}, "finish_reason": "stop"}, "four", "stop"),
        ({"message": {"content": "four"}, "finish_reason": "length"}, "four", "length"),
        ({"message": {"content": None}, "finish_reason": "length"}, "", "length"),
        ({"message": {"content": [{"type": "text", "text": "fo"}, {"text": "ur"}]}}, "four", "stop"),
        ({"message": {"content": [{"text": "four"}, {"type": "reasoning", "text": None}]}}, "four", "stop"),
        ({"text": "four", "finish_reason": "stop"}, "four", "stop"),
    ],
)
def test_answers_of_many_shapes_are_read(choice: dict[str, Any], text: str, termination: str) -> None:
    reply = read_reply(json.dumps({"choices": [choice]}).encode())
    assert (reply.text, reply.termination, reply.prompt_tokens) == (text, termination, None)


def test_no_text_and_no_reason_for_an_end_is_no_answer() -> None:
    for choice in ({"message": {"content": ""}, "finish_reason": None}, {"message": {"content": None}}, {"text": ""}):
        with pytest.raises(Passing, match="without text or a reason"):
            read_reply(json.dumps({"choices": [choice]}).encode())


def test_a_stream_without_its_last_mark_is_whole_where_it_says_why_it_ended() -> None:
    piece = 'data: {"choices": [{"delta": {"content": "four"}, "finish_reason": %s}]}\r\n\r\n'
    assert read_reply((piece % '"length"').encode()).termination == "length"
    assert read_reply((": a comment\n\n" + piece % "null" + "data: [DONE]\n").encode()).text == "four"
    with pytest.raises(Passing, match="half an answer"):
        read_reply((piece % "null").encode())


ERROR = {"code": 502, "message": "provider gone"}
PIECE = 'data: {"choices": [{"delta": {"content": "fo"}}]}\n\n'


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (json.dumps({"error": "no such endpoint"}), "no such endpoint"),
        (json.dumps({"choices": [{"message": {"content": ""}, "finish_reason": "error", "error": ERROR}]}), "gone"),
        (json.dumps({"choices": [{"message": {"content": "fo"}, "finish_reason": "error"}]}), ""),
        (json.dumps({"choices": [{"message": {"content": "fo"}, "finish_reason": "abort"}]}), ""),
        (f'{PIECE}error: {{"code": 500, "message": "slot gone"}}\n\ndata: [DONE]\n', "slot gone"),
        ('error: {"message": "context is too small"}\n\n', "context is too small"),
        (f"{PIECE}event: error\ndata: {json.dumps({'error': ERROR})}\n\ndata: [DONE]\n", "gone"),
        ('data: {"choices": [{"delta": {"role": "assistant", "content": ""}}]}\n\ndata: [DONE]\n', ""),
    ],
)
def test_an_error_that_comes_as_an_answer_is_none(raw: str, said: str) -> None:
    with pytest.raises(Passing) as caught:
        read_reply(raw.encode())
    assert said in caught.value.said
    assert said == "" or said not in caught.value.reason  # which is printed as it is


@given(raw=st.binary(max_size=60))
def test_reading_raises_nothing_but_faults(raw: bytes) -> None:
    for start in (b"", b"data: ", b'{"choices": [', b'data: {"choices": [{"delta": '):
        with pytest.raises(Passing):
            read_reply(start + raw)


@pytest.mark.parametrize("choices", [[3], {}, [{}], [{"message": 3}], [{"message": 3, "text": 3}], None])
def test_an_answer_of_a_strange_shape_is_a_fault(choices: Any) -> None:
    with pytest.raises(Passing):
        read_reply(json.dumps({"choices": choices}).encode())


@pytest.mark.parametrize(
    "more",
    [
        {"logprobs": 3},
        {"logprobs": {"content": 3}},
        {"logprobs": {"content": [3.5, {}], "token_logprobs": ["x", None]}},
        {"logprobs": {"token_logprobs": [float("nan")]}},
    ],
)
def test_strange_probabilities_and_counts_are_unknown(more: dict[str, Any]) -> None:
    choice = {"message": {"content": "four"}, **more}
    reply = read_reply(json.dumps({"choices": [choice], "usage": {"prompt_tokens": "x"}}).encode())
    assert (reply.text, reply.confidence, reply.prompt_tokens) == ("four", None, None)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("3", 3.0),
        ("0.5", 0.5),
        ("Thu, 01 Jan 1970 00:01:40 GMT", 90.0),
        ("Thu, 01 Jan 1970 00:00:01 GMT", 0.0),
        ("-3", None),
        ("soon", None),
    ],
)
def test_retry_after_is_read_as_seconds_or_date(header: str | None, seconds: float | None) -> None:
    assert retry_after_seconds(header, now=10.0) == seconds


def test_waits_never_pass_a_minute() -> None:
    assert backoff_seconds(19, None, jitter=0.999) < LONGEST_SECONDS
    assert backoff_seconds(3, None, jitter=0.0) == 4.0


def test_a_server_that_asks_for_too_little_is_waited_for_as_one_that_asks_for_nothing() -> None:
    assert backoff_seconds(3, 0.0, jitter=0.0) == 4.0
    assert backoff_seconds(3, 30.0, jitter=0.0) == 30.0


def test_a_held_rate_lets_nobody_through(time_passed: Any) -> None:
    limit = RateLimit(None, time_passed.clock())
    stop = threading.Event()
    limit.take(stop)
    assert time_passed.waits == []
    limit.hold(5.0)
    limit.take(stop)
    assert time_passed.waits == [5.0]
    limit.take(stop)
    assert time_passed.waits == [5.0]


def test_who_waits_already_waits_on_where_the_server_puts_it_off() -> None:
    now, waits = [100.0], list[float]()

    def wait(seconds: float, stop: threading.Event) -> None:
        waits.append(seconds)
        now[0] += seconds
        if len(waits) == 1:
            limit.hold(60.0)  # the answer to another request, while this one waits for its time

    limit = RateLimit(6, Clock(steady=lambda: now[0], wait=wait))
    limit.take(threading.Event())
    limit.take(threading.Event())
    assert waits == [10.0, 60.0]
    stopped = threading.Event()
    stopped.set()
    limit.take(stopped)
    assert waits == [10.0, 60.0]


def test_a_shipped_price_holds_for_its_own_server_only() -> None:
    hosted = EndpointSource(url="https://api.openai.com/v1", model="gpt-4o-mini")
    prices = prices_for(hosted)
    assert price_dollars(prices["gpt-4o-mini"], 1_000_000, 100_000) == pytest.approx(0.15 + 0.06)
    assert prices_for(EndpointSource(url="http://localhost:8000/v1", model="gpt-4o-mini")) == {}


def test_a_price_file_of_ones_own_needs_no_host(tmp_path: Path) -> None:
    path = tmp_path / "prices.yaml"
    path.write_text(
        "models:\n  small: {prompt: 1, completion: 2.5, date: 2026-01-31, source: contract}\n", encoding="utf-8"
    )
    prices = prices_for(EndpointSource(**LOCAL, prices=str(path)))
    assert price_dollars(prices["small"], 2000, 1000) == pytest.approx(0.0045)
    assert price_dollars(prices["small"], None, 1000) is None


def test_all_problems_of_a_price_file_are_told_with_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "prices.yaml"
    path.write_text("models:\n  small:\n    prompt: -1\n    completion: 2\n    dat: 2026-01-31\n", encoding="utf-8")
    with pytest.raises(ModelError) as caught:
        prices_for(EndpointSource(**LOCAL, prices=str(path)))
    for part in ("prices.yaml:3", "unknown key 'models.small.dat'", "'models.small.source' is missing"):
        assert part in str(caught.value)


@pytest.mark.parametrize("named", ["smal", "small\n    host: elsewhere.example"])
def test_a_price_file_of_ones_own_that_prices_nothing_is_refused(tmp_path: Path, named: str) -> None:
    path = tmp_path / "prices.yaml"
    name, _, more = named.partition("\n")
    fields = "prompt: 1\n    completion: 2.5\n    date: 2026-01-31\n    source: contract"
    path.write_text(f"models:\n  {name}:\n    {fields}\n{more}\n", encoding="utf-8")
    with pytest.raises(ModelError, match="no price of 'small' at"):
        prices_for(EndpointSource(**LOCAL, prices=str(path)))


def test_the_case_of_a_prices_host_does_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "prices.yaml"
    fields = "prompt: 1, completion: 2.5, date: 2026-01-31, source: contract, host: LOCALHOST"
    path.write_text(f"models:\n  small: {{{fields}}}\n", encoding="utf-8")
    assert prices_for(EndpointSource(**{**LOCAL, "url": "http://localhost:8000/v1"}, prices=str(path)))
