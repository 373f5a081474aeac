"""SQuAD normalisation, token F1 and containment against hand-computed values and the official script."""

import re
import string
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.evaluation.text import contains, normalised, token_f1


def squad_normalise(text):
    """The official SQuAD 2.0 script's `normalize_answer`."""
    text = "".join(character for character in text.lower() if character not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def squad_f1(text, target):
    """The official SQuAD 2.0 script's `compute_f1`."""
    said, wanted = squad_normalise(text).split(), squad_normalise(target).split()
    common = sum((Counter(said) & Counter(wanted)).values())
    if not said or not wanted:
        return float(said == wanted)
    if common == 0:
        return 0.0
    precision, recall = common / len(said), common / len(wanted)
    return 2 * precision * recall / (precision + recall)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Eiffel Tower.", "eiffel tower"),
        ("an apple, a pear", "apple pear"),
        ("theatre and anthem", "theatre and anthem"),
        ("the-end", "theend"),
        ("U.S.", "us"),
        ("$5,000", "5000"),
        ("“Paris”", "paris"),
        ("1939–1945", "19391945"),
        ("¿Qué?", "qué"),
        ("cafe\u0301", "caf\u00e9"),
        ("non\u00a0breaking", "non breaking"),
        ("ÉCOLE", "école"),
        ("東京。", "東京"),
    ],
)
def test_case_punctuation_articles_and_spaces_do_not_count(text, expected):
    assert normalised(text) == expected


def test_an_answer_of_articles_or_punctuation_only_keeps_them():
    assert normalised("A.") == "a" == normalised("a")
    assert normalised("The") != normalised("A")
    assert normalised("+") != normalised("-")
    assert normalised(" ") == ""


@given(st.text(alphabet=string.ascii_letters + string.digits + string.punctuation + " \n\t", max_size=30))
def test_ascii_text_is_normalised_as_by_the_squad_script(text):
    expected = squad_normalise(text)
    if expected:
        assert normalised(text) == expected


@given(*[st.lists(st.sampled_from(["the", "red", "red", "fox,", "Fox", "in", "a", "box."]), max_size=6)] * 2)
def test_token_f1_is_the_squad_scripts(said, wanted):
    text, target = " ".join([*said, "x"]), " ".join([*wanted, "y"])
    assert token_f1(text, target) == pytest.approx(squad_f1(text, target))


def test_token_f1_counts_repeated_tokens():
    assert token_f1("New York City", "the New York") == pytest.approx(2 * (2 / 3) * 1 / (2 / 3 + 1))
    assert token_f1("red red", "red") == pytest.approx(2 / 3)
    assert token_f1("blue", "red") == 0
    assert token_f1("", "red") == 0
    assert token_f1("", "") == 1


def test_containment_takes_whole_contiguous_tokens():
    assert contains("I think\nit is the New York, City.", "New York City")
    assert contains("in the city of the lights", "city of lights")
    assert not contains("New big York City", "New York")
    assert not contains("a cathedral", "cat")
    assert not contains("anything", "")
