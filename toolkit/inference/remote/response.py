"""From what a server sent to an answer, or to the fault in it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from toolkit.inference.remote.faults import Passing
from toolkit.tasks.output import Termination

END = "[DONE]"
"""The data of the event that ends a stream; some servers leave it out."""

BROKEN = ("error", "abort")
"""Reasons for an end that a server gives for what is no answer."""

ASKED_WRONGLY = "check `model`, `url` (most end in `/v1`), and whether the prompt is too long"
EXCERPT_CHARACTERS = 200


@dataclass(frozen=True)
class Reply:
    """One answer of a server. Tokens are by its own count, None where it gives none."""

    text: str
    termination: Termination
    confidence: float | None
    prompt_tokens: int | None
    completion_tokens: int | None


def read_reply(raw: bytes) -> Reply:
    """A whole answer, sent as one JSON object or as server-sent events (which of the two, its bytes tell).

    Raises:
        Passing: it is no JSON, has no choices, is half a stream, or tells an error.
    """
    text = raw.decode("utf-8", errors="replace").lstrip("\ufeff \r\n\t")
    if text.startswith(("data:", "event:", "error:", "id:", "retry:", ":")):
        if fault := next((line for line in text.split("\n") if line.startswith("error:")), None):  # llama.cpp's own
            raise Passing("an error in the stream", ASKED_WRONGLY, said=fault.removeprefix("error:"))
        return _from_events([_object(data) for data in _events(text)], END in _data(text))
    found = _object(text)
    choice = _choice(found)
    if choice is None:
        raise Passing("an answer without choices")
    if not isinstance(choice.get("message"), dict) and not isinstance(choice.get("text"), str):
        raise Passing("an answer without a message")
    said, finish = _whole(_text(choice)), choice.get("finish_reason")
    if finish is None and not said:  # as some routers answer while a model is still being loaded
        raise Passing("an answer without text or a reason for its end")
    return Reply(said, _termination(finish), _confidence(_logprobs(choice)), *_usage(found))


def _from_events(events: Sequence[Mapping[str, Any]], done: bool) -> Reply:
    said: list[str] = []
    logprobs: list[float] = []
    finish: object = None
    usage: tuple[int | None, int | None] = (None, None)
    for event in events:
        if event.get("usage"):
            usage = _usage(event)
        choice = _choice(event)
        if choice is not None:
            said.append(_text(choice))
            logprobs += _logprobs(choice)
            finish = choice.get("finish_reason") or finish
    if finish is None and not (done and any(said)):
        raise Passing("half an answer: the stream ended before it said so")
    return Reply(_whole("".join(said)), _termination(finish), _confidence(logprobs), *usage)


def _events(text: str) -> list[str]:
    """The data of each event, without the mark that ends the stream."""
    return [item for item in _data(text) if item and item != END]


def _data(text: str) -> list[str]:
    """Cut at line feeds only: `splitlines` would also cut where an answer holds U+2028."""
    return [line.removeprefix("data:").strip() for line in text.split("\n") if line.startswith("data:")]


def _object(text: str) -> Mapping[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Passing("an answer that is no JSON") from error
    if not isinstance(found, dict):
        raise Passing("an answer that is no JSON object")
    _check(found)
    return found


def _check(found: Mapping[str, Any]) -> None:
    """Some servers send errors with status 200."""
    if found.get("error"):
        raise Passing("an error in place of an answer", ASKED_WRONGLY, said=_written(found["error"]))


def _written(error: object) -> str:
    message = error.get("message") if isinstance(error, dict) else error
    return message if isinstance(message, str) else json.dumps(error, ensure_ascii=False)


def excerpt(text: str) -> str:
    """The start of what a server said, on one line, in brackets; nothing where it said nothing."""
    words = " ".join("".join(one if one.isprintable() else " " for one in _whole(text)).split())
    return f" ({words[:EXCERPT_CHARACTERS]})" if words else ""


def _choice(found: Mapping[str, Any]) -> Mapping[str, Any] | None:
    choices = found.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(first, dict):
        return None
    _check(first)
    if first.get("finish_reason") in BROKEN:
        raise Passing("an answer that the server broke off")
    return first


def _text(choice: Mapping[str, Any]) -> str:
    """Of a message, a piece of one, or a plain completion; a list of parts is joined."""
    message = choice.get("message") or choice.get("delta")
    content = message.get("content") if isinstance(message, dict) else choice.get("text")
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, dict)]
        return "".join(text for text in texts if isinstance(text, str))
    return content if isinstance(content, str) else ""


def _whole(text: str) -> str:
    """A stream may cut a character between its two surrogates, or send half of one: joined, or marked as broken."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _termination(finish: object) -> Termination:
    return "length" if finish in ("length", "max_tokens") else "stop"


def _logprobs(choice: Mapping[str, Any]) -> list[float]:
    """Of the generated tokens: chat answers list objects under `content`, completions plain numbers."""
    found = choice.get("logprobs")
    if not isinstance(found, dict):
        return []
    plain, rich = found.get("token_logprobs"), found.get("content")
    items = plain if isinstance(plain, list) else rich if isinstance(rich, list) else []
    values = [item.get("logprob") if isinstance(item, dict) else item for item in items]
    return [float(value) for value in values if isinstance(value, int | float) and math.isfinite(value)]


def _confidence(logprobs: Sequence[float]) -> float | None:
    """The geometric mean probability of the tokens; of the stop token too where the server lists it."""
    return min(1.0, math.exp(sum(logprobs) / len(logprobs))) if logprobs else None


def _usage(found: Mapping[str, Any]) -> tuple[int | None, int | None]:
    usage = found.get("usage")
    if not isinstance(usage, dict):
        return None, None
    counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
    first, second = (count if isinstance(count, int) and count >= 0 else None for count in counts)
    return first, second
