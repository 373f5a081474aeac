"""The doctor: everything about a task's data that would make a comparison wrong, before a model is called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from toolkit.tasks import doctor_answers, doctor_corpus, doctor_duplicates, doctor_statistics, doctor_tokens
from toolkit.tasks.examination import Examination, Subject, Tokens
from toolkit.tasks.task import Task

CHECKS = (
    doctor_duplicates.repeated_content,
    doctor_duplicates.repeated_sentences,
    doctor_duplicates.shared_groups,
    doctor_answers.unread_abstention,
    doctor_answers.missing_labels,
    doctor_corpus.questions_in_corpus,
    doctor_corpus.wrong_spans,
    doctor_tokens.control_tokens,
    doctor_tokens.two_openings,
)


def examine(
    task: Task,
    sources: Mapping[str, str] | None = None,
    documents: Sequence[tuple[str, str]] | None = None,
    renderer: Tokens | None = None,
) -> Examination:
    """Findings, by check and then in the order of the data, and figures.

    Args:
        sources: example id -> `file:line`, from `load_task_with_sources`.
        documents: (id, text) of the corpus; without them nothing is said about it.
        renderer: of the model; without it lengths count words, and control tokens cannot be known.
    """
    subject = Subject(task, sources or {}, documents, renderer)
    findings = tuple(finding for check in CHECKS for finding in check(subject))
    return Examination(findings, doctor_statistics.statistics(subject))
