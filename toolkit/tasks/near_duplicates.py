"""Near-duplicates: texts that share most of their masked word 3-grams.

Pairs are found by an inverted index over the rarest 3-grams of each text (prefix filtering: Chaudhuri et al. 2006,
Bayardo et al. 2007), which finds exactly the pairs that comparing all with all would find.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence

from toolkit.tasks.texts import capitals_tell_names, masked_words, plain

WORDS_A_GRAM = 3
THRESHOLD = 0.6
_ROUNDING = 1e-9

Grams = frozenset[tuple[str, ...]]


def grams_of(text: str, names: bool = True) -> Grams:
    """The masked word 3-grams; of a text under three words, the whole text unmasked."""
    masked = masked_words(text, names)
    if len(masked) < WORDS_A_GRAM:
        return frozenset({(plain(text),)})
    return frozenset(tuple(masked[at : at + WORDS_A_GRAM]) for at in range(len(masked) - WORDS_A_GRAM + 1))


class NearDuplicates:
    """The near-duplicates among texts. Names are masked where capitals tell names.

    Attributes:
        shapes: for each text, the number of its set of 3-grams: texts with the same set have the same number.
        near: for each shape, the shapes at or above the threshold with their Jaccard similarity, itself first.
    """

    def __init__(self, texts: Sequence[str], threshold: float = THRESHOLD) -> None:
        numbers: dict[Grams, int] = {}
        names = capitals_tell_names(texts)
        self.shapes = [numbers.setdefault(grams_of(text, names), len(numbers)) for text in texts]
        self.near: list[list[tuple[int, float]]] = [[(shape, 1.0)] for shape in range(len(numbers))]
        self._join(list(numbers), threshold)

    def _join(self, sets: list[Grams], threshold: float) -> None:
        frequency: Counter[Hashable] = Counter(gram for grams in sets for gram in grams)
        index: dict[tuple[str, ...], list[int]] = defaultdict(list)
        for shape in sorted(range(len(sets)), key=lambda number: len(sets[number])):
            grams = sets[shape]
            needed = math.ceil(threshold * len(grams) - _ROUNDING)
            rarest = sorted(grams, key=lambda gram: (frequency[gram], gram))[: len(grams) - needed + 1]
            for other in sorted({found for gram in rarest for found in index[gram]}):
                if len(sets[other]) < needed:
                    continue
                shared = len(grams & sets[other])
                similarity = shared / (len(grams) + len(sets[other]) - shared)
                if similarity >= threshold - _ROUNDING:
                    self.near[shape].append((other, similarity))
                    self.near[other].append((shape, similarity))
            for gram in rarest:
                index[gram].append(shape)
