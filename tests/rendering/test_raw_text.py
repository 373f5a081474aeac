"""Raw text as training sequences: every token of a document is learnt once, and text never becomes a control token."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.errors import DataError
from toolkit.rendering import Renderer, TrainingSequence
from toolkit.rendering.raw_text import SHORTEST_WINDOW_TOKENS, windows

EOS = 2


def learnt(sequence: TrainingSequence) -> list[int]:
    return [token for token, kept in zip(sequence.token_ids, sequence.supervised, strict=True) if kept]


def context(sequence: TrainingSequence) -> list[int]:
    return [token for token, kept in zip(sequence.token_ids, sequence.supervised, strict=True) if not kept]


@settings(deadline=None, max_examples=300)
@given(st.integers(2, 700), st.integers(SHORTEST_WINDOW_TOKENS, 130))
def test_every_token_but_the_first_is_learnt_once_in_as_few_even_windows_as_fit(count: int, length: int) -> None:
    ids = list(range(count))
    found = windows(ids, length)
    assert [token for sequence in found for token in learnt(sequence)] == ids[1:]
    assert [context(sequence) for sequence in found] == [[learnt(sequence)[0] - 1] for sequence in found]
    sizes = [len(sequence.token_ids) for sequence in found]
    assert len(found) == math.ceil((count - 1) / (length - 1))
    assert max(sizes) <= length
    assert max(sizes) - min(sizes) <= 1


def test_no_window_is_left_with_a_few_tokens() -> None:
    """17 tokens in windows of at most 16: not 16 and 2."""
    assert [sequence.token_ids for sequence in windows(list(range(17)), 16)] == [
        tuple(range(9)),
        tuple(range(8, 17)),
    ]


def test_documents_are_never_mixed_and_each_ends_with_eos(renderer: Renderer) -> None:
    assert renderer.chat is not None
    texts = ["first " * 30, "second\n\nwith paragraphs", "x"]
    found = renderer.text_sequences(texts, 32)
    assert found == [sequence for text in texts for sequence in renderer.text_sequences([text], 32)]
    ends = [place for place, sequence in enumerate(found) if sequence.token_ids[-1] == EOS]
    assert len(ends) == len(texts)
    assert sum(sequence.token_ids.count(EOS) for sequence in found) == len(texts)
    start = 0
    for text, end in zip(texts, ends, strict=True):
        parts = found[start : end + 1]
        ids = [parts[0].token_ids[0], *(token for part in parts for token in learnt(part))]
        assert ids == [*renderer.chat.encode(text), EOS]
        start = end + 1


@pytest.mark.parametrize("chat_template", [None, "{% for m in messages %}{{ m['content'] + eos_token }}{% endfor %}"])
@pytest.mark.parametrize("adds_bos", [False, True])
def test_bos_opens_a_document_where_the_tokeniser_opens_texts_with_one(
    make_tokenizer: Callable[..., Any], chat_template: str | None, adds_bos: bool
) -> None:
    renderer = Renderer(make_tokenizer(chat_template, adds_bos))
    assert renderer.chat is not None
    text = "a text of more than sixteen tokens, so that it is cut"
    found = renderer.text_sequences([text], 16)
    assert len(found) > 1
    ids = [found[0].token_ids[0], *(token for sequence in found for token in learnt(sequence))]
    assert ids == [*([3] if adds_bos else []), *renderer.chat.encode(text), EOS]


@pytest.mark.parametrize("text", ["<|im_end|>", "a<|endoftext|>b", "<s><s>", "say <think>", "<|im_<|im_end|>end|>"])
def test_a_control_tokens_spelling_stays_text(make_tokenizer: Callable[..., Any], text: str) -> None:
    tokenizer = make_tokenizer(adds_bos=True)
    (sequence,) = Renderer(tokenizer).text_sequences([text], 64)
    inside = sequence.token_ids[1:-1]
    assert not set(inside) & set(tokenizer.added_tokens_decoder)
    assert tokenizer.decode(list(inside)) == text


def test_a_tokeniser_without_eos_gives_the_text_alone(make_tokenizer: Callable[..., Any]) -> None:
    tokenizer = make_tokenizer()
    tokenizer.eos_token = None
    renderer = Renderer(tokenizer)
    (sequence,) = renderer.text_sequences(["ab"], 16)
    assert tokenizer.decode(list(sequence.token_ids)) == "ab"
    with pytest.raises(DataError, match="text 2 holds 1 token, before which nothing stands"):
        renderer.text_sequences(["ab", "a"], 16)


def test_what_holds_nothing_to_learn_is_refused_all_at_once(renderer: Renderer) -> None:
    with pytest.raises(DataError) as caught:
        renderer.text_sequences(["a", "", " \n", "b"], 16)
    assert [line.split(" holds")[0] for line in str(caught.value).split("\n")[1:]] == ["  - text 2", "  - text 3"]
    with pytest.raises(DataError, match="and 2 more"):
        renderer.text_sequences([" "] * 7, 16)
    with pytest.raises(DataError, match="no texts"):
        renderer.text_sequences([], 16)


def test_windows_that_are_too_short_are_refused(renderer: Renderer) -> None:
    assert renderer.text_sequences(["a" * 40], 16)
    with pytest.raises(DataError, match=r"length_tokens: 15 .* at least 16"):
        renderer.text_sequences(["a" * 40], 15)


def test_a_hosted_model_learns_from_no_text() -> None:
    with pytest.raises(DataError, match="hosted model"):
        Renderer(None).text_sequences(["a"], 16)


def test_a_text_longer_than_the_tokenisers_limit_brings_no_warning(
    make_tokenizer: Callable[..., Any], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is cut here, so what transformers would warn of does not happen."""
    import logging

    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    tokenizer = make_tokenizer()
    tokenizer.model_max_length = 20
    Renderer(tokenizer).text_sequences(["many words " * 20], 16)
    assert not caplog.records
    tokenizer("many words " * 20)
    assert "longer than the specified maximum" in caplog.text
