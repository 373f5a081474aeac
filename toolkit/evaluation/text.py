"""Text normalisation and comparison of short answers.

The normalisation is SQuAD's (Rajpurkar et al. 2016): lower case, no punctuation, no English articles, single spaces. As
in MLQA (Lewis et al. 2020), punctuation is all of Unicode's, so “Paris” in typographic quotes equals Paris; on ASCII
text the two agree. Unlike both, an answer of which nothing would be left ('A', '+') keeps its articles, or else its
punctuation: otherwise all such answers would equal each other.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from functools import lru_cache

_ARTICLES = re.compile(r"\b(a|an|the)\b")


@lru_cache(maxsize=8192)
def normalised(text: str) -> str:
    """The words that count, in lower case, with single spaces between them."""
    lower = unicodedata.normalize("NFC", text).lower()
    words = "".join(character for character in lower if not _is_punctuation(character))
    for candidate in (_ARTICLES.sub(" ", words), words):
        if candidate.split():
            return " ".join(candidate.split())
    return " ".join(lower.split())


def token_f1(text: str, target: str) -> float:
    """Harmonic mean of the precision and recall of normalised tokens, repeated ones counted, 0 to 1."""
    said, wanted = normalised(text).split(), normalised(target).split()
    if not said or not wanted:
        return float(said == wanted)
    common = (Counter(said) & Counter(wanted)).total()
    return 2 * common / (len(said) + len(wanted))


def contains(text: str, target: str) -> bool:
    """Whether the target's normalised tokens stand in the text's, contiguous and whole."""
    wanted = normalised(target)
    return bool(wanted) and f" {wanted} " in f" {normalised(text)} "


def _is_punctuation(character: str) -> bool:
    return character in string.punctuation or unicodedata.category(character).startswith("P")
