"""`toolkit inspect`: exactly what every strategy of a run did with one example, or was trained on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from toolkit.errors import DataError
from toolkit.terminal import BOLD, GREEN_UNDERLINED, painted

if TYPE_CHECKING:
    from toolkit.rendering import TrainingSequence
    from toolkit.runs.reopen import FinishedRun, Shown
    from toolkit.tasks.example import Example, Span
    from toolkit.tasks.output import Output, RetrievedPassage

BEST_CHOICES = 5
"""Choice scores shown."""


def inspect(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.", show_default=False)],
    example: Annotated[
        str | None, typer.Option(metavar="ID", help="The id of a test example.", show_default=False)
    ] = None,
    training: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="The first N rows (windows, chats), as they are learnt.",
            min=1,
            show_default=False,
        ),
    ] = None,
    ids: Annotated[bool, typer.Option("--ids", help="Token ids too.")] = False,
) -> None:
    """Show what each strategy did with a test example, or learnt.

    With `--example`: what it sent, what it retrieved, what it answered and how sure it was, beside the gold answer.
    Text stands behind a bar, exactly as the model saw it, control tokens included. For tuned strategies the sequence
    is shown that they learn from an example like this; supervised tokens are underlined, or between [[ and ]] where
    there are no colours.

    With `--training`: such sequences only, those of the first rows of train (of preferences the chosen answer and each
    rejected one), or the first windows of a corpus or conversations of a file that were learnt.

    \b
    Examples:
      toolkit inspect runs/quickstart-1a2b3c4d --example test-017
      toolkit inspect runs/quickstart-1a2b3c4d --example test-017 --ids | less
      toolkit inspect runs/quickstart-1a2b3c4d --training 3
    """
    from toolkit.console import notices
    from toolkit.runs.reopen import reopen
    from toolkit.terminal import colours

    if example is not None and training is None:
        lines = inspection(reopen(run, notices), example, ids, colours())
    elif training is not None and example is None:
        lines = training_rows(reopen(run, notices), training, ids, colours())
    else:
        raise DataError("what shall be shown? Give either `--example ID` or `--training N`")
    for line in lines:
        typer.echo(line)


def inspection(run: FinishedRun, example_id: str, ids: bool = False, colour: bool = False) -> Iterator[str]:
    """The lines of an inspection.

    Raises:
        DataError: no strategy has answered such an example.
    """
    shown = run.show(example_id)
    task = run.prepared.task
    example = next(item for item in task.test if item.id == example_id)
    yield from _example(example, colour)
    for item in shown:
        renderer = run.prepared.benches[item.strategy].model.renderer
        yield ""
        yield from _strategy(item, example, task.contract, renderer.tokenizer, ids, colour)


def training_rows(run: FinishedRun, rows: int, ids: bool = False, colour: bool = False) -> Iterator[str]:
    """The lines that show the first rows of train, windows or conversations, as each tuned strategy learns them.

    Raises:
        DataError: no strategy of the run learnt anything here.
        RunError: the corpus or the conversations that one learnt are no longer the run's.
    """
    for number, item in enumerate(run.training(rows)):
        if number:
            yield ""
        yield _heading(f"{_named_system(item.strategy, item.seed)}: {item.name}", colour)
        if item.sequence is None:
            yield f"not learnt: {item.why_not}"
        else:
            tokenizer = run.prepared.benches[item.strategy].model.renderer.tokenizer
            yield from _trained(item.sequence, item.how, tokenizer, ids, colour)


def _example(example: Example, colour: bool) -> Iterator[str]:
    yield _heading(f"example {example.id}", colour)
    for name, value in example.inputs.items():
        yield from _named(name, value if isinstance(value, str) else _json(value))
    if example.targets is None:
        yield "gold: unknown"
    else:
        accepted = " | ".join(_json(target) for target in example.targets)
        yield f"gold: {accepted or 'nothing: the right answer is to abstain'}"
    for span in example.spans:
        yield f"gold span: {span.document} [{span.start}:{span.end}]"
    if example.group is not None:
        yield f"group: {example.group}"
    if example.slices:
        yield f"slices: {', '.join(example.slices)}"


def _strategy(item: Shown, example: Example, contract: Any, tokenizer: Any, ids: bool, colour: bool) -> Iterator[str]:
    output = item.output
    yield _heading(_named_system(item.strategy, item.seed), colour)
    yield from _sent(item, ids)
    yield from _retrieved(output.retrieved, example.spans)
    if item.trained is not None:
        yield from _trained(item.trained, "learnt from such an example", tokenizer, ids, colour)
    yield from _answered(output)
    yield from _choices(output, example, contract)


def _sent(item: Shown, ids: bool) -> Iterator[str]:
    sent = item.output.prompt_token_ids
    if sent is None and item.sent:
        yield f"sent: these messages, digest {item.output.prompt_digest[:12]}"
        yield from _barred(item.sent)
        return
    if sent is None:
        yield "sent: no token ids are known (a hosted model, or no model was asked)"
        return
    origins = ", ".join(f"{name} {count}" for name, count in item.output.usage.prompt_tokens.items() if count)
    yield f"sent: {len(sent)} tokens{f' ({origins})' if origins else ''}, digest {item.output.prompt_digest[:12]}"
    yield from _barred(item.sent)
    if ids:
        yield f"token ids: {' '.join(map(str, sent))}"


def _retrieved(passages: tuple[RetrievedPassage, ...], gold: tuple[Span, ...]) -> Iterator[str]:
    if not passages:
        return
    yield "retrieved:"
    for passage in passages:
        hit = any(
            span.document == passage.document and passage.start <= span.start and span.end <= passage.end
            for span in gold
        )
        place = f"{passage.document} [{passage.start}:{passage.end}]"
        fate = "used" if passage.used else "dropped to fit the context"
        yield f"  {passage.rank}. {place}  score {passage.score:.3f}, {fate}{', holds a gold span' if hit else ''}"


def _trained(sequence: TrainingSequence, title: str, tokenizer: Any, ids: bool, colour: bool) -> Iterator[str]:
    """The sequence with its supervised tokens marked."""
    yield f"{title}: {len(sequence.token_ids)} tokens, {sum(sequence.supervised)} supervised"
    pairs = list(zip(sequence.token_ids, sequence.supervised, strict=True))
    runs = [(mask, [token for token, _ in run]) for mask, run in groupby(pairs, key=lambda pair: pair[1])]
    if tokenizer is not None:
        yield from _barred("".join(_marked(str(tokenizer.decode(run)), mask, colour) for mask, run in runs))
    if ids:
        yield f"token ids: {' '.join(_marked(' '.join(map(str, run)), mask, colour) for mask, run in runs)}"


def _marked(text: str, supervised: bool, colour: bool) -> str:
    if not supervised:
        return text
    return painted(text, GREEN_UNDERLINED) if colour else f"[[{text}]]"


def _answered(output: Output) -> Iterator[str]:
    if output.error:
        yield f"error: {output.error}"
    confidence = "" if output.confidence is None else f", confidence {output.confidence:.3f}"
    answer = "nothing" if output.answer is None else _json(output.answer)
    yield f"answered: {answer} ({output.status}, ended by {output.termination}{confidence})"
    if output.text and output.text != output.answer:
        yield from _named("in its words", output.text)
    listed = {
        "samples": output.samples,
        "cites": output.citations,
        "tool calls": output.tool_calls,
        "trace": output.trace,
    }
    for name, values in listed.items():
        if values:
            yield from _named(name, "\n".join(values))


def _choices(output: Output, example: Example, contract: Any) -> Iterator[str]:
    from toolkit.tasks.contract import choices_of

    if output.choice_scores is None:
        return
    scored = sorted(zip(output.choice_scores, choices_of(contract, example), strict=False), reverse=True)
    lead = "" if output.margin is None else f", the best leads by {output.margin:.3f}"
    yield f"choices by score (best {min(BEST_CHOICES, len(scored))} of {len(scored)}{lead}):"
    for score, choice in scored[:BEST_CHOICES]:
        yield f"  {score:9.3f}  {choice}{'  (gold)' if choice in (example.targets or ()) else ''}"


def _named_system(strategy: str, seed: int | None) -> str:
    return strategy if seed is None else f"{strategy}, seed {seed}"


def _heading(text: str, colour: bool) -> str:
    line = f"== {text} =="
    return painted(line, BOLD) if colour else line


def _named(name: str, text: str) -> Iterator[str]:
    """`name: text`, or the lines of a longer text below its name."""
    if "\n" not in text:
        yield f"{name}: {text}"
        return
    yield f"{name}:"
    yield from _barred(text)


def _barred(text: str) -> list[str]:
    return [f"  | {line}" for line in text.split("\n")]


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
