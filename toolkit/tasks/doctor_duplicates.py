"""Content that occurs again: within a split it counts twice, across splits the test is known beforehand."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from toolkit.tasks.examination import Finding, Subject
from toolkit.tasks.near_duplicates import WORDS_A_GRAM, NearDuplicates
from toolkit.tasks.task import Split
from toolkit.tasks.texts import capitals_tell_names, input_text, masked_words, plain, sentences

OFTEN = 2
"""A sentence skeleton used more often than this is pointed out."""
_PLACES_SHOWN = 3


def repeated_content(subject: Subject) -> Iterator[Finding]:
    """Each example with the earlier one most like it, in another split and in its own.

    Across splits a duplicate or near-duplicate is an error; within a split a duplicate is an error and a
    near-duplicate a note.
    """
    texts = [input_text(example) for example in subject.examples]
    index = NearDuplicates(texts)
    said: dict[str, dict[Split, int]] = defaultdict(dict)
    shaped: dict[int, dict[Split, int]] = defaultdict(dict)
    for number, (split, _) in enumerate(subject.everything):
        words, shape = plain(texts[number]), index.shapes[number]
        alike = [(2.0, split_, first) for split_, first in said[words].items()]
        for other, similarity in index.near[shape]:
            if other in shaped:
                alike += [(similarity, split_, first) for split_, first in shaped[other].items()]
        for same_split in (False, True):
            found = [(likeness, -first) for likeness, split_, first in alike if (split_ == split) == same_split]
            if found:
                likeness, first = max(found)
                yield _repeats(subject, number, -first, likeness)
        said[words].setdefault(split, number)
        shaped[shape].setdefault(split, number)


def _repeats(subject: Subject, number: int, first: int, likeness: float) -> Finding:
    (split, example), (earlier_split, earlier) = subject.everything[number], subject.everything[first]
    across = split != earlier_split
    place = f"{subject.where(earlier)}{f' ({earlier_split})' if across else ''}"
    if likeness > 1:
        return Finding("error", subject.where(example), f"the same content as {place}")
    message = f"a near-duplicate of {place}: masked word 3-grams agree to {likeness:.2f}"
    return Finding("error" if across else "note", subject.where(example), message)


def repeated_sentences(subject: Subject) -> Iterator[Finding]:
    """Sentence skeletons (names and numbers masked, three words or more) used more than twice."""
    places: dict[tuple[str, ...], list[str]] = defaultdict(list)
    names = capitals_tell_names([input_text(example) for example in subject.examples])
    for example in subject.examples:
        for sentence in sentences(input_text(example)):
            places[tuple(masked_words(sentence, names))].append(subject.where(example))
    for skeleton, found in places.items():
        if len(skeleton) >= WORDS_A_GRAM and len(found) > OFTEN:
            more = f" and {len(found) - _PLACES_SHOWN} more" if len(found) > _PLACES_SHOWN else ""
            message = f'the sentence "{" ".join(skeleton)}" (X a name, 0 a number) is used {len(found)} times: '
            yield Finding("note", found[0], f"{message}{', '.join(found[:_PLACES_SHOWN])}{more}")


def shared_groups(subject: Subject) -> Iterator[Finding]:
    """Groups in several splits, unless the task says why."""
    if subject.task.shared_groups is not None:
        return
    first: dict[str, tuple[Split, str]] = {}
    told: set[tuple[str, Split]] = set()
    for split, example in subject.everything:
        if example.group is None:
            continue
        earlier, place = first.setdefault(example.group, (split, subject.where(example)))
        if earlier != split and (example.group, split) not in told:
            told.add((example.group, split))
            yield Finding(
                "error",
                subject.where(example),
                f"the group '{example.group}' is in {split} and, at {place}, in {earlier}: "
                "split by group, or say why with `shared_groups: <why>`",
            )
