"""Chats: a JSON Lines file of conversations to learn from, as OpenAI's fine-tuning and chat data sets have them.

Each line is `{"messages": [{"role": ..., "content": ...}, ...]}`. Every assistant message is learnt but those that say
`"weight": 0`. Other keys of a line are passed over, but for those that would change what the model reads.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

from toolkit.errors import DataError, nearest
from toolkit.tasks.images import ADVICE, holds_image
from toolkit.tasks.messages import Message
from toolkit.tasks.problems import excerpt

ChatRole = Literal["system", "user", "assistant"]
"""A tool's answers would stand without the calls, which are no text."""

TOOLS = ("tools", "functions", "tool_calls", "function_call")
"""What no message's text says: a chat that has it would be learnt without it."""


@dataclass(frozen=True)
class Conversation:
    """One line of a file; the assistant messages to be learnt are marked `supervise`."""

    line: int
    messages: tuple[Message, ...]


def read_chats(path: Path, problems: list[str]) -> Iterator[Conversation]:
    """The conversations of a file, line by line; of lines that are none the problems, as `file:line: what`.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            count = 0
            for number, raw in enumerate(file, start=1):
                if not raw.strip():
                    continue
                count += 1
                try:
                    yield Conversation(number, _messages(_row(raw)))
                except DataError as error:
                    problems.append(f"{path.name}:{number}: {error}")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    if not count:
        problems.append(f"{path.name}: it holds no conversation; give one a line")


def _row(raw: bytes) -> Mapping[str, Any]:
    try:
        row = json.loads(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8 ({error.reason} at byte {error.start}); save the file as UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"not JSON ({error}); give one object a line") from None
    if not isinstance(row, dict) or not isinstance(row.get("messages"), list):
        found = f"the keys {', '.join(sorted(row)) or 'none'}" if isinstance(row, dict) else type(row).__name__
        raise DataError(f'found {found}; give an object {{"messages": [{{"role": ..., "content": ...}}, ...]}}')
    return row


def _messages(row: Mapping[str, Any]) -> tuple[Message, ...]:
    _refuse_tools(row)
    messages: list[Message] = []
    for number, said in enumerate(row["messages"], start=1):
        try:
            messages.append(_message(said))
        except DataError as error:
            raise DataError(f"message {number}: {error}") from None
        if messages[-1].role == "system" and number > 1:
            raise DataError(f"message {number}: a system message after others; it opens a conversation")
    roles = [message.role for message in messages]
    if "assistant" not in roles:
        raise DataError("no assistant message, so nothing would be learnt; add one or leave the conversation out")
    if "user" not in roles[: roles.index("assistant")]:
        raise DataError("its first assistant message answers nobody; put the user's message before it")
    if not any(message.supervise for message in messages):
        raise DataError(
            'every assistant message has "weight": 0, so nothing would be learnt; take it from one or leave the '
            "conversation out"
        )
    return tuple(messages)


def _message(said: Any) -> Message:
    if not isinstance(said, dict):
        raise DataError(f'found {type(said).__name__}; give an object {{"role": ..., "content": ...}}')
    _refuse_tools(said)
    role, content, weight = said.get("role"), said.get("content"), said.get("weight", 1)
    if role not in get_args(ChatRole):
        known = get_args(ChatRole)
        near = nearest(role, known) if isinstance(role, str) else ""
        raise DataError(f"unknown role {excerpt(str(role))}{near}; roles are {', '.join(known)}")
    if holds_image(content):
        raise DataError(f"the content holds an image: {ADVICE}")
    if not isinstance(content, str):
        raise DataError(f"the content is no text but {type(content).__name__}; give one string")
    if not content.strip():
        raise DataError("the content is empty; write what was said or leave the message out")
    try:
        content.encode()
    except UnicodeEncodeError:
        raise DataError("half a surrogate pair in the content, which no tokeniser can read; remove it") from None
    if isinstance(weight, bool) or weight not in (0, 1):
        raise DataError(f"the weight is {weight!r}; 0 is not learnt, 1 is, and nothing lies between")
    if "weight" in said and role != "assistant":
        raise DataError(f"a weight at a {role} message; only the assistant's are learnt, leave it out")
    return Message(cast(ChatRole, role), content, supervise=role == "assistant" and weight == 1)


def _refuse_tools(said: Mapping[str, Any]) -> None:
    if found := [key for key in TOOLS if said.get(key)]:
        raise DataError(f"`{found[0]}` is not rendered here, and would be missing; write calls as text or leave it out")
