"""Every fault of a server is survived: the answer comes in the end, once, or one error tells all."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from faulty_server import FaultyServer, said

from toolkit.errors import ModelError
from toolkit.inference import RemoteModel, Sampling
from toolkit.inference.remote.faults import Passing
from toolkit.inference.remote.rate import Clock
from toolkit.rendering import Prompt

Make = Callable[..., RemoteModel]
PATIENCE = 2.0
"""Seconds: what is not meant to be late is in time on a busy machine too."""

PASSING = ("429", "500", "503", "slow", "dripping", "cut", "garbled", "empty", "error", "half")


def expected(prompts: Sequence[Prompt]) -> list[str]:
    return [said({"messages": [{"content": prompt.messages[-1].content}]}) for prompt in prompts]


def texts(model: RemoteModel, prompts: Sequence[Prompt]) -> list[str]:
    return [answer.text for answer in model.generate(prompts, Sampling(5))]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("fault", PASSING)
def test_a_fault_that_passes_is_survived_and_every_request_answered_once(
    server: FaultyServer, make_model: Make, time_passed: Any, prompts: list[Prompt], fault: str, stream: bool
) -> None:
    server.faults.extend([fault, fault])
    server.slow_seconds, server.retry_after = 1.25 * PATIENCE, "1"
    model = make_model(stream=stream, timeout_seconds=PATIENCE, clock=_real_but_for_waits(time_passed))
    assert texts(model, prompts) == expected(prompts)
    assert len(server.requests) == len(prompts) + 2
    assert len(server.answered) == len(prompts)
    assert set(server.answered.values()) == {1}
    assert model.account.repeated == 2


def _real_but_for_waits(time_passed: Any) -> Clock:
    """Time-outs are of the real clock, and so is a time that the server asks for; other waiting is not."""

    def wait(seconds: float, stop: threading.Event) -> None:
        time_passed.clock().wait(seconds, stop)
        stop.wait(min(seconds, 0.01))

    return Clock(wait=wait)


def test_a_full_server_is_left_alone_for_as_long_as_it_asks(
    server: FaultyServer, make_model: Make, time_passed: Any, prompts: list[Prompt], told: list[str]
) -> None:
    server.faults.append("429")
    texts(make_model(concurrency=1), prompts[:1])
    assert len(time_passed.waits) == 1
    assert 7.0 <= time_passed.waits[0] < 7.5
    assert told == []


def test_a_date_in_retry_after_is_honoured_and_a_long_wait_told(
    server: FaultyServer, make_model: Make, time_passed: Any, prompts: list[Prompt], told: list[str]
) -> None:
    server.faults.append("429")
    server.retry_after = "Fri, 15 Jan 2027 08:00:42 GMT"  # 42 seconds after the test's clock
    texts(make_model(concurrency=1), prompts[:1])
    assert 42.0 <= time_passed.waits[0] < 42.5
    (line,) = told
    assert line.startswith("served: status 429")
    assert line.endswith("waiting 42 s before it is asked again")


def test_a_server_that_asks_for_an_hour_is_not_waited_for(
    server: FaultyServer, make_model: Make, time_passed: Any, prompts: list[Prompt]
) -> None:
    server.faults.append("429")
    server.retry_after = "3600"
    with pytest.raises(ModelError, match=r"status 429.*asks to be left alone for 3600 s"):
        texts(make_model(concurrency=1), prompts[:1])
    assert (len(server.requests), time_passed.waits) == (1, [])


def test_waits_double_and_are_spread(
    server: FaultyServer, make_model: Make, time_passed: Any, prompts: list[Prompt]
) -> None:
    server.faults.extend(["503"] * 5)
    texts(make_model(concurrency=1), prompts[:1])
    assert len(time_passed.waits) == 5
    for number, seconds in enumerate(time_passed.waits):
        assert 2**number / 2 <= seconds < 2**number


def test_a_lasting_fault_is_one_error_and_what_was_answered_is_not_asked_again(
    server: FaultyServer, make_model: Make, prompts: list[Prompt]
) -> None:
    model = make_model(concurrency=1, retries=2)
    texts(model, prompts[:2])
    server.faults.extend(["500"] * 3)
    with pytest.raises(ModelError) as caught:
        texts(model, prompts)
    message = str(caught.value)
    for part in ("'served'", server.url, "sent 3 times", "'small': status 500", "2 answers are kept", "run the same"):
        assert part in message
    assert "\n" not in message
    assert texts(make_model(), prompts) == expected(prompts)  # another process
    assert set(server.answered.values()) == {1}
    assert len(server.requests) == 2 + 3 + 2


def test_a_refused_request_is_named_and_not_promised_to_pass(
    server: FaultyServer, make_model: Make, prompts: list[Prompt]
) -> None:
    server.faults.append("400")
    with pytest.raises(ModelError) as caught:
        texts(make_model(concurrency=1), prompts)
    asked = server.requests[0][2]["messages"][-1]["content"].split()[-1]
    for part in ('it ends "', asked, "status 400", "mend or leave out its example"):
        assert part in str(caught.value)


@pytest.mark.parametrize("fault", ["403", "404"])
def test_a_key_or_name_that_is_refused_is_no_examples_fault(
    server: FaultyServer, make_model: Make, prompts: list[Prompt], fault: str
) -> None:
    server.faults.append(fault)
    with pytest.raises(ModelError, match=f"status {fault}") as caught:
        texts(make_model(concurrency=1), prompts)
    assert "example" not in str(caught.value)


def test_one_that_waits_longer_does_not_hold_the_others(time_passed: Any, make_model: Make) -> None:
    client = make_model()._client
    client._wait(4, Passing("busy", wait_seconds=1.0), threading.Event())
    assert time_passed.waits[0] >= 8.0
    client._limit.take(threading.Event())
    assert len(time_passed.waits) == 1


def test_what_the_server_says_of_an_error_is_told(
    server: FaultyServer, make_model: Make, prompts: list[Prompt]
) -> None:
    server.faults.extend(["error"] * 2)
    with pytest.raises(ModelError, match=r"an error in place of an answer \(overloaded\).*`url`"):
        texts(make_model(retries=1, concurrency=1), prompts[:1])


def test_what_is_under_way_when_another_request_fails_is_kept(
    server: FaultyServer, make_model: Make, prompts: list[Prompt]
) -> None:
    server.seconds = 0.1
    server.faults.extend(["400", "", ""])
    with pytest.raises(ModelError, match="status 400"):
        texts(make_model(concurrency=2), prompts)
    before = len(server.answered)
    assert 1 <= before < len(prompts)
    assert texts(make_model(), prompts) == expected(prompts)
    assert set(server.answered.values()) == {1}


def test_a_wrong_key_is_never_repeated_nor_printed(
    server: FaultyServer, make_model: Make, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "sk-very-secret")
    server.faults.extend(["401"] * 9)
    with pytest.raises(ModelError) as caught:
        texts(make_model(key_env="MY_KEY", concurrency=1, fallback=("other",)), prompts)
    assert "check the key in the environment variable MY_KEY" in str(caught.value)
    assert "secret" not in f"{caught.value!r}"
    assert server.asked_models() == ["small"]


def test_a_wanted_key_is_said_to_be_wanted(server: FaultyServer, make_model: Make, prompts: list[Prompt]) -> None:
    server.faults.append("401")
    with pytest.raises(ModelError, match=r"wants a key.*`key_env`"):
        texts(make_model(), prompts[:1])


def test_an_unknown_model_is_a_clear_error(server: FaultyServer, make_model: Make, prompts: list[Prompt]) -> None:
    server.broken["small"] = "404"
    with pytest.raises(ModelError, match=r"'small': status 404.*check `model` and `url`"):
        texts(make_model(), prompts[:1])
    assert len(server.requests) == 1


def test_an_unknown_model_is_asked_for_once_and_the_next_one_answers(
    server: FaultyServer, make_model: Make, prompts: list[Prompt]
) -> None:
    server.broken["small"] = "404"
    model = make_model(fallback=("other",), concurrency=1)
    answers = model.generate(prompts, Sampling(5))
    assert [answer.bill.model for answer in answers if answer.bill] == ["other"] * len(prompts)
    assert server.asked_models() == ["small", *["other"] * len(prompts)]
    assert model.account.fallbacks == {"other": len(prompts)}


def test_the_next_model_answers_where_the_first_fails_for_good(
    server: FaultyServer, make_model: Make, prompts: list[Prompt]
) -> None:
    server.broken["small"] = "503"
    model = make_model(fallback=("other",), concurrency=1, retries=1)
    assert texts(model, prompts[:1]) == expected(prompts[:1])
    assert server.asked_models() == ["small", "small", "other"]
    server.broken["other"] = "garbled"
    with pytest.raises(ModelError, match=r"'small': status 503.*'other': an answer that is no JSON"):
        texts(model, prompts[1:2])


def test_a_redirection_is_not_followed(
    server: FaultyServer, make_model: Make, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "sk-very-secret")
    server.faults.append("redirect")
    with pytest.raises(ModelError, match="status 302, a redirection"):
        texts(make_model(key_env="MY_KEY"), prompts[:1])
    assert len(server.requests) == 1


@pytest.mark.parametrize("host", ["-тест.example", "xn--a.example"])
def test_a_host_that_is_no_name_is_a_clear_error(make_model: Make, prompts: list[Prompt], host: str) -> None:
    with pytest.raises(ModelError, match=r"the URL cannot be used.*mend `url`"):
        texts(make_model(url=f"http://{host}/v1"), prompts[:1])


def test_a_server_that_is_not_there_is_a_clear_error(
    server: FaultyServer, make_model: Make, prompts: list[Prompt]
) -> None:
    model = make_model(retries=1)
    server.close()
    with pytest.raises(ModelError, match=r"no connection.*is the server running"):
        texts(model, prompts[:1])


def test_an_interruption_keeps_what_is_under_way_and_sends_nothing_more(
    server: FaultyServer, make_model: Make, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: Any, **words: Any) -> None:
        while not server.requests:
            time.sleep(0.001)
        raise KeyboardInterrupt

    server.seconds = 0.1
    with monkeypatch.context() as patched:
        patched.setattr("toolkit.inference.remote.model.wait", interrupted)
        with pytest.raises(KeyboardInterrupt):
            texts(make_model(concurrency=2), prompts)
    assert 1 <= len(server.requests) <= 2
    assert texts(make_model(), prompts) == expected(prompts)
    assert set(server.answered.values()) == {1}
