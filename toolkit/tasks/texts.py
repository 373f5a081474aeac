"""Texts as the doctor compares them: words, masked words, sentences, normalised answers."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Iterator

from pydantic import JsonValue

from toolkit.tasks.example import Example

NAME, NUMBER = "X", "0"
"""What masked words become; other words are in lower case, so neither can be one of them."""

NAMES_SHARE = 0.2
"""Of words inside sentences: English questions full of names have 0.13 with a capital, German ones 0.28."""

ENOUGH_WORDS = 100

_WORD = re.compile(r"\w+(?:['’]\w+)*")
_SENTENCE_END = re.compile(r"[.!?\n]+(?:\s+|$)")
_OPENS_SENTENCE = re.compile(r"(?:^|[.!?:\n])[\s\"'“”‘’(\[-]*$")
_ARTICLES = frozenset({"a", "an", "the"})


def text_of(value: JsonValue) -> str:
    """A text as it is, any other value as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)


def input_text(example: Example) -> str:
    """All inputs of an example, in the order of their names."""
    return "\n".join(text_of(example.inputs[name]) for name in sorted(example.inputs))


def plain(text: str) -> str:
    """The text in lower case with single spaces, without the marks it ends in: equal for the same words and symbols."""
    folded = " ".join(unicodedata.normalize("NFC", text).casefold().split())
    return folded.rstrip(" .!?") or folded


def words(text: str) -> list[str]:
    """The words in lower case, without punctuation."""
    return _WORD.findall(unicodedata.normalize("NFC", text).casefold())


def capitals_tell_names(texts: Iterable[str]) -> bool:
    """Whether few words inside sentences have a capital: in German all nouns do, in titles nearly all words.

    Of a handful of texts it is taken for granted.
    """
    inside = [word for text in texts for word, opens in _with_place(text) if not opens and word[0].isalpha()]
    return len(inside) < ENOUGH_WORDS or sum(map(_looks_like_a_name, inside)) <= NAMES_SHARE * len(inside)


def masked_words(text: str, names: bool = True) -> list[str]:
    """The words in lower case, with names and numbers masked and runs of either made one.

    A name is a word with a capital first letter inside a sentence, "I" and words all in capitals excepted.

    Args:
        names: False masks numbers only, where `capitals_tell_names` does not hold.
    """
    masked: list[str] = []
    for found, opens in _with_place(text):
        word = _mask(found, is_name=names and not opens and _looks_like_a_name(found))
        if word not in (NAME, NUMBER) or not masked or masked[-1] != word:
            masked.append(word)
    return masked


def sentences(text: str) -> list[str]:
    """The text cut after full stops, question and exclamation marks and line ends."""
    return [part.strip() for part in _SENTENCE_END.split(text) if part.strip()]


def normalised(text: str) -> str:
    """Words in lower case without English articles, with single spaces (as in SQuAD); the words where none is left."""
    said = words(text)
    return " ".join([word for word in said if word not in _ARTICLES] or said)


def _with_place(text: str) -> Iterator[tuple[str, bool]]:
    """Each word, and whether it opens a sentence."""
    text = unicodedata.normalize("NFC", text)
    for match in _WORD.finditer(text):
        yield match[0], bool(_OPENS_SENTENCE.search(text, max(0, match.start() - 8), match.start()))


def _mask(word: str, is_name: bool) -> str:
    if any(character.isdigit() for character in word):
        return NUMBER
    return NAME if is_name else word.casefold()


def _looks_like_a_name(word: str) -> bool:
    is_pronoun = word == "I" or word.startswith(("I'", "I’"))
    return word[0].isupper() and not (len(word) > 1 and word.isupper()) and not is_pronoun
