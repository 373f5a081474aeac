"""`toolkit validate`: everything that can be known to be wrong before a model is called."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from toolkit.errors import DataError, RecipeError, ToolkitError
from toolkit.terminal import counted, table

if TYPE_CHECKING:
    from toolkit.inference import FoundationModel
    from toolkit.recipe import Recipe
    from toolkit.rendering import Renderer
    from toolkit.tasks.examination import Examination, Percentiles, Statistics
    from toolkit.tasks.task import Task


def validate(
    target: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE_OR_TASK",
            help="A recipe or a task's folder; or the name of a shipped recipe or, failing that, dataset.",
            show_default=False,
        ),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Changes to the recipe by dotted path.", show_default=False),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Count and check with this model, and fetch it if need be; the recipe's, if it is here, else words.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Check a recipe or a task without computing anything.

    The data: schema, duplicates within and across splits, answers that cannot be read back, labels, lengths, control
    tokens, test questions in the corpus. The recipe: contrasts that would not be fair, templates, prompts longer than
    the context. Findings name file and line; any error gives exit code 2.

    \b
    Examples:
      toolkit validate recipes/handbook.yaml
      toolkit validate my-task/ --model smollm2-135m-instruct-q4
      toolkit validate my-recipe.yaml decoding.max_new_tokens=64
    """
    folder = task_folder(target)
    if folder is None:
        checked = _check_recipe(target, overrides or [], model)
    else:
        if overrides:
            raise RecipeError(f"'{target}' is a task, which takes no overrides: {overrides[0]}")
        checked = _check_task(folder, model)
    for line in lines(checked):
        typer.echo(line)
    if checked.count:
        raise typer.Exit(2)


@dataclass(frozen=True)
class Checked:
    """What validation found: of the data, and (`problems`) of the corpus and the recipe."""

    task: Task
    examination: Examination
    problems: Sequence[str] = ()
    remarks: Sequence[str] = ()

    @property
    def count(self) -> int:
        return len(self.examination.errors) + len(self.problems)


def task_folder(target: str) -> str | None:
    """The task that a target names; None where it names a recipe, or nothing (which the recipe's error tells)."""
    from toolkit.resources import available

    path = Path(target)
    if path.name == "task.yaml" and path.is_file():
        return str(path.parent)
    if path.is_dir():
        return target
    is_dataset = target in available("datasets", ("",)) and target not in available("recipes")
    return target if is_dataset and not path.with_name(f"{path.name}.yaml").exists() else None


def lines(checked: Checked) -> Iterator[str]:
    """The examination on a terminal."""
    task, found = checked.task, checked.examination
    yield f"task {task.name}: {task.contract.kind}, primary metric {task.metrics[0]}"
    yield ""
    yield from _statistics(found.statistics)
    yield ""
    notes = [*found.notes, *checked.remarks]
    yield from (f"note: {note}" for note in notes)
    yield from (f"error: {error}" for error in (*found.errors, *checked.problems))
    yield f"{counted(checked.count, 'error')}, {counted(len(notes), 'note')}"


def _statistics(statistics: Statistics) -> Iterator[str]:
    unit = statistics.unit
    rows = [["split", "examples", "groups", "unanswerable", f"input {unit}", f"answer {unit}"]]
    for name, split in statistics.splits.items():
        share = f"{100 * split.unanswerable:.0f} %"
        lengths = [_lengths(split.inputs), _lengths(split.answers)]
        rows.append([name, f"{split.examples:,}", f"{split.groups:,}", share, *lengths])
    yield from table(rows, right=(1, 2, 3, 4, 5))
    yield f"(lengths in {unit}: half are at most / 95 % are at most / the longest)"
    train = statistics.splits["train"].labels
    if train:
        least, most = min(train, key=lambda label: train[label]), max(train, key=lambda label: train[label])
        spread = f"{train[least]} ({least}) to {train[most]} ({most})" if train[least] < train[most] else train[most]
        yield f"{len(train)} labels, each with {spread} examples in train"


def _lengths(found: Percentiles) -> str:
    return f"{found.p50} / {found.p95} / {found.p100}"


def _check_task(folder: str, model: str | None) -> Checked:
    from toolkit.tasks.load import load_task_with_sources

    task, sources = load_task_with_sources(folder)
    renderer = None if model is None else _renderer(model)
    return _examined(task, sources, renderer, [], [])


def _check_recipe(target: str, overrides: Sequence[str], model: str | None) -> Checked:
    from toolkit.meter import Meter
    from toolkit.recipe import load_recipe
    from toolkit.resources import cache_folder
    from toolkit.runs.hosted import missing_keys
    from toolkit.runs.prepare import load_model, prepare
    from toolkit.store import Store
    from toolkit.tasks.load import load_task_with_sources

    chosen = [*overrides, *([] if model is None else [f"model={model}"])]
    recipe = load_recipe(target, chosen)
    task, sources = load_task_with_sources(recipe.task, recipe.path)
    problems, remarks = _embedder_problems(recipe), list[str]()
    meter = Meter(lambda name, fields: typer.echo(fields["text"], err=True) if name == "notice" else None)
    store = Store(cache_folder() / "store")

    def load(name: str) -> FoundationModel:
        if model is not None or _is_here(name, recipe):
            return load_model(name, recipe, store, meter)
        remarks.append(
            f"the model '{name}' is not here: lengths are counted in words; a run fetches it, and so does "
            f"`toolkit models pull` with its name or its entry's path"
        )
        return _absent(name)

    renderer = None
    try:
        prepared = prepare(recipe, store, meter, load)
        task = prepared.task
        renderer = next(iter(prepared.benches.values())).model.renderer
        remarks += missing_keys(prepared.models.values())
    except ToolkitError as error:
        problems.append(str(error))
    return _examined(task, sources, renderer, problems, remarks)


def _examined(
    task: Task, sources: Mapping[str, str], renderer: Renderer | None, problems: list[str], remarks: list[str]
) -> Checked:
    """The doctor's findings, with those of reading the corpus."""
    from toolkit.retrieval import read_corpus
    from toolkit.tasks.doctor import examine

    documents = None
    if task.corpus is not None:
        try:
            documents = [(document.id, document.text) for document in read_corpus(task.corpus)]
        except DataError as error:
            problems.append(str(error))
    return Checked(task, examine(task, sources, documents, renderer), problems, remarks)


def _renderer(model: str) -> Renderer:
    from toolkit.models import load_pretrained, resolve
    from toolkit.rendering import Renderer

    loaded = load_pretrained(resolve(model, "model"), notice=lambda text: typer.echo(text, err=True))
    return Renderer(loaded.tokenizer, loaded.ends)


def _is_here(name: str, recipe: Recipe) -> bool:
    from toolkit.models import is_cached, resolve

    entry = resolve(name, "model", recipe.path)
    return entry.source.endpoint is not None or is_cached(entry)  # nothing of a served model need be here


def _embedder_problems(recipe: Recipe) -> list[str]:
    from toolkit.models import resolve

    if recipe.embedder is None:
        return []
    try:
        resolve(recipe.embedder, "embedder", recipe.path)
    except ToolkitError as error:
        return [str(error)]
    return []


def _absent(name: str) -> FoundationModel:
    """Stands for a model whose weights are not here, so that all else about its recipe can be checked."""
    from toolkit.inference import ScriptedModel

    model = ScriptedModel(lambda prompt: "", name)
    model.can_score = model.can_be_tuned = True
    return model
