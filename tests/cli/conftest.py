"""A finished run, its comparison and its ledger, made up."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from toolkit.cli import app
from toolkit.errors import DataError
from toolkit.rendering import TrainingSequence
from toolkit.runs.reopen import Shown
from toolkit.runs.taught import Taught
from toolkit.tasks.contract import ChoiceContract
from toolkit.tasks.example import Example, Span
from toolkit.tasks.output import Output, RetrievedPassage, Usage

WORDS = {1: "<|user|>", 2: "How", 3: " long?", 4: "<|assistant|>", 5: "14", 6: " days", 7: "<|end|>"}


class Tokenizer:
    """Seven tokens."""

    def decode(self, ids: list[int]) -> str:
        return "".join(WORDS[number] for number in ids)


EXAMPLE = Example(
    "test-1",
    {"question": "How long?", "context": {"site": "north"}},
    targets=("14 days", "two weeks"),
    group="leave",
    spans=(Span("leave", 120, 127),),
    slices=("taught",),
)
UNKNOWN = Example("test-2", {"question": "Why?"}, targets=())


def shown() -> list[Shown]:
    """What two strategies did with the example: one that retrieves and is tuned, one that asks no model."""
    output = Output(
        "test-1",
        "answered",
        answer="14 days",
        text="14 days.",
        termination="stop",
        confidence=0.8312,
        retrieved=(
            RetrievedPassage("leave", 100, 480, 0.712, 1),
            RetrievedPassage("travel", 0, 90, 0.5, 2, used=False),
        ),
        citations=("leave",),
        usage=Usage({"question": 3, "passages": 1, "demonstrations": 0}, 2, 1),
        prompt_token_ids=(1, 2, 3, 4),
        prompt_digest="8ab30011223344",
    )
    trained = TrainingSequence((1, 2, 3, 4, 5, 6, 7), (False,) * 4 + (True,) * 3)
    voted = Output("test-1", "answered", answer="b", choice_scores=(-3.0, -0.25, -2.0), termination="scored")
    sent = "<|user|>How\n long?<|assistant|>"
    return [Shown("lora_rag", 0, output, sent, trained), Shown("vote", None, voted, "", None)]


class FakeRun:
    """Stands for `FinishedRun`: its answers repeat the input in capitals."""

    def __init__(self, status: str = "answered") -> None:
        self.asked: list[Any] = []
        self._status = status
        bench = SimpleNamespace(model=SimpleNamespace(renderer=SimpleNamespace(tokenizer=Tokenizer())))
        self.prepared = SimpleNamespace(
            task=SimpleNamespace(test=(EXAMPLE, UNKNOWN), contract=ChoiceContract(("a", "b", "c"))),
            benches={"lora_rag": bench, "vote": bench},
        )

    def show(self, example_id: str) -> list[Shown]:
        if example_id != EXAMPLE.id:
            raise DataError(f"no strategy answered '{example_id}'")
        return shown()

    def training(self, rows: int) -> list[Taught]:
        first = TrainingSequence((1, 2, 3, 4, 5, 6, 7), (False,) * 4 + (True,) * 3)
        second = TrainingSequence((1, 2, 4, 5, 7), (False,) * 3 + (True, False))
        return [
            Taught("lora_rag", 0, f"train-{number}", sequence, why_not="it is too long for the model's context")
            for number, sequence in enumerate((first, second, None)[:rows], start=1)
        ]

    def text_input(self, text: str) -> dict[str, str]:
        return {"question": text}

    def predict(self, name: str, inputs: list[dict[str, str]]) -> list[Output]:
        self.asked.append((name, inputs))
        return [self._output(given["question"]) for given in inputs]

    def _output(self, question: str) -> Output:
        if self._status != "answered":
            return Output("new", self._status, text="no idea", error="too long" if self._status == "error" else "")  # type: ignore[arg-type]
        passage = RetrievedPassage("leave", 0, 9, 0.5, 1)
        return Output("new", "answered", question.upper(), question, confidence=0.5, retrieved=(passage,))


@pytest.fixture
def fake_run() -> Callable[..., FakeRun]:
    return FakeRun


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs a command line in this process; a defect raises here as it would show its traceback there."""
    monkeypatch.setenv("COLUMNS", "80")

    def invoke(*arguments: str, given: str | None = None) -> Result:
        result = CliRunner().invoke(app, list(arguments), input=given)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return invoke


@pytest.fixture
def comparison() -> dict[str, Any]:
    """As in `comparison.json`: a baseline, a better, a worse, a refused one and a control."""
    scores = {"zero_shot": 0.02, "rag_with_passages": 0.435, "few_shot": 0.01, "lora": 0.31, "oracle": 0.9}
    return {
        "recipe": "handbook",
        "task": "handbook",
        "metric": "token_f1",
        "n": 200,
        "smoke": False,
        "claim": "artefact: these fitted systems, seed 0, on examples like the test set's.",
        "baseline": "zero_shot",
        "strategies": {name: _strategy(name, score) for name, score in scores.items()},
        "contrasts": [
            _contrast("rag_with_passages", "BETTER", 0.415, (0.35, 0.48), 0.0004),
            _contrast("few_shot", "WORSE", -0.01, (-0.02, -0.001), 0.04),
            _contrast("lora", None, None, (None, None), None, refused="unequal trials"),
        ],
        "notes": ["The test set has been scored by 1 different recipe here."],
    }


@pytest.fixture
def ledger() -> dict[str, Any]:
    """As in `ledger.json`."""
    return {
        "strategies": {
            "zero_shot": _costs(0.0, None, None),
            "rag_with_passages": _costs(3.25, None, 1_250_000),
            "few_shot": _costs(0.01, None, None),
            "lora": _costs(93.0, 4_900_000, None),
        }
    }


def _strategy(name: str, score: float) -> dict[str, Any]:
    return {"score": score, "interval": [score - 0.01, score + 0.01], "label": name, "control": name == "oracle"}


def _contrast(
    name: str,
    verdict: str | None,
    difference: float | None,
    interval: tuple[float | None, float | None],
    p_holm: float | None,
    refused: str | None = None,
) -> dict[str, Any]:
    said = f"{name} {verdict} zero_shot by some points."
    if refused:
        said = f"{name} against zero_shot is refused: {refused}"
    return {
        "a": name,
        "b": "zero_shot",
        "metric": "token_f1",
        "difference": difference,
        "interval": list(interval),
        "p_value": p_holm,
        "p_holm": p_holm,
        "verdict": verdict,
        "resolvable_difference": 0.05,
        "varies": [],
        "margin": None,
        "sentence": said,
        "flips_when": "" if refused else "zero_shot gaining 35.0 points, the lower end of the interval.",
        "refused": refused,
    }


def _costs(fit: float, adapter: int | None, index: int | None) -> dict[str, Any]:
    return {
        "fixed": {"fit_seconds": fit, "adapter_bytes": adapter, "index_bytes": index},
        "per_query": {
            "seconds": 0.0421,
            "prompt_tokens": {"question": 60.0, "passages": 1200.0},
            "completion_tokens": 5.4,
            "latency_seconds": {"p50": 0.05, "p95": None},
        },
    }
