"""Messages of one's own, without a task, become the prompt that a draft of them would be."""

from __future__ import annotations

import pytest

from toolkit.errors import DataError
from toolkit.rendering import Draft, Renderer, Template
from toolkit.tasks.contract import TextContract
from toolkit.tasks.example import Example
from toolkit.tasks.messages import Message

ASKED = Message("user", "b")


@pytest.fixture
def draft(template: Template) -> Draft:
    return Draft(Example("q", {"question": "Why is it so?"}), template, TextContract())


def test_messages_as_they_stand_are_sent_as_a_drafts_are(draft: Draft, renderer: Renderer) -> None:
    wanted, found = renderer.prompt(draft), renderer.chat_prompt(draft.messages())
    assert (found.messages, found.token_ids, found.digest) == (wanted.messages, wanted.token_ids, wanted.digest)
    assert found.tokens_by_origin == {"question": len(found.token_ids or ())}
    hosted = Renderer(None)
    assert hosted.chat_prompt(draft.messages()) == hosted.prompt(draft)
    for messages in ((), (ASKED, Message("assistant", "c"))):
        with pytest.raises(DataError, match="not the assistant's"):
            renderer.chat_prompt(messages)
