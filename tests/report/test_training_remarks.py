"""What stands out in a training: each sentence where it holds, and silence where it does not."""

from __future__ import annotations

import random

import pytest
from written_trainings import a_training

from toolkit.report.training_remarks import remarks

LEVEL = [1.0] * 20
FALLING = [2.0 - 0.05 * step for step in range(20)]


def said(losses, looks=(), kept=None, how="by hand"):
    training = a_training(losses=tuple(losses), looks=tuple(looks), kept_step=kept, how=how)
    return " ".join(remarks(training, "token_f1"))


def test_a_training_in_which_nothing_stands_out_has_no_remark():
    assert said([3.0, 2.0, *LEVEL]) == ""
    assert said([1.0]) == ""


def test_a_loss_that_was_still_falling_is_named_with_its_figures():
    assert said(FALLING).startswith(
        "the loss was still falling at the last step (1.12 over the last 4 steps, 1.32 over those before)"
    )
    assert said(FALLING[:7]) == ""  # of fewer than eight steps nothing is said
    assert "still falling" in said(FALLING, [(0, 0.1), (20, 0.2)], kept=20)


def test_chance_between_batches_is_no_fall():
    dice = random.Random(3)
    found = [said([1.0 + dice.gauss(0, 0.3) for _ in range(60)]) for _ in range(50)]
    assert sum(text != "" for text in found) <= 5


def test_a_state_that_was_kept_earlier_asks_for_no_more_steps():
    assert "still falling" not in said(FALLING, [(0, 0.1), (10, 0.3), (20, 0.2)], kept=10)


@pytest.mark.parametrize(
    ("losses", "ended"),
    [
        (FALLING[::-1], "1.93 over the last 4 steps, 1.05 at the first"),
        (
            [4.9, 8.1, 15.0, 10.0, 10.0, 16.1, 10.9, 16.8, 55.8, 17.5, 20.0, 13.8],
            "26.77 over the last 4 steps, 4.90 at",
        ),
    ],
)
def test_a_loss_that_ended_above_its_start_is_named(losses, ended):
    assert said(losses).startswith(f"the loss ended above where it began ({ended}")


@pytest.mark.parametrize("losses", [[5.0, *FALLING[::-1]], [3.9, 5.0, 2.4, 3.6, 3.8, 4.7, 3.1, 3.9], [1.0, *[1.4] * 9]])
def test_a_loss_that_rose_a_little_or_from_below_its_start_is_not(losses):
    assert "ended above" not in said(losses)


def test_a_training_that_did_not_help_is_named():
    text = said(LEVEL, [(0, 0.3), (10, 0.3), (20, 0.1)], kept=0)
    assert text == (
        "no state did better on validation than the untrained one (token F1 30.0), which is what answers: training did "
        "not help."
    )


@pytest.mark.parametrize(
    ("losses", "last", "told"),
    [
        (LEVEL[:10] + [0.2] * 10, 0.2, True),
        (LEVEL[:10] + [0.2] * 10, 0.4, False),  # validation gained as well
        (LEVEL, 0.2, False),  # the loss did not fall on
    ],
)
def test_a_loss_that_left_validation_behind_is_named(losses, last, told):
    text = said(losses, [(0, 0.1), (10, 0.4), (20, last)], kept=10)
    assert ("what overfitting looks like; what answers is the state of step 10" in text) is told
    assert ("the loss fell on from 1.00 to 0.20" in text) is told


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ("by hand", ""),
        ("", ""),
        ("an engine to come", ""),
        (
            "padded, through autograd: a probe fails (KeyError: 'x: y')",
            "the fast step could not be used (a probe fails (KeyError: 'x: y')): its steps went through autograd, on "
            "padded rows.",
        ),
        (
            "packed, through autograd",
            "the fast step could not be used: its steps went through autograd, on rows without padding.",
        ),
    ],
)
def test_a_step_that_was_not_the_fast_one_is_named_with_its_reason(how, text):
    assert said(LEVEL, how=how) == text
