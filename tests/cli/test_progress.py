"""What is said of a training: what it will take, its speed, the time left, validation."""

from __future__ import annotations

from typing import Any

import pytest

from toolkit.console import Narrator
from toolkit.progress import RECENT_REPORTS, Pace, TrainingProgress, forecast, validated
from toolkit.terminal import gigabytes, large, percent

FORECAST = {
    "trainable_parameters": 4_884_480,
    "total_parameters": 139_400_448,
    "steps": 1120,
    "supervised_share": 0.09,
    "memory_bytes": 1_400_000_000,
    "seconds": 50.2,
    "recompute": False,
}


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def step(number: int, **changes: Any) -> dict[str, Any]:
    usual = {"step": number, "steps": 120, "loss": 1.5, "tokens": 500, "supervised_tokens": 40, "seconds": 0.5}
    return {**usual, "learning_rate": 1e-3, "gradient_norm": 0.7, "memory_bytes": 1_380_000_000, **changes}


def test_a_forecast_is_one_line() -> None:
    assert forecast(FORECAST) == (
        "4.9 M of 139 M parameters are trained, 1,120 steps, 9 % of tokens supervised; about 50 s and 1.4 GB"
    )


def test_a_forecast_tells_the_learning_rate_that_was_chosen() -> None:
    assert "120 steps up to a rate of 0.0013, " in forecast({**FORECAST, "learning_rate": 1.322e-3})


def test_a_forecast_says_so_where_activations_are_recomputed() -> None:
    assert forecast({**FORECAST, "recompute": True}).endswith("1.4 GB; activations are recomputed to save memory")


def test_a_forecast_without_a_probe_promises_no_time() -> None:
    assert forecast({**FORECAST, "seconds": None}).endswith("supervised; about 1.4 GB")
    assert forecast({**FORECAST, "seconds": None, "memory_bytes": None}).endswith("of tokens supervised")


def test_a_look_at_validation_says_whether_it_was_the_best() -> None:
    fields = {"step": 20, "steps": 120, "value": 0.5123, "best": True, "metric": "token_f1"}
    assert validated(fields) == "step 20 of 120: validation token_f1 0.512, the best so far"
    assert validated({**fields, "best": False}) == "step 20 of 120: validation token_f1 0.512"


@pytest.mark.parametrize("name", ["forecast", "validated"])
def test_forecast_and_validation_are_kept_below_their_strategy(name: str) -> None:
    fields = {**FORECAST, "step": 20, "value": 0.5, "best": True, "metric": "token_f1"}
    told = Narrator().tell(name, fields)
    assert told.line is not None
    assert told.line.startswith("  ")
    assert told.activity is None
    assert Narrator().tell(name, {"steps": 3}).line is None  # of another shape


def test_a_step_says_all_there_is_to_know() -> None:
    clock = Clock()
    progress = TrainingProgress(clock)
    said = [progress.step(step(1, seconds=9.0))]
    for number in (2, 3):
        clock.now += 0.5
        said.append(progress.step(step(number)))
    assert said[0] == "loss 1.500, 1.4 GB, 40 supervised tokens"
    assert said[2] == "loss 1.500, 58 s left, 1,000 tokens/s, 1.4 GB, 120 supervised tokens"


def test_the_last_step_has_no_time_left() -> None:
    clock = Clock()
    progress = TrainingProgress(clock)
    progress.step(step(1, steps=2))
    clock.now = 0.5
    assert "left" not in progress.step(step(2, steps=2))


def test_another_training_of_the_same_part_is_measured_anew() -> None:
    clock = Clock()
    progress = TrainingProgress(clock)
    for number in (1, 2, 3):
        clock.now += 0.5
        progress.step(step(number))
    clock.now += 60
    assert progress.step(step(1)) == "loss 1.500, 1.4 GB, 40 supervised tokens"
    clock.now += 0.5
    assert "1,000 tokens/s" in progress.step(step(2))


def test_the_speed_is_the_recent_one() -> None:
    pace = Pace()
    now = 0.0
    for number in range(1, 12):  # the first ten take ten times as long
        pace.report(number, 100, now := now + 1.0)
    assert pace.tokens_per_second == pytest.approx(100)
    for number in range(12, 12 + RECENT_REPORTS):
        pace.report(number, 100, now := now + 0.1)
    assert pace.tokens_per_second == pytest.approx(1000)
    assert pace.seconds_left(50) == pytest.approx(5.0)


def test_a_first_step_that_warms_up_says_nothing_of_the_others() -> None:
    pace = Pace()
    pace.report(1, 100, 30.0, seconds=30.0)
    assert (pace.tokens_per_second, pace.seconds_left(9)) == (None, None)
    pace.report(2, 100, 31.0, seconds=1.0)
    assert (pace.tokens_per_second, pace.seconds_left(8)) == (100, 8.0)


def test_a_look_at_validation_is_spread_over_the_steps_and_is_not_in_the_speed() -> None:
    pace, now, left = Pace(), 0.0, []
    for number in range(1, 42):
        now += 1.0 + (4.0 if number > 1 and number % 10 == 1 else 0.0)  # of five seconds, four are validation's
        pace.report(number, 100, now, seconds=1.0)
        if number >= 31:
            left.append(pace.seconds_left(100))
    assert pace.tokens_per_second == pytest.approx(100)
    assert left[0] == pytest.approx(140.0)
    assert left[-1] == pytest.approx(140.0)
    assert all(seconds is not None and 125 < seconds < 145 for seconds in left)


def test_reports_of_several_steps_at_once_count_as_so_many() -> None:
    pace = Pace()
    pace.report(1, 100, 0.0)
    pace.report(6, 500, 2.5)
    assert (pace.tokens_per_second, pace.seconds_left(4)) == (200, 2.0)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (812, "812"),
        (36_864, "36,864"),
        (999_400, "999,400"),
        (999_600, "1.0 M"),
        (4_884_480, "4.9 M"),
        (99_600_000, "100 M"),
        (139_400_448, "139 M"),
        (999_700_000, "1.0 B"),
        (7_240_000_000, "7.2 B"),
    ],
)
def test_large_numbers_have_a_unit(number: int, text: str) -> None:
    assert large(number) == text


def test_amounts_read_as_a_person_says_them() -> None:
    assert gigabytes(1_449_000_000) == "1.4 GB"
    assert [percent(share) for share in (0.0, 0.004, 0.09, 1.0)] == ["0 %", "0.4 %", "9 %", "100 %"]
