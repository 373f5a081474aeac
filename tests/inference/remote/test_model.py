"""A served model is a FoundationModel: what is asked, how often, and what an answer tells."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from faulty_server import FaultyServer

from toolkit.errors import ModelError
from toolkit.inference import RemoteModel, Sampling, Weights
from toolkit.models import resolve
from toolkit.rendering import Prompt
from toolkit.store import Store, seal
from toolkit.testing import check_model

Make = Callable[..., RemoteModel]
DAY = 86_400


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_a_served_model_holds_the_contract(make_model: Make, prompts: list[Prompt], api: str) -> None:
    check_model(make_model(api=api), prompts)


def test_messages_are_sent_as_they_are_and_greedily(
    server: FaultyServer, make_model: Make, prompts: list[Prompt]
) -> None:
    make_model().generate(prompts[:1], Sampling(7))
    ((path, _, body),) = server.requests
    assert path == "/v1/chat/completions"
    messages = [{"role": item.role, "content": item.content} for item in prompts[0].messages]
    assert body == {"model": "small", "messages": messages, "max_tokens": 7, "temperature": 0.0}


def test_a_plain_completion_ends_where_the_answer_begins(
    server: FaultyServer, make_model: Make, prompts: list[Prompt]
) -> None:
    make_model(api="completions", length_key="max_completion_tokens").generate(prompts[:1], Sampling(7))
    ((path, _, body),) = server.requests
    assert path == "/v1/completions"
    assert body["max_completion_tokens"] == 7
    assert body["prompt"].startswith(prompts[0].messages[0].content)
    assert body["prompt"].endswith("\n\nAnswer:\n")


def test_every_sample_has_its_own_seed_and_request(
    server: FaultyServer, make_model: Make, prompts: list[Prompt]
) -> None:
    sampling = Sampling(7, temperature=0.8, top_p=0.9, samples=3, stop=("\n",), seed=5)
    answers = make_model().generate(prompts[:2], sampling)
    assert [len(answer.alternatives) for answer in answers] == [2, 2]
    bodies = [body for _, _, body in server.requests]
    assert len({body["seed"] for body in bodies}) == 6
    assert all(0 <= body["seed"] < 2**31 for body in bodies)
    assert {(body["temperature"], body["top_p"], *body["stop"]) for body in bodies} == {(0.8, 0.9, "\n")}
    assert all("n" not in body for body in bodies)


def test_a_draw_depends_on_its_seed_prompt_and_number_only(
    server: FaultyServer, make_model: Make, prompts: list[Prompt]
) -> None:
    def seeds(store: str, asked: list[Prompt], seed: int) -> set[int]:
        server.requests.clear()
        make_model(store=store).generate(asked, Sampling(7, temperature=1.0, samples=2, seed=seed))
        return {body["seed"] for _, _, body in server.requests}

    alone, in_company = seeds("a", prompts[:1], 1), seeds("b", prompts, 1)
    assert alone < in_company
    assert not alone & seeds("c", prompts[:1], 2)


def test_an_answer_ends_before_its_stop_text(server: FaultyServer, make_model: Make, prompts: list[Prompt]) -> None:
    server.reply = lambda body: " four\nQuestion: five"
    (answer,) = make_model().generate(prompts[:1], Sampling(7, stop=("\nQ", "five")))
    assert (answer.text, answer.termination) == ("four", "stop")


def test_a_character_cut_in_two_by_a_stream_is_whole_again(
    server: FaultyServer, make_model: Make, prompts: list[Prompt]
) -> None:
    server.reply = lambda body: "\ud83d\ude00 \u2028 \ud83d"
    (answer,) = make_model(stream=True).generate(prompts[:1], Sampling(7))
    assert answer.text == "\U0001f600 \u2028 \ufffd"


def test_equal_prompts_are_asked_once(server: FaultyServer, make_model: Make, prompts: list[Prompt]) -> None:
    answers = make_model().generate([prompts[0], prompts[1], prompts[0]], Sampling(7))
    assert len(server.requests) == 2
    assert answers[0] == answers[2] != answers[1]


def test_no_more_requests_are_under_way_than_allowed(
    server: FaultyServer, make_model: Make, prompts: list[Prompt]
) -> None:
    server.seconds = 0.05
    make_model(concurrency=3).generate(prompts, Sampling(7, temperature=1.0, samples=3))
    assert server.most_at_once == 3


def test_requests_are_spaced_by_the_rate(
    server: FaultyServer, make_model: Make, time_passed: Any, prompts: list[Prompt]
) -> None:
    server.faults.append("500")
    make_model(concurrency=1, requests_per_minute=6).generate(prompts, Sampling(7))
    assert len(server.requests) == 5
    assert 40.0 <= time_passed.passed <= 41.0  # four gaps of ten seconds; the wait before the repetition is in one


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("api", ["chat", "completions"])
def test_token_probabilities_give_a_confidence(
    server: FaultyServer, make_model: Make, prompts: list[Prompt], api: str, stream: bool
) -> None:
    server.lists_logprobs = True
    (answer,) = make_model(api=api, stream=stream, logprobs=True).generate(prompts[:1], Sampling(7))
    assert answer.confidence == pytest.approx(math.sqrt(1 / 2 * 1 / 8))
    assert server.requests[0][2]["logprobs"] in (True, 1)


def test_a_server_without_token_probabilities_gives_no_confidence(make_model: Make, prompts: list[Prompt]) -> None:
    (answer,) = make_model(logprobs=True).generate(prompts[:1], Sampling(7))
    assert answer.confidence is None


def test_answers_of_another_process_are_not_asked_for_again(
    server: FaultyServer, make_model: Make, time_passed: Any, prompts: list[Prompt]
) -> None:
    first = make_model().generate(prompts[:3], Sampling(7))
    time_passed.passed += 3600
    later = make_model(stream=True, concurrency=1, retries=0)  # another way of asking is the same question
    assert later.generate(prompts, Sampling(7))[:3] == first
    assert len(server.requests) == 4
    assert (later.account.answered, later.account.kept) == (1, 3)
    assert later.account.oldest_seconds == pytest.approx(3600)


def test_answers_from_the_journal_tell_what_they_took(
    make_model: Make, time_passed: Any, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = itertools.count()
    real = time_passed.clock()
    monkeypatch.setattr(time_passed, "clock", lambda: replace(real, steady=lambda: float(next(ticks))))
    first = make_model(concurrency=1)
    first.generate(prompts[:3], Sampling(7))
    assert first.replayed_seconds == 0
    taken = [kept.seconds for kept in first._answered.values()]
    assert min(taken) >= 1
    later = make_model(concurrency=1)
    later.generate(prompts[:3], Sampling(7))
    assert later.replayed_seconds == sum(taken)


@pytest.mark.parametrize("spoil", [lambda kept: {"of": "another version"}, lambda kept: {**kept, "new": 1}, None])
def test_answers_that_cannot_be_read_are_asked_for_again_and_replaced(
    server: FaultyServer, make_model: Make, prompts: list[Prompt], tmp_path: Path, spoil: Any
) -> None:
    first = make_model().generate(prompts[:1], Sampling(7))
    (path,) = tmp_path.glob("store/*/*/answer.json")
    kept = json.loads(path.read_text(encoding="utf-8"))
    path.write_text("half a rec" if spoil is None else json.dumps(spoil(kept)), encoding="utf-8")
    if spoil is not None:
        seal(path.parent)  # whole, but of another shape
    assert make_model().generate(prompts[:1], Sampling(7)) == first
    assert make_model().generate(prompts[:1], Sampling(7)) == first
    assert len(server.requests) == 2


@pytest.mark.parametrize("change", [{"model": "other"}, {"logprobs": True}])
def test_another_question_is_asked(
    server: FaultyServer, make_model: Make, prompts: list[Prompt], change: dict[str, Any]
) -> None:
    one, other = make_model(), make_model(**change)
    assert one.digest != other.digest
    for model in (one, other):
        model.generate(prompts[:1], Sampling(7))
    assert len(server.requests) == 2


def test_answers_stay_good_when_a_fallback_is_added_and_a_fallbacks_do_not_when_it_goes(
    server: FaultyServer, make_model: Make, prompts: list[Prompt]
) -> None:
    alone = make_model().generate(prompts[:2], Sampling(7))
    server.broken["small"] = "404"
    helped = make_model(fallback=("other",))
    assert helped.generate(prompts[:3], Sampling(7))[:2] == alone
    assert server.asked_models() == ["small", "small", "small", "other"]
    with pytest.raises(ModelError, match="status 404"):  # only `small` may answer, and `other` did
        make_model().generate(prompts[2:3], Sampling(7))
    assert helped.digest != make_model().digest


def test_kept_answers_expire(server: FaultyServer, make_model: Make, time_passed: Any, prompts: list[Prompt]) -> None:
    make_model().generate(prompts[:1], Sampling(7))
    time_passed.passed += 2 * DAY
    make_model(expires_days=3.0).generate(prompts[:1], Sampling(7))
    assert len(server.requests) == 1
    make_model(expires_days=1.0).generate(prompts[:1], Sampling(7))
    assert len(server.requests) == 2
    make_model(expires_days=1.0).generate(prompts[:1], Sampling(7))  # the new answer took the old one's place
    assert len(server.requests) == 2


def test_what_a_process_holds_does_not_expire_in_it(
    server: FaultyServer, make_model: Make, time_passed: Any, prompts: list[Prompt]
) -> None:
    make_model().generate(prompts[:1], Sampling(7))
    model = make_model(expires_days=1.0)
    first = model.generate(prompts[:2], Sampling(7))
    time_passed.passed += 2 * DAY  # a long training between answering and the timing pass
    assert model.generate(prompts[:2], Sampling(7)) == first
    assert len(server.requests) == 2
    assert (model.account.answered, model.account.kept) == (1, 1)


def test_a_served_model_neither_scores_nor_is_tuned(make_model: Make, prompts: list[Prompt], tmp_path: Path) -> None:
    model = make_model()
    assert not model.can_score
    assert not model.can_be_tuned
    with pytest.raises(ModelError, match="answer_by: generation"):
        model.score(prompts[:1], [[(1,)]])
    with pytest.raises(ModelError, match="name a local model"):
        model.adapted(Weights(tmp_path, ""))


def test_an_entry_gives_a_model_and_one_with_weights_does_not(tmp_path: Path) -> None:
    model = RemoteModel.of(resolve("local-server", "model"), Store(tmp_path))
    assert (model.name, model.endpoint.url) == ("local-server", "http://localhost:8000/v1")
    with pytest.raises(ModelError, match="is no served model"):
        RemoteModel.of(resolve("smollm2-135m-instruct", "model"), Store(tmp_path))
