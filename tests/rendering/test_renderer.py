"""Renderer: one place where messages become ids, for training and inference alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from toolkit.errors import DataError, ModelError, OverLengthError
from toolkit.rendering import Draft, Passage, Renderer, Template
from toolkit.rendering.chat import Chat
from toolkit.rendering.fit import fitted
from toolkit.tasks.contract import ChoiceContract, TextContract, target_text
from toolkit.tasks.example import Example
from toolkit.tasks.messages import Message

LENIENT = settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
words = st.text(st.characters(codec="utf-8"), max_size=20)
ASKED = Message("user", "b")
DEMONSTRATIONS = (Example("d1", {"question": "One?"}, ("1",)), Example("d2", {"question": "Two?"}, ("2",)))


def passages(*texts: str) -> tuple[Passage, ...]:
    return tuple(Passage(f"doc{rank}", 0, 1, text, rank=rank) for rank, text in enumerate(texts, 1))


@pytest.fixture
def draft(template: Template) -> Draft:
    return Draft(
        Example("q", {"question": "Why is it so?"}),
        template,
        TextContract(),
        demonstrations=DEMONSTRATIONS,
        passages=passages("First fact.", "Second fact."),
    )


@LENIENT
@given(question=words, texts=st.lists(words, min_size=1, max_size=3), shots=st.integers(0, 2))
def test_without_passages_the_text_is_the_same_with_the_slot_cut_out(
    template: Template, renderer: Renderer, question: str, texts: list[str], shots: int
) -> None:
    full = Draft(
        Example("q", {"question": question}),
        template,
        TextContract(),
        demonstrations=DEMONSTRATIONS[:shots],
        passages=passages(*texts),
    )
    slot = template.render("passages", {"passages": full.passages, "inputs": full.example.inputs})
    bare = full.without_passages().messages()
    *before, last = full.messages()
    assert tuple(before) == bare[:-1]
    assert last.content == slot + bare[-1].content
    assert renderer.chat is not None
    said = renderer.chat._text(full.messages(), True)
    place = said.rindex(slot + bare[-1].content)
    assert said[:place] + said[place + len(slot) :] == renderer.chat._text(bare, True)


def test_the_messages_are_instruction_demonstrations_question_and_later_turns(draft: Draft) -> None:
    said = draft.with_turns([Message("assistant", "CALL"), Message("user", "5")]).messages()
    assert [message.role for message in said] == [
        "system", "user", "assistant", "user", "assistant", "user", "assistant", "user"
    ]  # fmt: skip
    assert said[0].content == TextContract().instruction
    assert [message.content for message in said[1:5]] == ["Question: One?", "1", "Question: Two?", "2"]
    assert said[5].content == ("Passage 1: First fact.\nPassage 2: Second fact.\nQuestion: Why is it so?")


def test_an_unanswerable_demonstration_shows_the_abstention_phrase(template: Template) -> None:
    contract = TextContract(abstention="I do not know")
    shown = Example("d", {"question": "Who?"}, ())
    draft = Draft(Example("q", {"question": "Why?"}), template, contract, demonstrations=(shown,))
    assert draft.messages()[2].content == "I do not know"


@LENIENT
@given(answer=st.text(st.characters(codec="utf-8"), min_size=1, max_size=20))
def test_training_ids_are_prompt_ids_then_target_ids_then_stop(draft: Draft, renderer: Renderer, answer: str) -> None:
    sequence = renderer.training_sequence(draft, answer)
    prompt = renderer.prompt(draft).token_ids
    assert prompt is not None
    assert renderer.chat is not None
    assert sequence.token_ids == (*prompt, *renderer.chat.encode(answer), *renderer.stop)
    assert sequence.supervised == (False,) * len(prompt) + (True,) * (len(sequence.token_ids) - len(prompt))


def test_continuations_are_what_training_supervises(draft: Draft, renderer: Renderer) -> None:
    (choice,) = renderer.continuations(["card arrival"])
    assert renderer.training_sequence(draft, "card arrival").token_ids[-len(choice) :] == choice


def test_no_continuation_is_the_beginning_of_another(renderer: Renderer) -> None:
    card, arrival = renderer.continuations(["card", "card arrival"])
    assert arrival[: len(card)] != card


def test_a_conversation_supervises_each_marked_answer_with_its_stop(renderer: Renderer) -> None:
    said = [
        Message("system", "s"),
        Message("user", "One?"),
        Message("assistant", "first", supervise=True),
        Message("user", "Two?"),
        Message("assistant", "not learnt"),
        Message("user", "Three?"),
        Message("assistant", "third", supervise=True),
        Message("user", "never reached"),
    ]
    (sequence,) = renderer.training_sequences([said])
    assert renderer.chat is not None
    learnt = [i for i, kept in zip(sequence.token_ids, sequence.supervised, strict=True) if kept]
    assert learnt == [*renderer.chat.encode("first"), 2, *renderer.chat.encode("third"), 2]
    opening = renderer.chat.token_ids(said[:6], opens_answer=True)
    assert list(sequence.token_ids) == [*opening, *renderer.chat.encode("third"), 2]


THINKING = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n\n</think>\n\n{% endif %}"
)
"""As Qwen3 with thinking switched off: an answer is asked for after an empty thought, which earlier turns lack."""


def test_a_chat_template_that_rewrites_earlier_turns_gives_one_sequence_a_supervised_turn(
    make_tokenizer: Callable[..., Any],
) -> None:
    renderer = Renderer(make_tokenizer(THINKING))
    said = [
        Message("user", "One?"),
        Message("assistant", "first", supervise=True),
        Message("user", "Two?"),
        Message("assistant", "not learnt"),
        Message("user", "Three?"),
        Message("assistant", "third", supervise=True),
    ]
    single = [ASKED, Message("assistant", "a", supervise=True)]
    split, whole = renderer.sequences_by_conversation([said, single])
    assert (len(split), len(whole)) == (2, 1)
    assert renderer.training_sequences([said, single]) == [*split, *whole]
    assert renderer.chat is not None
    for sequence, place in zip(split, (1, 5), strict=True):
        opening = renderer.chat.token_ids(said[:place], opens_answer=True)
        taught = [*renderer.chat.encode(said[place].content), *renderer.stop]
        assert list(sequence.token_ids) == [*opening, *taught]
        assert list(sequence.supervised) == [False] * len(opening) + [True] * len(taught)


def test_an_answer_that_the_chat_template_trims_later_on_is_learnt_as_it_stands(
    make_tokenizer: Callable[..., Any],
) -> None:
    trimming = CHATML.replace("m['content']", "m['content'] | trim")
    renderer = Renderer(make_tokenizer(trimming))
    kept, trimmed = (
        [ASKED, Message("assistant", answer, supervise=True), ASKED, Message("assistant", "b", supervise=True)]
        for answer in ("a", "a ")
    )
    assert [len(found) for found in renderer.sequences_by_conversation([kept, trimmed])] == [1, 2]


def test_a_conversation_with_nothing_to_learn_or_the_wrong_role_is_refused(renderer: Renderer) -> None:
    with pytest.raises(DataError, match="conversation 2: no message has `supervise=True`"):
        renderer.training_sequences([[ASKED, Message("assistant", "a", supervise=True)], [ASKED]])
    with pytest.raises(DataError, match="only assistant messages"):
        renderer.training_sequences([[ASKED, replace(ASKED, supervise=True)]])


def test_tokens_by_origin_add_up_and_are_found_by_difference(draft: Draft, renderer: Renderer) -> None:
    prompt = renderer.prompt(draft)
    origins = prompt.tokens_by_origin
    assert prompt.token_ids is not None
    assert sum(origins.values()) == len(prompt.token_ids)
    assert origins["passages"] == renderer.length(draft) - renderer.length(draft.without_passages())
    assert origins["question"] == renderer.length(draft.without_passages().without_demonstrations())
    assert origins["demonstrations"] > 0
    alone = renderer.prompt(draft.without_passages().without_demonstrations())
    assert dict(alone.tokens_by_origin) == {"question": origins["question"], "demonstrations": 0, "passages": 0}


def test_later_turns_have_an_origin_of_their_own(draft: Draft, renderer: Renderer) -> None:
    before = renderer.prompt(draft).tokens_by_origin
    after = renderer.prompt(draft.with_turns([Message("assistant", "CALL 2"), Message("user", "2")]))
    assert after.token_ids is not None
    assert after.tokens_by_origin["question"] == before["question"]
    assert after.tokens_by_origin["turns"] > 0
    assert sum(after.tokens_by_origin.values()) == len(after.token_ids)


def test_the_digest_follows_the_ids_or_a_hosted_models_messages(draft: Draft, renderer: Renderer) -> None:
    other = replace(draft, example=Example("q", {"question": "Why not?"}))
    for one in (renderer, Renderer(None)):
        assert one.prompt(draft).digest == one.prompt(draft).digest
        assert one.prompt(draft).digest != one.prompt(other).digest


def test_a_hosted_models_renderer_has_messages_only(draft: Draft) -> None:
    hosted = Renderer(None)
    prompt = hosted.prompt(draft)
    assert (prompt.token_ids, prompt.messages) == (None, draft.messages())
    assert hosted.length(draft) == 0
    for refused in (
        lambda: hosted.training_sequence(draft, "x"),
        lambda: hosted.continuations(["x"]),
        lambda: hosted.text([1]),
    ):
        with pytest.raises(DataError, match="hosted model"):
            refused()


@pytest.mark.parametrize("text", ["a , b .", "it 's", "do n't", "x ?  y"])
def test_generated_ids_are_read_back_as_they_were_written(make_tokenizer: Callable[..., Any], text: str) -> None:
    tokenizer = make_tokenizer()
    tokenizer.clean_up_tokenization_spaces = True
    renderer = Renderer(tokenizer)
    assert renderer.chat is not None
    assert renderer.text([*renderer.chat.encode(text), *renderer.stop]) == text


def test_what_is_trained_is_parsed_back(draft: Draft, renderer: Renderer) -> None:
    contract = ChoiceContract(("card arrival", "card"), written={"card": "Card!"})
    for label in contract.labels:
        example = Example("e", {"question": "?"}, (label,))
        sequence = renderer.training_sequence(draft, target_text(contract, example))
        taught = [i for i, kept in zip(sequence.token_ids, sequence.supervised, strict=True) if kept]
        assert renderer.parse(renderer.text(taught), contract) == label


def test_fitting_drops_the_last_passage_first_then_the_last_demonstration(draft: Draft, renderer: Renderer) -> None:
    states = []
    shorter: Draft | None = draft
    while shorter is not None:
        states.append((renderer.length(shorter), shorter))
        shorter = shorter.shortened()
    kept = [(len(state.passages), len(state.demonstrations)) for _, state in states]
    assert kept == [(2, 2), (1, 2), (0, 2), (0, 1), (0, 0)]
    for length, state in states:
        found = fitted(draft, renderer, length)
        assert found == state
        assert (*found.passages, *found.dropped_passages) == draft.passages
        assert [item.id for item in found.demonstrations] + list(found.dropped_demonstrations) == ["d1", "d2"]
        assert found.messages()[0] == draft.messages()[0]
        assert found.messages()[-1].content.endswith("Question: Why is it so?")
    assert states[-1][1].demonstrations == ()


def test_what_never_goes_and_is_too_long_is_an_error_naming_the_example(draft: Draft, renderer: Renderer) -> None:
    shortest = renderer.length(draft.without_passages().without_demonstrations())
    assert fitted(draft, renderer, shortest).demonstrations == ()
    with pytest.raises(OverLengthError, match=f"example 'q'.* {shortest} tokens.* {shortest - 1} ") as caught:
        fitted(draft, renderer, shortest - 1)
    with pytest.raises(OverLengthError, match=r"leaves -100 tokens.*lower `max_new_tokens`"):
        fitted(draft, renderer, -100)
    assert "score_as_error" in str(caught.value)


def test_where_the_best_demonstration_stands_last_the_first_is_given_up_first(draft: Draft) -> None:
    nearest = (
        draft.without_passages().without_demonstrations().with_demonstrations(draft.demonstrations, best_last=True)
    )
    shorter = nearest.shortened()
    assert shorter is not None
    assert [item.id for item in shorter.demonstrations] == ["d2"]
    assert shorter.dropped_demonstrations == ("d1",)
    shortest = shorter.shortened()
    assert shortest is not None
    assert (shortest.demonstrations, shortest.dropped_demonstrations) == ((), ("d1", "d2"))


def test_a_model_that_can_be_told_not_to_think_is_told(make_tokenizer: Any) -> None:
    """As Qwen 3 and SmolLM 3: without the word, zero-shot would answer `<think>` and a tuned model would not."""
    tokenizer = make_tokenizer(
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n"
        "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
    )
    chat = Chat(tokenizer)
    opened = tokenizer.decode(chat.token_ids([Message("user", "why")], opens_answer=True))
    assert opened.endswith("</think>\n\n")


def test_a_model_that_always_thinks_is_refused(make_tokenizer: Any) -> None:
    template = "{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}<think>\n{% endif %}"
    with pytest.raises(ModelError, match="opens every answer with <think>"):
        Chat(make_tokenizer(template))
