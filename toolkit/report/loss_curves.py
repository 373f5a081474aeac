"""Loss curves of a strategy's trainings, a line a seed, with the looks at validation under them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from toolkit.report import figures
from toolkit.report.drawing import GRID, QUIET, RULE, WIDTH_INCHES, inline, settled
from toolkit.report.trainings import Training

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LOSS_INCHES, LOOKS_INCHES, GAP_INCHES, ABOVE_INCHES, BELOW_INCHES = 1.9, 0.85, 0.42, 0.3, 0.52
LEFT_SHARE, RIGHT_SHARE = 0.062, 0.09
LINES: tuple[tuple[str, str | tuple[int, tuple[float, ...]]], ...] = (
    ("#0072b2", "solid"),
    ("#b34a00", (0, (5, 2))),
    ("#007a5a", (0, (1.5, 1.5))),
    ("#8a6d00", (0, (6, 2, 1.5, 2))),
)
"""Colour (after Okabe and Ito) and dashes of the seeds: each of the two tells them apart."""

SMOOTHED_SHARE = 1 / 20
"""Of all steps, that count on either side of a step in the smoothed line."""

FROM_ZERO_SHARE = 0.4
"""The axis starts at zero where the lowest loss is below this share of the highest."""

FEW_POINTS, MOST_POINTS, MOST_EPOCHS = 60, 200, 20
LABEL_GAP_INCHES = 0.16
BLOCKS = "▁▂▃▄▅▆▇█"


def smoothed(losses: Sequence[float]) -> list[float]:
    """Of each step the mean over the steps beside it, a twentieth of all on either side, one at least."""
    reach = max(1, round(SMOOTHED_SHARE * len(losses)))
    windows = (losses[max(0, step - reach) : step + reach + 1] for step in range(len(losses)))
    return [sum(window) / len(window) for window in windows]


def loss_curves(trainings: Sequence[Training], metric: str, title: str, salt: str) -> str:
    """Losses as faint points and a smoothed line; looks as dots, filled where that state was kept.

    Args:
        trainings: of one strategy.
        metric: that validation was looked at with.
        salt: of the ids within the drawing, its own on the page.
    """
    from matplotlib.figure import Figure

    looks = any(training.looks for training in trainings)
    under = BELOW_INCHES + (LOOKS_INCHES + GAP_INCHES if looks else 0.0)
    height = ABOVE_INCHES + LOSS_INCHES + under
    width = 1 - LEFT_SHARE - RIGHT_SHARE
    with settled(salt):
        figure = Figure(figsize=(WIDTH_INCHES, height))
        upper = figure.add_axes((LEFT_SHARE, under / height, width, LOSS_INCHES / height))
        _losses(upper, trainings)
        lowest = upper
        if looks:
            lowest = figure.add_axes((LEFT_SHARE, BELOW_INCHES / height, width, LOOKS_INCHES / height), sharex=upper)
            _looks(lowest, trainings, metric)
            upper.tick_params(labelbottom=False)
        lowest.set_xlabel("step", color=QUIET)
        return inline(figure, title, salt, described(trainings, metric))


def described(trainings: Sequence[Training], metric: str) -> str:
    """What the drawing shows, in words."""
    said = []
    for training in trainings:
        first, last = (figures.loss(training.losses[place]) for place in (0, -1))
        line = f"loss {first} at step 1 and {last} at step {training.steps:,}"
        if training.looks:
            values = ", ".join(f"{figures.amount(value, metric)} after step {step:,}" for step, value in training.looks)
            line += f"; {figures.plain(metric)} on validation {values}"
            line += "" if training.kept_step is None else f"; kept: step {training.kept_step:,}"
        said.append(f"{seed_words(training.seed)}: {line}.")
    return " ".join(said)


def in_characters(trainings: Sequence[Training], metric: str, width: int = 40) -> str:
    """The same for Markdown: a line of blocks a seed, all on one scale, and one for its looks at validation."""
    means = [_thinned(smoothed(training.losses), width) for training in trainings]
    looks = [[value for _, value in training.looks] for training in trainings]
    rows: list[tuple[str, str, str, str, str]] = []
    for training, mean, values in zip(trainings, means, looks, strict=True):
        ends = [figures.loss(training.losses[place]) for place in (0, -1)]
        after = f"after step {training.steps:,}"
        rows.append((seed_words(training.seed), "loss", ends[0], _blocks(mean, means), f"{ends[1]} {after}"))
        if values:
            ends = [figures.amount(values[place], metric) for place in (0, -1)]
            kept = "" if training.kept_step is None else f", kept: step {training.kept_step:,}"
            blocks = _blocks(_thinned(values, width), looks)
            rows.append(("", f"validation {figures.plain(metric)}", ends[0], blocks, f"{ends[1]}{kept}"))
    widths = [max(len(row[place]) for row in rows) for place in range(3)]
    return "\n".join(
        f"{seed:<{widths[0]}}  {name:<{widths[1]}}  {first:>{widths[2]}} {drawn} {last}"
        for seed, name, first, drawn, last in rows
    )


def epoch_ends(trainings: Sequence[Training]) -> range:
    """Steps after which an epoch ended and another began; none where it is unknown or they are too many to show."""
    epoch, steps = trainings[0].steps_an_epoch, max(training.steps for training in trainings)
    return range(0) if not epoch or steps / epoch > MOST_EPOCHS else range(epoch, steps, epoch)


def seed_words(seed: int | None) -> str:
    return "no seed" if seed is None else f"seed {seed}"


def _losses(axes: Axes, trainings: Sequence[Training]) -> None:
    ends = []
    for place, training in enumerate(trainings):
        colour, dashes = LINES[place % len(LINES)]
        steps = _shown(training.losses)
        size = 4.5 if len(steps) <= FEW_POINTS else 3.0
        points = [training.losses[step] for step in steps]
        numbers = [step + 1 for step in steps]
        axes.plot(numbers, points, linestyle="none", marker="o", markersize=size, color=colour, alpha=0.4, mew=0)
        means = smoothed(training.losses)
        axes.plot(numbers, [means[step] for step in steps], color=colour, linestyle=dashes, linewidth=1.8)
        ends.append((means[-1], training, colour))
    every = [loss for training in trainings for loss in training.losses]
    if min(every) < FROM_ZERO_SHARE * max(every):
        axes.set_ylim(bottom=0.0)
    _frame(axes, trainings, f"loss, nats a {'pair' if trainings[0].learn == 'preferences' else 'token'}")
    if len(trainings) > 1:
        _label(axes, ends)


def _looks(axes: Axes, trainings: Sequence[Training], metric: str) -> None:
    scale = 100.0 if figures.in_points(metric) else 1.0
    for place, training in enumerate(trainings):
        colour, dashes = LINES[place % len(LINES)]
        steps, values = ([look[side] for look in training.looks] for side in (0, 1))
        values = [scale * value for value in values]
        axes.plot(steps, values, color=colour, linestyle=dashes, linewidth=1.2)
        for step, value in zip(steps, values, strict=True):
            face = colour if step == training.kept_step else "white"
            axes.plot(step, value, marker="o", markersize=6, color=colour, markerfacecolor=face, mew=1.4)
    axes.margins(y=0.18)
    _frame(axes, trainings, f"validation, {figures.unit(metric)}")


def _frame(axes: Axes, trainings: Sequence[Training], what: str) -> None:
    from matplotlib.ticker import MaxNLocator

    steps = max(training.steps for training in trainings)
    axes.set_xlim(-0.01 * steps, 1.01 * steps)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4))
    axes.set_title(what, loc="left", color=QUIET, fontsize=9.5, pad=5)
    axes.tick_params(colors=QUIET, length=3)
    for name in ("top", "left", "right"):
        axes.spines[name].set_visible(False)
    axes.spines["bottom"].set_color(RULE)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for end in epoch_ends(trainings):
        axes.axvline(end, color=RULE, linewidth=1.0, linestyle=(0, (1, 2)), zorder=0)


def _label(axes: Axes, ends: Sequence[tuple[float, Training, str]]) -> None:
    """The seeds' names beside the ends of their lines, moved apart where these meet."""
    low, high = axes.get_ylim()
    gap = LABEL_GAP_INCHES / LOSS_INCHES
    above = 0.0
    for value, training, colour in sorted(ends, key=lambda end: end[0]):
        above = max((value - low) / ((high - low) or 1.0), above)
        text = seed_words(training.seed)
        axes.text(1.012, above, text, transform=axes.transAxes, va="center", color=colour, weight="bold", size=8.5)
        above += gap


def _shown(losses: Sequence[float]) -> list[int]:
    """Steps (from 0) that are drawn: all, or of each stretch the lowest and the highest, so that no peak is lost."""
    steps = range(len(losses))
    if len(losses) <= MOST_POINTS:
        return list(steps)
    parts = [steps[start:end] for start, end in _stretches(len(losses), MOST_POINTS // 2)]
    ends = {limit(part, key=lambda step: losses[step]) for part in parts for limit in (min, max)}
    return sorted(ends | {0, len(losses) - 1})


def _thinned(values: Sequence[float], most: int) -> list[float]:
    """At most so many: means of stretches of equal length."""
    return [sum(values[start:end]) / (end - start) for start, end in _stretches(len(values), min(most, len(values)))]


def _stretches(length: int, count: int) -> Iterator[tuple[int, int]]:
    """So many stretches, as equal as can be, that cover a length: where each starts and ends."""
    return pairwise(length * place // count for place in range(count + 1))


def _blocks(values: Sequence[float], among: Sequence[Sequence[float]]) -> str:
    """Values as blocks, from the lowest to the highest of all that are drawn together."""
    known = [value for some in among for value in some]
    low, high = min(known), max(known)
    return "".join(BLOCKS[round((value - low) / ((high - low) or 1.0) * (len(BLOCKS) - 1))] for value in values)
