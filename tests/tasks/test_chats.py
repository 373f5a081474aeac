"""Conversations from a file: what is learnt of each, and what is wrong with lines that are none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from toolkit.errors import DataError
from toolkit.tasks.chats import read_chats
from toolkit.tasks.messages import Message

HELLO = {"role": "user", "content": "Hello there"}
ANSWER = {"role": "assistant", "content": "Good day"}


def read(tmp_path: Path, *lines: Any) -> tuple[list[tuple[int, tuple[Message, ...]]], list[str]]:
    """What is read of lines, given as text, bytes or messages, and the problems."""
    path = tmp_path / "chats.jsonl"
    raw = [line if isinstance(line, bytes) else json.dumps({"messages": line}).encode() for line in lines]
    path.write_bytes(b"\n".join(raw) + b"\n")
    problems: list[str] = []
    found = [(conversation.line, conversation.messages) for conversation in read_chats(path, problems)]
    return found, problems


def test_all_assistant_messages_are_learnt_but_those_of_no_weight(tmp_path: Path) -> None:
    system = {"role": "system", "content": "Be brief.\u2028"}
    unlearnt, weighed = {**ANSWER, "weight": 0}, {**ANSWER, "weight": 1}
    chat = [system, HELLO, ANSWER, HELLO, unlearnt, HELLO, weighed, HELLO]
    found, problems = read(tmp_path, chat, b"", [HELLO, ANSWER])
    assert problems == []
    assert [line for line, _ in found] == [1, 3]
    assert [(message.role, message.supervise) for message in found[0][1]] == [
        ("system", False),
        ("user", False),
        ("assistant", True),
        ("user", False),
        ("assistant", False),
        ("user", False),
        ("assistant", True),
        ("user", False),
    ]
    assert found[0][1][0].content == "Be brief.\u2028"
    assert found[1][1] == (Message("user", "Hello there"), Message("assistant", "Good day", supervise=True))


def test_other_keys_of_a_line_are_passed_over_and_so_is_a_byte_order_mark(tmp_path: Path) -> None:
    line = json.dumps({"messages": [{**HELLO, "name": "Ann"}, ANSWER], "source": "forum", "tools": []})
    found, problems = read(tmp_path, b"\xef\xbb\xbf" + line.encode())
    assert (len(found), problems) == (1, [])


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"{", "not JSON (Expecting property name"),
        (b"\xff{}", "not UTF-8 (invalid start byte at byte 0)"),
        (b"[1]", 'found list; give an object {"messages": [{"role": ..., "content": ...}, ...]}'),
        (b'{"conversations": []}', "found the keys conversations; give an object"),
        (b'{"messages": "hi"}', "found the keys messages; give an object"),
        (b'{"messages": [], "tools": [{"type": "function"}]}', "`tools` is not rendered here"),
        ([], "no assistant message, so nothing would be learnt"),
        ([HELLO], "no assistant message, so nothing would be learnt"),
        (["hi"], "message 1: found str; give an object"),
        ([{"role": "usr", "content": "hi"}, ANSWER], "message 1: unknown role 'usr' (did you mean 'user'?); roles are"),
        ([{"role": "tool", "content": "hi"}, ANSWER], "message 1: unknown role 'tool'"),
        ([{"role": ["user"], "content": "hi"}, ANSWER], "message 1: unknown role"),
        ([{"content": "hi"}, ANSWER], "message 1: unknown role"),
        ([HELLO, {"role": "assistant"}], "message 2: the content is no text but NoneType; give one string"),
        ([HELLO, {**ANSWER, "content": [{"type": "text"}]}], "message 2: the content is no text but list"),
        ([{**HELLO, "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,xx"}}]}, ANSWER],
         "message 1: the content holds an image: models are asked with text only here; give a caption"),
        ([HELLO, {**ANSWER, "content": " \n"}], "message 2: the content is empty"),
        ([HELLO, {**ANSWER, "content": "\ud800"}], "message 2: half a surrogate pair"),
        ([HELLO, {**ANSWER, "tool_calls": [{}]}], "message 2: `tool_calls` is not rendered here"),
        ([HELLO, {**ANSWER, "weight": 0.5}], "message 2: the weight is 0.5; 0 is not learnt, 1 is"),
        ([HELLO, {**ANSWER, "weight": True}], "message 2: the weight is True"),
        ([{**HELLO, "weight": 0}, ANSWER], "message 1: a weight at a user message"),
        ([HELLO, {**ANSWER, "weight": 0}], 'every assistant message has "weight": 0, so nothing would be learnt'),
        ([ANSWER, HELLO], "its first assistant message answers nobody"),
        ([HELLO, ANSWER, {"role": "system", "content": "s"}], "message 3: a system message after others"),
    ],
)  # fmt: skip
def test_a_line_that_is_no_conversation_is_told_with_its_place_and_what_to_do(
    tmp_path: Path, line: Any, said: str
) -> None:
    found, problems = read(tmp_path, [HELLO, ANSWER], line, [HELLO, ANSWER])
    assert [number for number, _ in found] == [1, 3]
    (problem,) = problems
    assert problem.startswith(f"chats.jsonl:2: {said}")


def test_a_file_without_conversations_or_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    assert read(tmp_path, b"", b" ") == ([], ["chats.jsonl: it holds no conversation; give one a line"])
    with pytest.raises(DataError, match="cannot be read"):
        list(read_chats(tmp_path, []))
