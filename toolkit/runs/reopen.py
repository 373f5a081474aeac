"""A finished run, opened again: to answer new inputs, or to show exactly what was sent for an example."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from toolkit.errors import DataError, RunError, nearest
from toolkit.inference import RemoteModel
from toolkit.json_lines import read_lines
from toolkit.meter import Listener, Meter
from toolkit.recipe import Recipe, load_recipe
from toolkit.rendering import TrainingSequence
from toolkit.resources import cache_folder
from toolkit.runs.folder import RunFolder
from toolkit.runs.prepare import ModelLoader, Prepared, prepare, seeds_of
from toolkit.runs.records import from_line
from toolkit.runs.taught import Taught, Teaching
from toolkit.store import Store
from toolkit.strategies.adapter import Answerer
from toolkit.strategies.fitting import load as load_system
from toolkit.strategies.strategy import Strategy
from toolkit.strategies.system import System
from toolkit.tasks.example import Example
from toolkit.tasks.output import Output


@dataclass(frozen=True)
class Shown:
    """What one strategy did with one example.

    `sent` is the prompt as text (control tokens visible; a hosted model's messages), `trained` the sequence a tuned
    strategy would learn from the example, the preferred one of preferences (None for strategies without weights, or
    where nothing would be learnt from it or its target is unknown).
    """

    strategy: str
    seed: int | None
    output: Output
    sent: str
    trained: TrainingSequence | None


class FinishedRun:
    """A run folder with its systems; each is loaded when first asked for."""

    def __init__(self, folder: RunFolder, prepared: Prepared) -> None:
        self.folder = folder
        self.prepared = prepared
        self._systems: dict[tuple[str, int | None], System] = {}

    @property
    def strategies(self) -> tuple[Strategy, ...]:
        return self.prepared.recipe.strategies

    def system(self, name: str, seed: int | None = None) -> System:
        """A fitted strategy; its first seed unless one is named.

        Raises:
            RunError: no such strategy in this run.
        """
        strategy = strategy_of(self.folder, self.prepared.recipe, name)
        chosen = seed if seed is not None else seeds_of(strategy, self.prepared.recipe)[0]
        if (name, chosen) not in self._systems:
            bench = self.prepared.benches[name].seeded(chosen)

            def other(used: str) -> Answerer:
                seeds = seeds_of(self.prepared.recipe.strategy(used), self.prepared.recipe)
                return self.system(used, chosen if chosen in seeds else seeds[0])

            folder = self.folder.system(name, chosen)
            self._systems[(name, chosen)] = load_system(strategy, chosen, bench, folder, other)
        return self._systems[(name, chosen)]

    def predict(self, name: str, inputs: Sequence[Mapping[str, JsonValue]]) -> list[Output]:
        """Answers to new inputs.

        Raises:
            DataError: an input lacks a name the task's examples have, or has one they have not.
        """
        wanted = list(self.prepared.task.test[0].inputs)
        for number, given in enumerate(inputs, start=1):
            if set(given) != set(wanted):
                raise DataError(f"input {number} has {', '.join(given) or 'nothing'}; expected: {', '.join(wanted)}")
        examples = [Example(f"new-{uuid.uuid4().hex[:8]}", {key: given[key] for key in wanted}) for given in inputs]
        return self.system(name).answer(examples)

    def text_input(self, text: str) -> dict[str, JsonValue]:
        """A plain text as the task's only input. Raises DataError for a task with several."""
        names = list(self.prepared.task.test[0].inputs)
        if len(names) != 1:
            raise DataError(f"this task has the inputs {', '.join(names)}: give a JSON object with these (`--jsonl`)")
        return {names[0]: text}

    def show(self, example_id: str) -> list[Shown]:
        """What every strategy sent, retrieved and answered for a test example.

        Raises:
            DataError: no strategy has answered such an example.
            RunError: the test split is no longer the run's.
        """
        made_of = self.folder.made_of()
        _check_task(self.folder, made_of, "test split", "test_digest", self.prepared.task.test_digest)
        by_id = {example.id: example for example in self.prepared.task.test}
        shown, ids = [], set()
        for strategy in self.strategies:
            for seed in seeds_of(strategy, self.prepared.recipe):
                for record in read_lines(self.folder.outputs(strategy.name, seed)):
                    ids.add(record["output"]["example_id"])
                    if record["output"]["example_id"] == example_id:
                        shown.append(self._shown(strategy, seed, from_line(record["output"]), by_id[example_id]))
        if not shown:
            raise DataError(f"no strategy of {self.folder.root} answered '{example_id}'{nearest(example_id, ids)}")
        return shown

    def training(self, rows: int) -> list[Taught]:
        """The first rows of train, windows of the corpus or conversations, as each tuned strategy learns them.

        Raises:
            DataError: no strategy of the run learnt anything here.
            RunError: the corpus or the conversations that one learnt are no longer the run's.
        """
        found: list[Taught] = []
        for strategy in self.strategies:
            for seed in seeds_of(strategy, self.prepared.recipe):
                teaching = self._teaching(strategy, seed)
                if teaching.reads_corpus:
                    digest = teaching.bench.corpus_digest
                    _check_task(self.folder, self.folder.made_of(), "corpus", "corpus_digest", digest)
                self._check_chats(teaching)
                found += teaching.first(rows)
        if not found:
            raise DataError(f"no strategy of {self.folder.root} is tuned: none learnt weights here")
        return found

    def _check_chats(self, teaching: Teaching) -> None:
        file, place = teaching.chats_file, teaching.place
        if file is None or place is None or teaching.settings is None:
            return
        known = self.folder.made_of()["strategies"][teaching.strategy.name]["contents"][place]["chats"]
        if not file.is_file() or teaching.settings.content()["chats"] != known:
            raise RunError(
                f"'{file}' is no longer what '{teaching.strategy.name}' of the run in {self.folder.root} learnt: bring "
                "the old file back, or run the recipe again"
            )

    def _teaching(self, strategy: Strategy, seed: int | None) -> Teaching:
        return Teaching(strategy, seed, self.system(strategy.name, seed), self.prepared.benches[strategy.name])

    def _shown(self, strategy: Strategy, seed: int | None, output: Output, example: Example) -> Shown:
        model = self.prepared.benches[strategy.name].model
        ids, tokenizer = output.prompt_token_ids, model.renderer.tokenizer
        system = self.system(strategy.name, seed)
        if ids is None or tokenizer is None:
            sent = self._messages_sent(system, output, example)
        else:
            sent = str(tokenizer.decode(list(ids)))
        taught = self._teaching(strategy, seed).of([example]) if example.targets is not None else ()
        trained = next((item.sequence for item in taught), None)
        return Shown(strategy.name, seed, output, sent, trained)

    def _messages_sent(self, system: System, output: Output, example: Example) -> str:
        """What a hosted model was sent, built again; empty where that is not exactly what was sent (a part added
        turns) or no model was asked."""
        if not output.prompt_digest or not isinstance(system.model, RemoteModel):
            return ""
        prompt = system.renderer.prompt(system.drafts([example])[0])
        if prompt.digest != output.prompt_digest:
            return ""
        return "\n\n".join(f"{message.role}: {message.content}" for message in prompt.messages)


def strategy_of(folder: RunFolder, recipe: Recipe, name: str) -> Strategy:
    """The strategy of that name. Raises RunError with the nearest match."""
    names = [strategy.name for strategy in recipe.strategies]
    if name not in names:
        there = ", ".join(names)
        raise RunError(f"{folder.root} has no strategy '{name}'{nearest(name, names)}; it has: {there}")
    return recipe.strategies[names.index(name)]


def reopen(root: Path, listener: Listener | None = None, load: ModelLoader | None = None) -> FinishedRun:
    """Opens a run folder.

    Raises:
        RunError: it holds no run or an unfinished one, or its systems were fitted to other weights, or to another task,
            than the recipe's names mean today.
        ToolkitError: its recipe's task or models cannot be loaded.
    """
    folder = RunFolder(root)
    recipe = recipe_of(folder)
    if not folder.is_finished:
        raise RunError(f"{root} is not finished: run the recipe to its end first")
    prepared = prepare(recipe, Store(cache_folder() / "store"), Meter(listener), load, finished=True)
    made_of = folder.made_of()
    _check_task(folder, made_of, "task", "training_digest", prepared.task.training_digest)
    _check_models(folder, made_of, prepared)
    return FinishedRun(folder, prepared)


def _check_task(folder: RunFolder, made_of: Mapping[str, Any], what: str, key: str, digest: str) -> None:
    known = made_of["task"]
    if known[key] != digest:
        raise RunError(
            f"the {what} of '{known['name']}' is no longer that of the run in {folder.root} ({digest[:12]} and not "
            f"{known[key][:12]}): bring the old rows back, or run the recipe again"
        )


def _check_models(folder: RunFolder, made_of: Mapping[str, Any], prepared: Prepared) -> None:
    known = made_of["models"]
    for name, model in prepared.models.items():
        if name in known and known[name]["digest"] != model.digest:
            raise RunError(
                f"the model '{name}' is no longer that of the run in {folder.root} ({model.digest[:12]} and not "
                f"{known[name]['digest'][:12]}): bring the old one back, or run the recipe again"
            )


def recipe_of(folder: RunFolder) -> Recipe:
    """The recipe of a run; what it names is still looked for beside where it was written.

    Raises:
        RunError: the folder holds no run.
    """
    if not folder.recipe.is_file():
        raise RunError(f"{folder.root} holds no run: `recipe.yaml` is missing")
    recipe = load_recipe(folder.recipe)
    if not folder.recipe_source.is_file():
        return recipe
    return replace(recipe, path=Path(folder.recipe_source.read_text(encoding="utf-8")))
