"""The corpus: questions that stand in it, and gold spans that do not."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from toolkit.tasks.examination import Finding, Subject
from toolkit.tasks.example import Example, Span
from toolkit.tasks.problems import excerpt
from toolkit.tasks.texts import normalised, words

FEWEST_WORDS = 4
"""Shorter questions stand in any text by chance."""


def questions_in_corpus(subject: Subject) -> Iterator[Finding]:
    """Validation and test examples all of whose texts (four words or more) stand word for word in the corpus."""
    if subject.documents is None:
        return
    examples = (*subject.task.validation, *subject.task.test)
    for example, document in standing_in(examples, subject.documents):
        message = f"the question stands word for word in the corpus, document '{document}'"
        yield Finding("error", subject.where(example), message)


def standing_in(examples: Sequence[Example], documents: Iterable[tuple[str, str]]) -> Iterator[tuple[Example, str]]:
    """Examples all of whose texts (four words or more) stand word for word in documents, each with the first such.

    Args:
        documents: (name, text); read once, one by one.
    """
    asked = {
        example.id: [text for text in said if len(text) >= FEWEST_WORDS]
        for example in examples
        for said in [[tuple(words(value)) for value in example.inputs.values() if isinstance(value, str)]]
    }
    found = _found({text for texts in asked.values() for text in texts}, documents)
    for example in examples:
        texts = asked[example.id]
        if texts and all(text in found for text in texts):
            yield example, found[texts[0]]


def wrong_spans(subject: Subject) -> Iterator[Finding]:
    """Gold spans without their document, outside it, or (open texts) without any of the targets."""
    if subject.documents is None:
        return
    texts = dict(subject.documents)
    for example in subject.examples:
        for span in example.spans:
            problem = _span_problem(example, span, texts, subject.task.contract.kind == "text")
            if problem:
                yield Finding("error", subject.where(example), problem)


def _found(texts: set[tuple[str, ...]], documents: Iterable[tuple[str, str]]) -> Mapping[tuple[str, ...], str]:
    """Texts that stand in a document, with the first such document. One pass: candidates by their first words."""
    by_opening: dict[tuple[str, ...], list[tuple[str, ...]]] = defaultdict(list)
    for text in sorted(texts):
        by_opening[text[:FEWEST_WORDS]].append(text)
    found: dict[tuple[str, ...], str] = {}
    for document, content in documents:
        said = words(content)
        for at in range(len(said) - FEWEST_WORDS + 1):
            for text in by_opening.get(tuple(said[at : at + FEWEST_WORDS]), ()):
                if tuple(said[at : at + len(text)]) == text:
                    found.setdefault(text, document)
    return found


def _span_problem(example: Example, span: Span, texts: Mapping[str, str], holds_target: bool) -> str:
    if span.document not in texts:
        return f"the gold span's document '{span.document}' is not in the corpus"
    text = texts[span.document]
    if span.end > len(text):
        return f"the gold span [{span.start}, {span.end}) leaves '{span.document}', which has {len(text)} characters"
    inside = text[span.start : span.end]
    targets = [target for target in example.targets or () if isinstance(target, str)]
    if holds_target and targets and not any(_stands_in(target, inside) for target in targets):
        return f"the gold span reads {excerpt(inside)}, which holds no target: {', '.join(map(excerpt, targets))}"
    return ""


def _stands_in(target: str, text: str) -> bool:
    return target.casefold() in text.casefold() or f" {normalised(target)} " in f" {normalised(text)} "
