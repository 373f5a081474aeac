"""Chat: messages to the model's own chat format, so that data can never become a control token.

The chat template of the model alone writes role marks and BOS. A control token's spelling inside a message is broken
with a guard character before the template runs; the text is then cut at the guards and tokenised piece by piece, so
no tokeniser can join the halves again. Where no such spelling occurs, the ids equal plain tokenisation of the text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from typing import Any

from toolkit.errors import DataError, ModelError
from toolkit.tasks.messages import Message

TODAY = date(2025, 1, 1)
"""The date for chat templates that print one: the same on every day, else no run could be repeated."""

THINKING = "<think>"

PLAIN_CHAT = (
    "{{ bos_token if bos_token and opens_with_bos else '' }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] + '\n\n' }}"
    "{% elif message['role'] == 'assistant' %}{{ 'Answer:\n' + message['content'] + (eos_token or '\n\n') + '\n\n' }}"
    "{% else %}{{ message['content'] + '\n\n' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Answer:\n' }}{% endif %}"
)
"""For base models, which carry no chat template."""


class Chat:
    """A tokeniser's chat format.

    Args:
        tokenizer: a transformers tokeniser (fast).

    Attributes:
        opens_with_bos: whether the tokeniser puts BOS in front of a text.

    Raises:
        ModelError: the chat template fails on a plain conversation, or has every answer begin with thoughts.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._template: str | None = None if tokenizer.chat_template else PLAIN_CHAT
        self.opens_with_bos = _adds_bos(tokenizer)
        self._control = _control_pattern(tokenizer)
        self._folds_system = False
        self._probe()

    def token_ids(self, messages: Sequence[Message], opens_answer: bool) -> list[int]:
        """Ids of the conversation; `opens_answer` adds the opening of the assistant's turn."""
        guard = _guard(messages)
        escaped = [replace(message, content=self._escape(message.content, guard)) for message in messages]
        return [i for piece in self._text(escaped, opens_answer).split(guard) for i in self._ids(piece)]

    def encode(self, text: str) -> list[int]:
        """Ids of plain text: no special tokens added, none recognised."""
        guard = _guard([Message("user", text)])
        return [i for piece in self._escape(text, guard).split(guard) for i in self._ids(piece)]

    def control_tokens_in(self, text: str) -> list[str]:
        """Control tokens whose spelling occurs in a text."""
        return sorted(set(self._control.findall(text))) if self._control else []

    def stop_ids(self) -> tuple[int, ...]:
        """The token that ends an assistant's turn: the first control token after its content, else EOS."""
        mark = "\ue123"
        said = [Message("system", "s"), Message("user", "u"), Message("assistant", mark)]
        ends = self._text(said, False).split(mark, 1)[-1]
        control = set(_control_ids(self.tokenizer).values())
        for token in self._ids(ends):
            if token in control:
                return (token,)
        if self.tokenizer.eos_token_id is None:
            raise ModelError("the tokeniser has neither an end-of-turn token in its chat template nor an EOS token")
        return (int(self.tokenizer.eos_token_id),)

    def _ids(self, piece: str) -> list[int]:
        if not piece:
            return []
        # not verbose: texts longer than the context are cut or refused by who asks
        return list(self.tokenizer(piece, add_special_tokens=False, verbose=False)["input_ids"])

    def _escape(self, text: str, guard: str) -> str:
        if self._control is None:
            return text
        return self._control.sub(lambda match: match[0][0] + guard + match[0][1:], text)

    def _text(self, messages: Sequence[Message], opens_answer: bool) -> str:
        said = _folded(messages) if self._folds_system else messages
        return str(
            self.tokenizer.apply_chat_template(
                [{"role": message.role, "content": message.content} for message in said],
                chat_template=self._template,
                add_generation_prompt=opens_answer,
                tokenize=False,
                opens_with_bos=self.opens_with_bos,
                enable_thinking=False,  # an answer is what the model says, and what it is taught to say
                date_string=TODAY.strftime("%d %b %Y"),
                strftime_now=TODAY.strftime,
            )
        )

    def _probe(self) -> None:
        """Some chat templates refuse a system message or leave it out: it opens the first user message there."""
        said = [Message("system", "\ue123"), Message("user", "u")]
        try:
            self._folds_system = "\ue123" not in self._text(said, True)
        except Exception:
            self._folds_system = True
            try:
                self._text(said, True)
            except Exception as error:
                raise ModelError(f"the model's chat template fails on a plain conversation: {error}") from error
        if self._text(said, True).rstrip().endswith(THINKING):
            raise ModelError(
                f"the model's chat template opens every answer with {THINKING}, so that its thoughts would be taken "
                "for its answer: use a model whose template knows `enable_thinking`, or one that does not think"
            )


def _folded(messages: Sequence[Message]) -> list[Message]:
    if not messages or messages[0].role != "system":
        return list(messages)
    if len(messages) < 2 or messages[1].role != "user":
        raise DataError("this model's chat template takes no system message, and no user message follows to carry it")
    first = replace(messages[1], content=f"{messages[0].content}\n\n{messages[1].content}")
    return [first, *messages[2:]]


def _guard(messages: Sequence[Message]) -> str:
    for code in range(0xE000, 0xE100):
        if all(chr(code) not in message.content for message in messages):
            return chr(code)
    raise DataError("a message uses every private-use character from U+E000 to U+E0FF: remove some")


def _control_ids(tokenizer: Any) -> dict[str, int]:
    """Spelling -> id of special tokens, and of added tokens that look like marks (`<think>`, `[INST]`)."""
    found = {}
    for identifier, token in tokenizer.added_tokens_decoder.items():
        text = str(token.content)
        if len(text) > 1 and (token.special or re.fullmatch(r"<.*>|\[.*\]", text)):
            found[text] = int(identifier)
    return found


def _control_pattern(tokenizer: Any) -> re.Pattern[str] | None:
    spellings = sorted(_control_ids(tokenizer), key=lambda text: (-len(text), text))
    return re.compile("|".join(map(re.escape, spellings))) if spellings else None


def _adds_bos(tokenizer: Any) -> bool:
    opened = tokenizer("x")["input_ids"]
    return tokenizer.bos_token_id is not None and bool(opened) and opened[0] == tokenizer.bos_token_id
