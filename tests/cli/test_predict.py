from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from typer.testing import Result

import toolkit.runs.reopen

Command = Callable[..., Result]


@pytest.fixture
def predict(monkeypatch: pytest.MonkeyPatch, command: Command, fake_run: Callable[..., Any]) -> Command:
    def invoke(*arguments: str, given: str | None = None, status: str = "answered") -> Result:
        monkeypatch.setattr(toolkit.runs.reopen, "reopen", lambda root, listener: fake_run(status))
        return command("predict", "runs/fake", "rag", *arguments, given=given)

    return invoke


def test_a_text_is_answered(predict: Command) -> None:
    result = predict("how long?")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "HOW LONG?\n", "")


def test_the_whole_of_standard_input_is_one_text(predict: Command) -> None:
    assert predict(given="how\nlong?\n").stdout == "HOW\nLONG?\n"


def test_json_gives_a_record(predict: Command) -> None:
    record = json.loads(predict("why", "--json").stdout)
    assert record["answer"] == "WHY"
    assert record["status"] == "answered"
    assert record["confidence"] == 0.5
    assert record["retrieved"] == [{"document": "leave", "start": 0, "end": 9, "score": 0.5, "rank": 1, "used": True}]


def test_json_lines_in_give_json_lines_out_in_order(predict: Command) -> None:
    given = '\ufeff{"question": "a"}\n\n{"id": "q2", "inputs": {"question": "b"}, "targets": ["x"]}\n'
    records = [json.loads(line) for line in predict("--jsonl", given=given).stdout.splitlines()]
    assert [record["answer"] for record in records] == ["A", "B"]
    assert "id" not in records[0]
    assert records[1]["id"] == "q2"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ('{"question": "a"}\n{"question": \n', "standard input:2: not JSON"),
        ('["a"]\n', "standard input:1: expected an object of inputs, found list"),
        ("\n\n", "standard input holds no line"),
    ],
)
def test_a_bad_line_is_named_by_its_number(predict: Command, given: str, said: str) -> None:
    result = predict("--jsonl", given=given)
    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stdout == ""


def test_an_empty_text_is_refused(predict: Command) -> None:
    result = predict(given=" \n")
    assert result.exit_code == 2
    assert "there is no text to answer" in result.stderr


def test_a_text_and_json_lines_together_are_refused(predict: Command) -> None:
    assert "leave out the text" in predict("text", "--jsonl").stderr


def test_an_unparsable_answer_is_shown_and_said_to_be_one(predict: Command) -> None:
    result = predict("why", status="unparsable")
    assert (result.exit_code, result.stdout) == (0, "no idea\n")
    assert result.stderr.startswith("note: ")


def test_an_abstention_is_the_models_phrase(predict: Command) -> None:
    assert predict("why", status="abstained").stdout == "no idea\n"


def test_an_error_is_code_2_and_stays_a_record_in_json(predict: Command) -> None:
    plain, record = predict("why", status="error"), predict("why", "--json", status="error")
    assert (plain.exit_code, plain.stderr) == (2, "error: too long\n")
    assert json.loads(record.stdout)["error"] == "too long"
