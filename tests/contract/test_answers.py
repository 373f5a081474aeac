"""Answer contracts: read(write(answer)) == answer, tolerant reading, abstention; and the scripted model's protocol."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.errors import DataError, ModelError
from toolkit.inference import FoundationModel, Sampling, ScriptedModel, Weights
from toolkit.rendering import Prompt, Renderer
from toolkit.tasks.contract import (
    ABSTAIN,
    UNPARSABLE,
    AnswerContract,
    ChoiceContract,
    JsonContract,
    TextContract,
    choices_of,
    target_text,
)
from toolkit.tasks.example import Example

ABSTENTION = "I do not know"
line = st.text(st.characters(codec="utf-8"), min_size=1, max_size=30).filter(
    lambda text: text.splitlines() == [text] and text.strip() == text
)
words = st.from_regex(r"[A-Za-z0-9]+( [A-Za-z0-9]+)?", fullmatch=True)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(labels=st.lists(words, min_size=1, max_size=6, unique_by=str.casefold), data=st.data())
def test_a_choice_is_read_as_it_was_written(labels: list[str], data: st.DataObject) -> None:
    spelt = data.draw(st.dictionaries(st.sampled_from(labels), st.just(""), max_size=2))
    contract = ChoiceContract(tuple(labels), {label: f"<{label}>" for label in spelt}, abstention="none of: these")
    for label in labels:
        assert contract.read(contract.write(label)) == label
        assert contract.read(f"  {contract.write(label).swapcase()}. \nbecause") == label


@given(answer=line)
def test_a_text_is_read_as_it_was_written(answer: str) -> None:
    assert TextContract().read(TextContract().write(answer)) == answer


@given(answer=json_values)
def test_a_json_value_is_read_as_it_was_written(answer: Any) -> None:
    contract = JsonContract()
    assert contract.read(contract.write(answer)) == answer
    if isinstance(answer, (dict, list)):
        assert contract.read(f"Here it is:\n```json\n{contract.write(answer)}\n```") == answer


@given(text=st.text(max_size=60))
@pytest.mark.parametrize(
    "contract",
    [ChoiceContract(("a", "b"), abstention="?"), TextContract(ABSTENTION), JsonContract(("k",), abstention="?")],
)
def test_reading_never_raises(contract: AnswerContract, text: str) -> None:
    contract.read(text)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 5000, "9" * 10_000, "-" * 1000, '"' * 99])
def test_reading_what_a_broken_model_repeats_never_raises(text: str) -> None:
    JsonContract().read(text)


@pytest.mark.parametrize(
    ("text", "reading"),
    [
        ("card", "card"),
        ("CARD.", "card"),
        ("  Card  arrival!\n", "card arrival"),
        ("card\n\nThe customer asks", "card"),
        ("the card", UNPARSABLE),
        ("card, card arrival", UNPARSABLE),
        ("", UNPARSABLE),
        ("\n", UNPARSABLE),
        ("none", ABSTAIN),
        ("None.", ABSTAIN),
    ],
)
def test_choices_are_read_whatever_their_case_and_full_stop(text: str, reading: object) -> None:
    assert ChoiceContract(("card", "card arrival"), abstention="none").read(text) == reading


def test_an_empty_answer_is_no_abstention_and_a_whole_answer_is_needed() -> None:
    contract = TextContract(ABSTENTION)
    assert contract.read(" i do not know. ") is ABSTAIN
    assert contract.read("I do not know\nthe answer") is ABSTAIN
    assert contract.read("I do not know where") == "I do not know where"
    assert contract.read("  \n ") is UNPARSABLE
    assert TextContract().read("I do not know") == "I do not know"


@pytest.mark.parametrize(
    "contract",
    [TextContract(ABSTENTION), ChoiceContract(("a", "b"), abstention=ABSTENTION), JsonContract(abstention=ABSTENTION)],
)
def test_the_phrase_to_abstain_with_is_shown_to_every_strategy(contract: AnswerContract) -> None:
    assert ABSTENTION in contract.instruction


def test_json_answers_need_their_keys() -> None:
    contract = JsonContract(("name", "age"))
    assert contract.read('{"name": "x", "age": 1}') == {"name": "x", "age": 1}
    assert contract.read('{"name": "x"}') is UNPARSABLE
    assert contract.read("no value here?") is UNPARSABLE
    assert contract.read('Of 2 {"name": "x"} [3] this: {"name": "x", "age": 1}, {}') == {"name": "x", "age": 1}
    assert JsonContract().read("the answer is 5") is UNPARSABLE
    with pytest.raises(DataError, match="lacks the keys age"):
        contract.write({"name": "x"})


def test_labels_written_alike_unknown_labels_and_empty_answers_are_refused() -> None:
    with pytest.raises(DataError, match="two labels are written alike: card"):
        ChoiceContract(("card", "Card."))
    with pytest.raises(DataError, match="labels the task does not have: cards"):
        ChoiceContract(("card",), {"cards": "x"})
    with pytest.raises(DataError, match=r"'crad' is not one of the task's labels.*did you mean 'card'"):
        ChoiceContract(("card", "refund")).write("crad")
    with pytest.raises(DataError, match="non-empty text"):
        TextContract().write("  ")


def test_what_is_trained_and_shown_is_the_first_target_or_the_abstention() -> None:
    contract = TextContract(ABSTENTION)
    assert target_text(contract, Example("a", {}, ("one", "two"))) == "one"
    assert target_text(contract, Example("a", {}, ())) == ABSTENTION
    with pytest.raises(DataError, match="unknown targets"):
        target_text(contract, Example("a", {}, None))
    with pytest.raises(DataError, match="names no abstention phrase"):
        target_text(TextContract(), Example("a", {}, ()))


def test_an_example_may_narrow_the_choices() -> None:
    contract = ChoiceContract(("a", "b", "c"))
    assert choices_of(contract, Example("x", {})) == ("a", "b", "c")
    assert choices_of(contract, Example("x", {}, choices=("c", "a"))) == ("c", "a")


def test_the_scripted_model_stands_behind_the_same_protocol(renderer: Renderer) -> None:
    model: FoundationModel = ScriptedModel(lambda prompt: "card", renderer=renderer)
    prompt = Prompt((), (5,), {}, "")
    (answer,) = model.generate([prompt], Sampling())
    assert (answer.text, answer.termination, answer.confidence) == ("card", "stop", None)
    (scores,) = model.score([prompt], [renderer.continuations(["card arrival", "card", "refund"])])
    assert max(range(3), key=lambda place: scores[place]) == 1
    hosted = ScriptedModel(lambda prompt: "x")
    assert not hosted.can_score
    assert hosted.digest != ScriptedModel(lambda prompt: "x", name="other").digest
    with pytest.raises(ModelError, match="cannot carry adapted weights"):
        hosted.adapted(Weights(None, ""))  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ['{"name": "\\ud83d"}', '["\\udc00"]', 'so: {"\\ud83d": 1}'])
def test_half_a_surrogate_pair_is_no_answer(text: str) -> None:
    """JSON may spell one, but no file can hold it: the run could never write it down."""
    assert JsonContract().read(text) is UNPARSABLE
    assert JsonContract().read('{"name": "\\ud83d\\ude00"}') == {"name": "\U0001f600"}
