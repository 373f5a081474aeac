"""Loss curves: what is drawn, that seeds are told apart twice, and the same in words and characters."""

from __future__ import annotations

import re

import pytest
from written_trainings import a_training, falling

from toolkit.report.loss_curves import MOST_POINTS, described, epoch_ends, in_characters, loss_curves, smoothed


def made(losses, **fields):
    return a_training(losses=tuple(losses), **fields)


def drawn(*some):
    return loss_curves(some, "token_f1", "Loss by step: lora", "loss-1")


def strokes(svg):
    """Of each line with many points: its colour and its dashes."""
    styles = re.findall(r'<path d="(?:[^"L]*L){5}[^"]*"[^>]*style="([^"]*)"', svg)
    of = [dict(part.split(": ") for part in style.rstrip(";").split("; ")) for style in styles]
    return [(one["stroke"], one.get("stroke-dasharray")) for one in of]


def test_the_smoothed_line_keeps_a_level_and_shrinks_a_peak():
    assert smoothed([1.0] * 7) == [1.0] * 7
    assert smoothed([0.0, 0.0, 3.0, 0.0, 0.0]) == [0.0, 1.0, 1.0, 1.0, 0.0]
    assert smoothed([2.0]) == [2.0]
    peak = [0.0] * 50 + [41.0] + [0.0] * 50
    assert max(smoothed(peak)) == pytest.approx(41 / 11)  # five steps on either side of 101


def test_seeds_differ_in_colour_and_in_dashes_and_are_named():
    some = [made(falling(30, seed=seed), seed=seed) for seed in range(4)]
    svg = drawn(*some)
    styles = strokes(svg)
    assert len({colour for colour, _ in styles}) == 4
    assert len({dashes for _, dashes in styles}) == 4
    assert [svg.count(f">seed {seed}</text>") for seed in range(4)] == [1, 1, 1, 1]
    assert ">seed 0</text>" not in drawn(some[0])
    assert svg == drawn(*some)


def test_looks_have_a_panel_of_their_own_with_the_kept_state_filled():
    looks = ((0, 0.1), (10, 0.4), (20, 0.2))
    svg = drawn(made(falling(20), looks=looks, kept_step=10))
    assert "validation, points of token F1" in svg
    faces = re.findall(r'<use href="#[^"]+" x="[^"]+" y="[^"]+" style="fill: (#\w+); stroke: #0072b2', svg)
    assert faces == ["#ffffff", "#0072b2", "#ffffff"]
    without = drawn(made(falling(20)))
    assert "validation" not in without
    assert float(re.search(r'viewBox="0 0 \S+ (\S+)"', without).group(1)) < 220


def test_a_long_training_is_thinned_without_losing_its_peak():
    losses = falling(5000)
    losses[3333] = 50.0
    training = made(losses)
    svg = drawn(training)
    points = re.findall(r'<use href="#[^"]+" x="([^"]+)" y="([^"]+)"[^>]*fill-opacity', svg)
    assert MOST_POINTS <= len(points) <= MOST_POINTS + 2
    heights = sorted(float(y) for _, y in points)
    assert heights[1] - heights[0] > 50  # one point stands far above all others


def test_what_is_seen_is_also_said():
    training = made([2.0, 1.5, 1.0], looks=((0, 0.1), (3, 0.25)), kept_step=3)
    words = (
        "seed 0: loss 2.00 at step 1 and 1.00 at step 3; token F1 on validation 10.0 after step 0, 25.0 after step 3; "
        "kept: step 3."
    )
    assert described([training], "token_f1") == words
    assert f"<desc>{words}</desc>" in drawn(training)


def test_in_characters_all_seeds_stand_on_one_scale():
    high, low = made([4.0] * 9), made([2.0] * 9, seed=1, looks=((0, 0.1), (9, 0.3)), kept_step=9)
    assert in_characters([high, low], "token_f1").splitlines() == [
        "seed 0  loss                 4.00 █████████ 4.00 after step 9",
        "seed 1  loss                 2.00 ▁▁▁▁▁▁▁▁▁ 2.00 after step 9",
        "        validation token F1  10.0 ▁█ 30.0, kept: step 9",
    ]
    wide = in_characters([made(falling(1000))], "token_f1")
    assert len(re.findall("[▁▂▃▄▅▆▇█]", wide)) == 40


def test_ends_of_epochs_are_marked_unless_they_are_too_many():
    ends = {epoch: list(epoch_ends([made(falling(90), steps_an_epoch=epoch)])) for epoch in (30, 60, 2, None)}
    assert ends == {30: [30, 60], 60: [60], 2: [], None: []}


def test_preferences_have_a_loss_of_pairs():
    assert "loss, nats a pair" in drawn(made([0.69, 0.5], learn="preferences"))
    assert "loss, nats a token" in drawn(made([0.69, 0.5]))


@pytest.mark.parametrize("losses", [[1.0], [1.0, 1.0], [0.0, 0.0]])
def test_hardly_any_losses_are_drawn_all_the_same(losses):
    assert drawn(made(losses)).endswith("</svg>")
    assert in_characters([made(losses)], "token_f1").count("▁") == len(losses)
