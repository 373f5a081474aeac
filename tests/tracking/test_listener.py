"""A run's events reach trackers as named figures, and no tracker can stop the run or see a secret."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from recording_tracker import Broken, Recorder

from toolkit.tracking import TrackedRun, Tracker
from toolkit.tracking.feed import Feed
from toolkit.tracking.listener import TrainingEvents
from toolkit.tracking.settings import flat

STEP = {
    "step": 3,
    "steps": 10,
    "loss": 2.5,
    "tokens": 800,
    "supervised_tokens": 60,
    "learning_rate": 1e-3,
    "gradient_norm": 0.7,
    "seconds": 0.4,
    "memory_bytes": 1_400_000_000,
}


class Fed:
    """Trackers behind a listener, and what was told of those that failed."""

    def __init__(self, *trackers: Tracker, settings: dict[str, Any] | None = None) -> None:
        self.told: list[str] = []
        feed = Feed(trackers, self.told.append)
        self.finish = feed.finish
        self.listener = TrainingEvents(feed, lambda name, seed: TrackedRun(name, seed, settings or {}, "small"))

    def __call__(self, name: str, **fields: Any) -> None:
        self.listener(name, fields)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


def test_a_step_becomes_its_figures_and_the_tokens_a_second(recorder: Recorder) -> None:
    tell = Fed(recorder)
    tell("strategy", strategy="lora", seed=0, label="tune")
    tell("train", **STEP)
    assert recorder.logged == {
        "lora/seed-0": [
            (
                3,
                {
                    "train/loss": 2.5,
                    "train/learning_rate": 1e-3,
                    "train/gradient_norm": 0.7,
                    "train/tokens": 800,
                    "train/supervised_tokens": 60,
                    "train/seconds": 0.4,
                    "train/memory_bytes": 1.4e9,
                    "train/tokens_per_second": 2000,
                },
            )
        ]
    }


def test_a_look_at_validation_is_named_after_its_metric(recorder: Recorder) -> None:
    tell = Fed(recorder)
    tell("strategy", strategy="lora", seed=None, label="tune")
    tell("validated", step=4, steps=10, value=0.25, best=True, metric="token_f1")
    assert recorder.logged == {"lora/seed-none": [(4, {"validation/token_f1": 0.25})]}


def test_a_forecast_is_told_at_the_step_that_comes_next(recorder: Recorder) -> None:
    tell = Fed(recorder)
    tell("strategy", strategy="lora", seed=0, label="tune")
    tell("forecast", steps=9, step=4, seconds=50.0, memory_bytes=14, recompute=False, free_bytes=None)
    tell("forecast", steps=9, step=4, seconds=50.0, memory_bytes=None)
    assert not recorder.logged
    tell("validated", step=3, steps=9, value=0.25, best=True, metric="f1")
    tell("train", step=4, steps=9, loss=2.0)
    tell("train", step=5, steps=9, loss=1.5)
    expected = [{"forecast/seconds": 50.0, "forecast/memory_bytes": 14.0}, {"forecast/seconds": 50.0}]
    assert recorder.logged == {
        "lora/seed-0": [
            (3, {"validation/f1": 0.25}),
            *[(4, one) for one in expected],
            (4, {"train/loss": 2.0}),
            (5, {"train/loss": 1.5}),
        ]
    }


def test_an_adapter_that_tells_of_less_is_recorded_with_less(recorder: Recorder) -> None:
    tell = Fed(recorder)
    tell("strategy", strategy="lora", seed=0, label="theirs")
    tell("train", step=1, steps=2, loss=2.0, tokens=7)
    tell("train", step=2, steps=2, loss=math.nan, tokens=7, seconds=0)
    assert recorder.logged["lora/seed-0"] == [
        (1, {"train/loss": 2.0, "train/tokens": 7.0}),
        (2, {"train/tokens": 7.0, "train/seconds": 0.0}),
    ]


def test_events_of_another_shape_and_of_other_things_say_nothing(recorder: Recorder) -> None:
    tell = Fed(recorder)
    tell("strategy", strategy="lora", seed=0, label="theirs")
    for name, fields in (
        ("train", {"step": "first", "loss": 1.0}),
        ("train", {"loss": 1.0}),
        ("train", {"step": 1, "loss": "low"}),
        ("validated", {"step": 1, "value": 0.5}),
        ("validated", {"step": 1, "value": None, "metric": "token_f1"}),
        ("chunk", {"step": 1, "loss": 1.0}),
    ):
        tell(name, **fields)
    assert recorder.logged == {}


def test_what_follows_a_strategy_is_of_that_strategy(recorder: Recorder) -> None:
    tell = Fed(recorder)
    for seed in (0, 1):
        tell("strategy", strategy="lora", seed=seed, label="tune")
        tell("train", step=1, steps=1, loss=float(seed), tokens=1)
    assert {name: steps[0][1]["train/loss"] for name, steps in recorder.logged.items()} == {
        "lora/seed-0": 0.0,
        "lora/seed-1": 1.0,
    }


@pytest.mark.parametrize(("call", "when"), [(1, "at the start of lora/seed-0"), (3, "at step 2"), (4, "at the end")])
def test_a_tracker_that_fails_is_told_of_once_and_the_others_go_on(recorder: Recorder, call: int, when: str) -> None:
    broken = Broken(ConnectionError("no\nroute"), call)
    tell = Fed(broken, recorder)
    tell("strategy", strategy="lora", seed=0, label="tune")
    for step in (1, 2):
        tell("train", step=step, steps=2, loss=1.0, tokens=1)
    tell.finish({})
    (said,) = tell.told
    assert said.startswith(f"the tracker Broken failed {when} and is left out from here on; the run goes on")
    assert said.endswith("(ConnectionError: no route)")
    assert broken.calls == call
    assert [step for step, _ in recorder.logged["lora/seed-0"]] == [1, 2]
    assert recorder.results == {}


def test_an_interruption_is_not_taken_for_a_failing_tracker() -> None:
    class Interrupted(Recorder):
        def start(self, run: TrackedRun) -> None:
            raise KeyboardInterrupt

    tell = Fed(Interrupted())
    with pytest.raises(KeyboardInterrupt):
        tell("strategy", strategy="lora", seed=0, label="tune")
    assert tell.told == []


def test_settings_reach_trackers_without_secrets(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "sk-123456789")
    settings: dict[str, Any] = {
        "tune.rank": 16,
        "tune.max_new_tokens": 24,
        "mine.api_key": "abc",
        "mine.key_env": "SOME_API_KEY",
        "mine.hub.token": "hf_x",
        "mine.url": "https://me:pa@ss@host:1/x?token=abc&page=2",
        "mine.note": "use sk-123456789",
    }
    Fed(recorder, settings=settings)("strategy", strategy="lora", seed=0, label="tune")
    assert recorder.runs[0].settings == {
        "tune.rank": 16,
        "tune.max_new_tokens": 24,
        "mine.api_key": "[hidden]",
        "mine.key_env": "SOME_API_KEY",
        "mine.hub.token": "[hidden]",
        "mine.url": "https://[hidden]@host:1/x?token=[hidden]&page=2",
        "mine.note": "use [hidden]",
    }


def test_secrets_inside_of_a_setting_are_hidden_too() -> None:
    found = flat({"servers": [{"url": "http://host", "api_key": "abc"}], "ranks": {"q_proj": 8}}, "mine.")
    assert {name: json.loads(str(value)) for name, value in found.items()} == {
        "mine.servers": [{"url": "http://host", "api_key": "[hidden]"}],
        "mine.ranks": {"q_proj": 8},
    }


def test_what_is_told_of_a_failure_holds_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "t0ken-t0ken")
    tell = Fed(Broken(ConnectionError("http://ann:secret@host/api said 401 to t0ken-t0ken")))
    tell("strategy", strategy="lora", seed=0, label="tune")
    (said,) = tell.told
    assert "http://[hidden]@host/api said 401 to [hidden]" in said
