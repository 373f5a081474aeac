"""A Task out of located examples, with every check that looks at more than one row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import get_args

from toolkit.errors import DataError, nearest
from toolkit.tasks.answers import contract_of, metrics_of
from toolkit.tasks.contract import AnswerContract, law_problem, writing_problem
from toolkit.tasks.example import Answer, Example
from toolkit.tasks.problems import excerpt, refuse
from toolkit.tasks.rows import Located
from toolkit.tasks.schema import AnswerKeys
from toolkit.tasks.task import Split, Task

SPLITS: tuple[Split, ...] = get_args(Split)
Loaded = tuple[Task, Mapping[str, str]]
"""A task, and where each example stands: id -> `file:line`."""


def assemble(
    keys: AnswerKeys,
    splits: Mapping[Split, Sequence[Located]],
    corpus: Path | None,
    problems: Sequence[str],
    heading: str,
    place: str,
) -> Loaded:
    """The task, and the place of every example.

    Args:
        problems: found while reading the rows; reported together with those found here.
        heading: what the message calls the task.
        place: where the task's labels stand, for what is wrong with them.

    Raises:
        DataError: any problem at all, every one with its place.
    """
    everything = [item for split in SPLITS for item in splits[split]]
    empty = [] if problems else [f"the {split} split has no rows" for split in SPLITS if not splits[split]]
    found = [*problems, *empty, *_repeated_ids(everything), *_input_problems(everything)]
    contract = None
    # Labels taken from train are incomplete where a row of it could not be read: no row is then blamed for them.
    if keys.kind != "choice" or keys.labels.names is not None or not problems:
        try:
            contract = contract_of(keys, (item.example for item in splits["train"]))
        except DataError as error:
            found.append(f"{place}: {error}")
    if contract is not None:
        found += [f"{item.where}: {problem}" for item in everything for problem in _answer_problems(item, contract)]
    refuse(found, heading)
    if contract is None:
        raise DataError(f"{heading}: no contract could be made")
    task = Task(
        name=keys.name,
        contract=contract,
        train=_examples(splits["train"]),
        validation=_examples(splits["validation"]),
        test=_examples(splits["test"]),
        corpus=corpus,
        metrics=metrics_of(keys),
        shared_groups=keys.shared_groups,
    )
    return task, {item.example.id: item.where for item in everything}


def _examples(located: Iterable[Located]) -> tuple[Example, ...]:
    return tuple(item.example for item in located)


def _repeated_ids(located: Iterable[Located]) -> Iterator[str]:
    places: dict[str, str] = {}
    for item in located:
        name = item.example.id
        if name in places:
            yield f"{item.where}: the id '{name}' is already used at {places[name]}; ids are unique over all splits"
        places.setdefault(name, item.where)


def _input_problems(located: Sequence[Located]) -> Iterator[str]:
    for item in located:
        first, found = set(located[0].example.inputs), set(item.example.inputs)
        if found != first:
            yield (
                f"{item.where}: inputs are {', '.join(sorted(found))}; "
                f"every row has those of {located[0].where}: {', '.join(sorted(first))}"
            )
        for name in sorted(name for name, value in item.example.inputs.items() if value is None):
            yield f"{item.where}: the input '{name}' is empty"


def _answer_problems(item: Located, contract: AnswerContract) -> Iterator[str]:
    example = item.example
    if not example.targets and contract.abstention is None:
        yield "no target, and the task names no phrase to abstain with: add a target here, or `abstention` to the task"
    for target in example.targets or ():
        yield from _label_problems(target, contract) or filter(None, [law_problem(contract, target)])
    for answer in example.rejected:
        yield from _label_problems(answer, contract) or filter(None, [writing_problem(contract, answer)])
    if example.choices is None:
        return
    if not contract.labels:
        yield f"'choices' belongs to kind choice, found kind {contract.kind}"
        return
    for choice in sorted(set(example.choices) - set(contract.labels)):
        yield f"choices: '{choice}' is not one of the task's labels{_allowed(choice, contract.labels)}"
    for target in example.targets or ():
        if target in contract.labels and target not in example.choices:
            yield f"target '{target}' is not among the row's choices{_allowed(str(target), example.choices)}"


def _label_problems(answer: Answer, contract: AnswerContract) -> list[str]:
    if contract.kind != "choice" or answer in contract.labels:
        return []
    if not isinstance(answer, str):
        return [f"the label of a choice task is a text, found {excerpt(answer)}"]
    return [f"'{answer}' is not one of the task's labels{_allowed(str(answer), contract.labels)}"]


def _allowed(word: str, allowed: Sequence[str]) -> str:
    names = ", ".join(allowed[:30]) + (f" and {len(allowed) - 30} more" if len(allowed) > 30 else "")
    return f"{nearest(word, allowed)}; allowed: {names}"
