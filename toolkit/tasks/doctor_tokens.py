"""Tokens: control tokens spelt out in data, and prompts that open twice."""

from __future__ import annotations

from collections.abc import Iterator

from toolkit.tasks.assemble import SPLITS
from toolkit.tasks.examination import Finding, Subject
from toolkit.tasks.example import Example
from toolkit.tasks.messages import Message
from toolkit.tasks.texts import input_text, text_of


def control_tokens(subject: Subject) -> Iterator[Finding]:
    """Spellings of the model's control tokens in inputs, answers or documents.

    The renderer defuses them, so they cannot steer the model; a prompt that holds one was not meant as it stands.
    """
    chat = subject.chat
    if chat is None:
        return
    for example in subject.examples:
        if found := chat.control_tokens_in(_all_text(example)):
            yield Finding("error", subject.where(example), f"holds control tokens of the model: {', '.join(found)}")
    for document, text in subject.documents or ():
        if found := chat.control_tokens_in(text):
            message = f"holds control tokens of the model: {', '.join(found)}"
            yield Finding("error", f"document '{document}'", message)


def two_openings(subject: Subject) -> Iterator[Finding]:
    """Two BOS at the start of a prompt: the chat template and the tokeniser (or the data) each wrote one."""
    chat = subject.chat
    if chat is None or chat.tokenizer.bos_token_id is None:
        return
    bos = int(chat.tokenizer.bos_token_id)
    for split in SPLITS:
        for example in subject.split(split)[:1]:
            said = [Message("system", subject.task.contract.instruction), Message("user", input_text(example))]
            if list(chat.token_ids(said, opens_answer=True))[:2] == [bos, bos]:
                message = f"the prompt starts with two BOS tokens (id {bos}): the chat template writes one too many"
                yield Finding("error", subject.where(example), message)


def _all_text(example: Example) -> str:
    answers = [text_of(answer) for answer in (*(example.targets or ()), *(example.choices or ()), *example.rejected)]
    return "\n".join([input_text(example), *answers])
