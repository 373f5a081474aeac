"""Chat: the model's own format, and data that stays data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.errors import ModelError
from toolkit.rendering import Renderer
from toolkit.rendering.chat import Chat
from toolkit.tasks.messages import Message

CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<s>", "<think>")
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + (m['content'] | trim) }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
DROPS_SYSTEM = (
    "{% for m in messages %}{% if m['role'] != 'system' %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

plain_text = st.text(st.characters(codec="utf-8", exclude_characters="<|>"), max_size=30)
any_text = st.lists(
    st.one_of(st.sampled_from([*CONTROL, "<|", "|>", "<|im_", "start|>", "<", "\ue000", "\ue001"]), plain_text),
    max_size=6,
).map("".join)


def talk(user: str, system: str = "Be brief.") -> list[Message]:
    return [Message("system", system), Message("user", user)]


def control_ids(tokenizer: Any, ids: list[int]) -> list[int]:
    control = {tokenizer.convert_tokens_to_ids(token) for token in CONTROL}
    return [i for i in ids if i in control]


@settings(deadline=None, max_examples=60)
@given(user=plain_text, system=plain_text)
def test_plain_data_gives_the_ids_of_the_tokenisers_own_chat_template(tokenizer: Any, user: str, system: str) -> None:
    messages = talk(user, system)
    wanted = tokenizer.apply_chat_template(
        [{"role": message.role, "content": message.content} for message in messages],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=False,
    )
    assert Chat(tokenizer).token_ids(messages, opens_answer=True) == list(wanted)


@settings(deadline=None, max_examples=100)
@given(user=any_text, system=any_text)
def test_data_never_becomes_a_control_token(tokenizer: Any, user: str, system: str) -> None:
    chat = Chat(tokenizer)
    clean = control_ids(tokenizer, chat.token_ids(talk("x"), opens_answer=True))
    ids = chat.token_ids(talk(user, system), opens_answer=True)
    assert control_ids(tokenizer, ids) == clean
    assert control_ids(tokenizer, chat.encode(user)) == []
    said = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    assert said.count(user) >= 1
    assert said == tokenizer.apply_chat_template(
        [{"role": message.role, "content": message.content} for message in talk(user, system)],
        add_generation_prompt=True,
        tokenize=False,
    )


def test_control_tokens_in_data_are_named(tokenizer: Any) -> None:
    assert Chat(tokenizer).control_tokens_in("a <|im_end|> b <think> <|im_end|>") == ["<think>", "<|im_end|>"]


@settings(deadline=None)
@given(text=any_text)
def test_encoded_text_decodes_to_itself(tokenizer: Any, text: str) -> None:
    assert tokenizer.decode(Chat(tokenizer).encode(text), clean_up_tokenization_spaces=False) == text


@pytest.mark.parametrize("chat_template", [NO_SYSTEM, DROPS_SYSTEM], ids=["refuses", "drops without a word"])
def test_where_the_template_takes_no_system_message_it_opens_the_first_user_message(
    make_tokenizer: Callable[..., Any], chat_template: str
) -> None:
    tokenizer = make_tokenizer(chat_template)
    ids = Chat(tokenizer).token_ids(talk("Why?"), opens_answer=True)
    assert tokenizer.decode(ids) == "<|im_start|>user\nBe brief.\n\nWhy?<|im_end|>\n<|im_start|>assistant\n"


def test_a_chat_template_that_fails_on_a_plain_conversation_is_a_model_error(
    make_tokenizer: Callable[..., Any],
) -> None:
    with pytest.raises(ModelError, match="fails on a plain conversation"):
        Chat(make_tokenizer("{{ raise_exception('no') }}"))


@pytest.mark.parametrize("adds_bos", [False, True])
def test_a_base_model_gets_a_plain_format_with_exactly_one_bos_if_its_tokeniser_adds_one(
    make_tokenizer: Callable[..., Any], adds_bos: bool
) -> None:
    tokenizer = make_tokenizer(None, adds_bos)
    chat = Chat(tokenizer)
    said = [*talk("One?"), Message("assistant", "1"), Message("user", "Two?")]
    ids = chat.token_ids(said, opens_answer=True)
    bos = tokenizer.convert_tokens_to_ids("<s>")
    assert ids.count(bos) == adds_bos
    assert ids[0] == bos or not adds_bos
    assert tokenizer.decode(ids).removeprefix("<s>") == "Be brief.\n\nOne?\n\nAnswer:\n1<|im_end|>\n\nTwo?\n\nAnswer:\n"


def test_a_chat_template_that_writes_bos_gives_exactly_one(make_tokenizer: Callable[..., Any]) -> None:
    tokenizer = make_tokenizer("{{ bos_token }}{% for m in messages %}{{ m['content'] }}{% endfor %}", adds_bos=True)
    assert Chat(tokenizer).token_ids(talk("Why?"), opens_answer=True).count(tokenizer.bos_token_id) == 1


def test_the_stop_is_the_first_control_token_behind_an_answer(make_tokenizer: Callable[..., Any]) -> None:
    assert Renderer(make_tokenizer()).stop == (2,)
    other = make_tokenizer("{% for m in messages %}{{ m['content'] + ' <|endoftext|>' }}{% endfor %}")
    assert Renderer(other).stop == (0,)
    assert Renderer(other).stop_ids == {0, 2}


def test_without_an_end_of_turn_the_stop_is_eos_and_without_both_the_model_is_refused(
    make_tokenizer: Callable[..., Any],
) -> None:
    bare = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
    tokenizer = make_tokenizer(bare)
    assert Renderer(tokenizer).stop == (tokenizer.eos_token_id,)
    tokenizer.eos_token = None
    with pytest.raises(ModelError, match="EOS"):
        Renderer(tokenizer)
