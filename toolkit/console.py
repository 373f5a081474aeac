"""The live view of a run: events as lines that stay, and what goes on now as a line that is drawn again.

Where standard error is no terminal there are lines only.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TextIO

from toolkit.meter import Listener
from toolkit.progress import TrainingProgress, forecast, validated
from toolkit.terminal import counted, duration, is_live

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

Clock = Callable[[], float]

BETWEEN_LINES_SECONDS = 10.0
"""Where lines stay, what goes on is told no more often than this."""


@dataclass(frozen=True)
class Activity:
    """What goes on now: `done` of `total` (0 where nothing is known), and more about it."""

    what: str
    done: int = 0
    total: int = 0
    detail: str = ""


@dataclass(frozen=True)
class Told:
    """What an event says: a line to keep, and what goes on from now on (None: as before)."""

    line: str | None = None
    activity: Activity | None = None


class Narrator:
    """Events in words.

    Args:
        fits: how many systems will be fitted and asked, for `[2/5]`; None where unknown.
        clock: seconds, for speeds and the time left.
    """

    def __init__(self, fits: int | None = None, clock: Clock = time.monotonic) -> None:
        self._fits, self._clock = fits, clock
        self._strategy, self._number, self._trials = "", 0, 0
        self._started = clock()
        self._training = TrainingProgress(clock)

    def tell(self, name: str, fields: Mapping[str, Any]) -> Told:
        """One event. One that is not known here, or comes from an adapter in another shape, says nothing."""
        speak: Callable[[Mapping[str, Any]], Told] | None = getattr(self, f"_on_{name}", None)
        try:
            return Told() if speak is None else speak(fields)
        except (KeyError, TypeError, ValueError, ZeroDivisionError):
            return Told()  # a view must not stop a run

    def _on_notice(self, fields: Mapping[str, Any]) -> Told:
        text = str(fields["text"])
        return Told(text) if fields.get("settled") else Told(text, Activity(text.partition(":")[0] + ": fetching"))

    def _on_model(self, fields: Mapping[str, Any]) -> Told:
        if fields.get("url"):
            return Told(f"model {fields['model']}: {' then '.join(fields['served'])}, served at {fields['url']}")
        where = f" on {fields['device']}" if fields.get("device") else ""
        return Told(f"model {fields['model']}: {fields['dtype']}{where} ({fields['why']})")

    def _on_strategy(self, fields: Mapping[str, Any]) -> Told:
        self._strategy, self._trials = str(fields["strategy"]), 0
        self._number += 1
        place = f"[{self._number}/{self._fits}] " if self._fits else ""
        seed = "" if fields.get("seed") is None else f", seed {fields['seed']}"
        return Told(f"{place}{self._strategy}: {fields['label']}{seed}", Activity(self._strategy))

    def _on_fit(self, fields: Mapping[str, Any]) -> Told:
        self._training = TrainingProgress(self._clock)
        return Told(activity=self._now(f"fitting {fields['adapter']}"))

    def _on_drafts(self, fields: Mapping[str, Any]) -> Told:
        return Told(activity=self._now(f"building {fields['examples']:,} training prompts"))

    def _on_texts(self, fields: Mapping[str, Any]) -> Told:
        return Told(activity=self._now(f"cutting {counted(int(fields['documents']), 'document')} into windows"))

    def _on_index(self, fields: Mapping[str, Any]) -> Told:
        return Told(activity=self._now(f"indexing {fields['documents']:,} documents"))

    def _on_train(self, fields: Mapping[str, Any]) -> Told:
        detail = self._training.step(fields)
        return Told(activity=self._now("training", int(fields["step"]), int(fields["steps"]), detail))

    def _on_forecast(self, fields: Mapping[str, Any]) -> Told:
        return Told(f"  {forecast(fields)}")

    def _on_validated(self, fields: Mapping[str, Any]) -> Told:
        return Told(f"  {validated(fields)}")

    def _on_trial(self, fields: Mapping[str, Any]) -> Told:
        self._trials += 1
        return Told(f"  trial {self._trials} on validation: {fields['value']:.3f}")

    def _on_answer(self, fields: Mapping[str, Any]) -> Told:
        self._started = self._clock()
        done, chunks = int(fields["done"]), int(fields["chunks"])
        if done == chunks:
            return Told("  answers stand already", self._now("answered", done, chunks))
        line = f"  {done} of {chunks} chunks stand already" if done else None
        return Told(line, self._now("answering", done, chunks))

    def _on_chunk(self, fields: Mapping[str, Any]) -> Told:
        done, chunks, examples = int(fields["chunk"]), int(fields["chunks"]), int(fields["examples"])
        activity = self._now("answering", done, chunks, f"{examples:,} examples")
        if done < chunks:
            return Told(activity=activity)
        return Told(f"  {examples:,} examples answered in {duration(self._clock() - self._started)}", activity)

    def _on_statistics(self, fields: Mapping[str, Any]) -> Told:
        return Told("statistics", Activity(f"comparing {fields['strategies']} systems"))

    def _on_merge(self, fields: Mapping[str, Any]) -> Told:
        what = f"{fields['strategy']}: what merging the adapter would change"
        return Told(activity=Activity(f"{what}, on {counted(int(fields['examples']), 'example')}"))

    def _on_timed(self, fields: Mapping[str, Any]) -> Told:
        done, total = int(fields["done"]), int(fields["examples"])
        if done < total:
            return Told(activity=Activity(f"timing {fields['strategy']} one by one", done, total))
        line = f"timed {fields['strategy']} one by one on {counted(total, 'example')}"
        return Told(line, Activity("timing one by one"))  # whose turn is next, no event says

    def _on_stage(self, fields: Mapping[str, Any]) -> Told:
        took = duration(float(fields["seconds"]))
        if fields["stage"] == "load":
            return Told(f"loaded in {took}")
        if fields["stage"] == "index":
            return Told(f"  corpus indexed in {took}")
        if fields["stage"] == "train":
            return Told(f"  trained on {fields['tokens']:,} tokens in {took}")
        return Told()

    def _now(self, what: str, done: int = 0, total: int = 0, detail: str = "") -> Activity:
        return Activity(f"{self._strategy}: {what}" if self._strategy else what, done, total, detail)


@contextmanager
def listening(quiet: bool = False, fits: int | None = None, stream: TextIO | None = None) -> Iterator[Listener]:
    """A listener for `run`, on standard error: a live view on a terminal, else plain lines, or problems only."""
    target = stream or sys.stderr
    if quiet:
        yield lambda name, fields: print(fields["text"], file=target) if fields.get("problem") else None
    elif is_live(target):
        with _live(Narrator(fits), target) as listener:
            yield listener
    else:
        yield PlainLines(Narrator(fits), target)


def notices(name: str, fields: Mapping[str, Any]) -> None:
    """A listener that tells only of downloads, for commands whose result is all that counts."""
    if name == "notice":
        print(fields["text"], file=sys.stderr, flush=True)


class PlainLines:
    """A listener that writes lines: those to keep, and now and then what goes on."""

    def __init__(self, narrator: Narrator, stream: TextIO, clock: Clock = time.monotonic) -> None:
        self._narrator, self._stream, self._clock = narrator, stream, clock
        self._last = clock()

    def __call__(self, name: str, fields: Mapping[str, Any]) -> None:
        told = self._narrator.tell(name, fields)
        now = self._clock()
        if told.line is not None:
            self._write(told.line, now)
        elif told.activity is not None and now - self._last >= BETWEEN_LINES_SECONDS:
            self._write(f"  {in_words(told.activity)}", now)

    def _write(self, line: str, now: float) -> None:
        print(line, file=self._stream, flush=True)
        self._last = now


def in_words(activity: Activity) -> str:
    """`lora: training 12/45, loss 1.234, 24 s left, 1,830 tokens/s`."""
    counted = f" {activity.done}/{activity.total}" if activity.total else ""
    return f"{activity.what}{counted}{f', {activity.detail}' if activity.detail else ''}"


def _broken(activity: Activity, columns: int) -> tuple[str, str]:
    """In words, with as many whole items of its detail as fit, and the items that do not."""
    items = activity.detail.split(", ")
    rest: list[str] = []
    while len(said := in_words(replace(activity, detail=", ".join(items)))) > columns and items:
        rest.insert(0, items.pop())
    return said, ", ".join(rest)


@contextmanager
def _live(narrator: Narrator, stream: TextIO) -> Iterator[Listener]:
    from rich.console import Console
    from rich.live import Live

    console = Console(file=stream, highlight=False, markup=False)
    shown = Now(time.monotonic)
    with Live(console=console, get_renderable=lambda: shown.line(console.width), refresh_per_second=5, transient=True):

        def listen(name: str, fields: Mapping[str, Any]) -> None:
            told = narrator.tell(name, fields)
            if told.line is not None:
                _keep(console, told.line)
            if told.activity is not None:
                shown.set(told.activity)

        yield listen


def _keep(console: Console, line: str) -> None:
    style = "bold" if line.startswith("[") else "" if line.startswith("  ") else "dim"
    console.print(line, style=style, soft_wrap=True)


class Now:
    """The line drawn again and again: a bar, what goes on, and for how long it has."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._since = clock()
        self._activity = Activity("starting")

    def set(self, activity: Activity) -> None:
        if activity.what != self._activity.what:
            self._since = self._clock()
        self._activity = activity

    def line(self, width: int) -> RenderableType:
        """For so many columns; what of its detail does not fit comes in a second line."""
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        activity = self._activity
        columns = 16 if width >= 100 else 10
        bar = ProgressBar(activity.total or None, activity.done, width=columns, pulse=not activity.total)
        elapsed = Text(duration(self._clock() - self._since), style="dim", no_wrap=True)
        said, rest = _broken(activity, width - columns - len(elapsed) - 2)
        grid = Table.grid(padding=(0, 1))
        grid.add_row(bar, Text(said, no_wrap=True, overflow="ellipsis"), elapsed)
        if rest:
            grid.add_row("", Text(rest, style="dim"))
        return grid
