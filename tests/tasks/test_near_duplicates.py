"""Near-duplicates: the same pairs as comparing all with all, and quickly."""

import random
import time
from itertools import combinations

import pytest

from toolkit.tasks.near_duplicates import NearDuplicates, grams_of
from toolkit.tasks.texts import masked_words, normalised, plain


def pairs(texts):
    index = NearDuplicates(texts)
    near = [dict(found) for found in index.near]
    return {
        (a, b)
        for a, b in combinations(range(len(texts)), 2)
        if index.shapes[b] in near[index.shapes[a]]
    }  # fmt: skip


def test_the_index_finds_exactly_the_pairs_of_brute_force():
    generator = random.Random(0)
    texts = [" ".join(generator.choice("abcd") for _ in range(generator.randint(1, 12))) for _ in range(300)]
    sets = [grams_of(text) for text in texts]
    expected = {
        (a, b)
        for a, b in combinations(range(len(texts)), 2)
        if 5 * len(sets[a] & sets[b]) >= 3 * len(sets[a] | sets[b])
    }
    assert len(expected) > 50
    assert pairs(texts) == expected


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Please send the pump manual to Hesk", "Please send the pump manual to Tern Island"),
        ("I paid 20 pounds and got nothing", "I paid 1,350 pounds and got nothing"),
        ("Where is my new card now?", "where is my new card now"),
    ],
)
def test_names_numbers_and_case_do_not_tell_texts_apart(one, other):
    assert pairs([one, other]) == {(0, 1)}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("my card was stolen last night", "the lift stands still since noon"),
        ("Refund 20", "Refund 30"),
        ("2+3", "2-3"),
        ("MY PIN IS BLOCKED TODAY", "MY ATM IS BROKEN AGAIN"),
    ],
)
def test_other_texts_and_short_ones_are_told_apart(one, other):
    assert pairs([one, other]) == set()


def test_masking_spares_the_first_word_of_a_sentence_and_i():
    assert masked_words("Yesterday I saw Anna Maria Boe in Room 12 3. My ATM is down") == (
        ["yesterday", "i", "saw", "X", "in", "X", "0", "my", "atm", "is", "down"]
    )


def test_normalisation_drops_case_punctuation_and_articles():
    assert normalised("The  “Panthers”!") == "panthers"
    assert normalised("A") == "a"
    assert plain("Where  IS it?") == plain("where is it")


def test_three_thousand_rows_take_seconds():
    generator = random.Random(0)
    words = [f"{a}{b}" for a in "klmnprst" for b in ("ora", "ite", "une", "asp", "ell", "ick", "oom", "urd")]
    opening = "i would like to know why "
    texts = [opening + " ".join(generator.choices(words, k=12)) for _ in range(3000)]
    texts[2999] = f"{texts[0]} today"
    started = time.process_time()
    index = NearDuplicates(texts)
    assert time.process_time() - started < 5
    assert index.shapes[0] in dict(index.near[index.shapes[2999]])


def test_capitals_that_tell_no_names_tell_texts_apart():
    """German nouns and titles are what such texts are about."""
    things = ("Adresse", "Telefonnummer", "Karte", "Vollmacht", "Steuernummer", "Unterschrift", "Kontoart", "Filiale")
    german = [f"Wie ändere ich eigentlich meine {thing} bei der Bank?" for thing in things * 2]
    found = pairs(german)
    assert found == {(at, at + len(things)) for at in range(len(things))}
    english = [f"How do I change the address of {name} at the bank?" for name in ("Anna", "Bo Berg", "Cy") * 6]
    assert len(pairs(english)) == 18 * 17 // 2
