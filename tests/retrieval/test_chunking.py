"""Chunks: coverage, offsets and limits as properties; sentences, headings, paragraphs and overlap by hand."""

import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.errors import DataError
from toolkit.retrieval import Chunking, Document, chunk_documents
from toolkit.retrieval.segments import sentences


def count_words(texts):
    return [len(text.split()) for text in texts]


def count_characters(texts):
    return [len(text) for text in texts]


def count_superadditively(texts):
    """Blank lines and spaces cost tokens between sentences, as in byte-pair tokenizers: more than the sum."""
    return [len(re.findall(r"\s|\S{1,3}", text)) for text in texts]


def chunk_texts(text, size, overlap=0, count=count_words):
    return [chunk.text for chunk in chunk_documents([Document("d", text)], Chunking(size, overlap), count)]


PIECES = st.sampled_from(
    ["# Head\n", "word", "two words", "Sentence one.", " ", "\n", "\n\n", "\r\n\r\n", "- item\n", "e.g. ", "。", "漢字",
     "x" * 30, "!", "\x0c", "\u2028", "Title\n===\n", "| a | b |\n", "Mr. ", "1. first\n", '"Quoted." ']
)  # fmt: skip
TEXTS = st.one_of(st.text(max_size=300), st.lists(PIECES, max_size=60).map("".join))
SIZES = st.integers(1, 25).flatmap(lambda size: st.tuples(st.just(size), st.integers(0, size - 1)))


@settings(max_examples=300, deadline=None)
@given(
    texts=st.lists(TEXTS, min_size=1, max_size=3),
    sizes=SIZES,
    count=st.sampled_from([count_words, count_characters, count_superadditively]),
)
def test_chunks_cover_all_text_within_the_limit_at_their_offsets(texts, sizes, count):
    # Lone surrogates cannot be written as UTF-8 and are refused by Document.
    documents = [Document(str(n), text.encode("utf-8", "ignore").decode()) for n, text in enumerate(texts)]
    chunks = chunk_documents(documents, Chunking(*sizes), count)
    assert all(tokens <= sizes[0] for tokens in count([chunk.text for chunk in chunks]))
    for document in documents:
        own = [chunk for chunk in chunks if chunk.document == document.id]
        covered = {position for chunk in own for position in range(chunk.start, chunk.end)}
        assert {position for position, char in enumerate(document.text) if not char.isspace()} <= covered
        for chunk in own:
            assert chunk.text == document.text[chunk.start : chunk.end]
            assert chunk.text == chunk.text.strip() != ""
        starts, ends = [c.start for c in own], [c.end for c in own]
        assert starts == sorted(set(starts))  # each chunk moves on, and none lies inside another
        assert ends == sorted(set(ends))


@settings(max_examples=100, deadline=None)
@given(text=TEXTS)
def test_sentences_are_disjoint_and_lose_nothing_but_white_space(text):
    end, between = 0, ""
    for segment in sentences(text):
        assert segment.end > segment.start >= end
        between += text[end : segment.start]
        end = segment.end
    assert not (between + text[end:]).strip()


@settings(max_examples=100, deadline=None)
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=30), sizes=SIZES.filter(lambda s: s[0] >= 10))
def test_overlap_is_whole_sentences_up_to_the_limit(lengths, sizes):
    text = " ".join("Word " * (n - 1) + f"End{i}." for i, n in enumerate(lengths))
    chunks = chunk_documents([Document("d", text)], Chunking(*sizes), count_words)
    starts = {segment.start for segment in sentences(text)}
    for before, after in pairwise(chunks):
        assert after.start in starts
        assert len(text[after.start : before.end].split()) <= sizes[1]


def test_sentences_are_packed_greedily_and_never_cut():
    text = "One two three. Four five. Six seven eight. Nine."
    assert chunk_texts(text, 5) == ["One two three. Four five.", "Six seven eight. Nine."]


def test_overlap_repeats_the_last_sentences():
    text = "A one two. B one. C one two. D one two."
    assert chunk_texts(text, 6, 2) == ["A one two. B one.", "B one. C one two.", "D one two."]


def test_a_heading_stays_with_the_text_after_it():
    text = "Intro text one two three.\n\n## Priming\n\nOpen the valve now. Then wait."
    assert chunk_texts(text, 7) == ["Intro text one two three.", "## Priming\n\nOpen the valve now.", "Then wait."]
    plain = "Intro text one two three.\n\nPriming the pump\n\nOpen it. Then wait."
    assert chunk_texts(plain, 8) == ["Intro text one two three.", "Priming the pump\n\nOpen it. Then wait."]


def test_overlap_gives_way_to_a_heading_and_its_text():
    text = "A a a. B b b.\n\n# Head\n\nC c c c c."
    assert chunk_texts(text, 8, 3) == ["A a a. B b b.", "# Head\n\nC c c c c."]


def test_a_sentence_that_fits_only_without_its_heading_is_cut_rather_than_left_without():
    text = "# Head\n\n" + " ".join(f"w{n}" for n in range(9)) + "."
    assert chunk_texts(text, 10) == ["# Head\n\nw0 w1 w2 w3 w4 w5 w6 w7", "w8."]


def test_a_paragraph_that_fits_is_kept_whole_when_the_chunk_is_half_full():
    text = "A a a a a a. B b.\n\nC c c. D d d. E e."
    assert chunk_texts(text, 12) == ["A a a a a a. B b.", "C c c. D d d. E e."]


def test_a_long_sentence_is_cut_at_words_and_a_long_word_at_characters():
    assert chunk_texts("one two three four five", 2) == ["one two", "three four", "five"]
    assert "".join(chunk_texts("x" * 50, 8, count=count_characters)) == "x" * 50


def test_abbreviations_initials_and_list_numbers_do_not_end_a_sentence():
    text = "See e.g. Dr. Smith or J. Doe. Then no. 2.5 of it. No. That is all.\n1. First item.\n2. Second item"
    found = [text[segment.start : segment.end] for segment in sentences(text)]
    assert found == [
        "See e.g. Dr. Smith or J. Doe.",
        "Then no. 2.5 of it.",
        "No.",
        "That is all.",
        "1. First item.",
        "2. Second item",
    ]


def test_counting_is_done_in_few_calls_whatever_the_corpus():
    calls = []

    def count(texts):
        calls.append(len(texts))
        return count_words(texts)

    chunk_documents([Document(str(n), "One two. Three four.\n" * 20) for n in range(30)], Chunking(8, 2), count)
    assert len(calls) == 2


def test_white_space_gives_no_chunk():
    assert chunk_texts(" \n\n\t", 5) == []


@pytest.mark.parametrize("sizes", [(0, 0), (-3, 0), (5, 5), (5, -1)])
def test_impossible_settings_are_refused(sizes):
    with pytest.raises(DataError, match="allowed is"):
        Chunking(*sizes)


def test_a_character_longer_than_a_chunk_is_refused():
    with pytest.raises(DataError, match=r"document 'd', character 2: 'b' alone"):
        chunk_texts("a b", 2, count=lambda texts: [3 * text.count("b") for text in texts])
