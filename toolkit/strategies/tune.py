"""tune: LoRA on the drafts that the parts before it build, or on the raw texts of the corpus."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from toolkit.errors import DataError, FairnessError, ModelError, listing
from toolkit.inference.local import LocalModel
from toolkit.inference.model import FoundationModel, Weights
from toolkit.rendering import TrainingSequence
from toolkit.rendering.raw_text import SHORTEST_WINDOW_TOKENS
from toolkit.strategies.adapter import Adapter, Dependency, FitContext, Part
from toolkit.tasks.contract import target_text
from toolkit.tasks.task import TrainingTask
from toolkit.tuning.settings import TuneSettings

SHOWN_PROBLEMS = 5
WINDOW_TOKENS = 512
"""Of raw text, unless the model's context is shorter: enough to learn facts from, and what lies further apart is rare
in the documents of a small corpus."""

Learn = Literal["answers", "corpus"]


class TuneAdapter(Adapter, TuneSettings):
    """Low-rank adaptation (Hu et al. 2021) of all linear layers, on the task's training examples or its corpus.

    Learning answers after `retrieve` or `prompt`, it is trained on the drafts those build (RAFT, Zhang et al. 2024);
    before them, on the bare question. Learning the corpus is going on with pretraining (Gururangan et al. 2020): no
    example and no draft is seen.

    Attributes:
        learn: `answers` of the train split, or the raw texts of the `corpus`.
        window_tokens: raw texts are cut into windows of at most so many; `auto` is 512, or the model's context where
            that is shorter.
    """

    tunes = True

    learn: Learn = "answers"
    window_tokens: Literal["auto"] | Annotated[int, Field(ge=SHORTEST_WINDOW_TOKENS)] = "auto"

    @property
    def seeded(self) -> bool:
        return True

    @property
    def learns_answers(self) -> bool:
        return self.learn == "answers"

    def depends_on(self) -> frozenset[Dependency]:
        return frozenset({"model", "corpus"} if self.learn == "corpus" else {"model"})

    def check(self, task: TrainingTask) -> list[str]:
        if self.learn == "corpus":
            missing = f"task '{task.name}' has no corpus to learn: add a `corpus/` folder or `corpus:`"
            return [missing] if task.corpus is None else []
        problems = [] if task.train else ["there is nothing to train on: train is empty"]
        if self.window_tokens != "auto":
            problems.append("window_tokens: only raw text is cut into windows; add `learn: corpus` or leave it out")
        return problems

    def fit(self, context: FitContext) -> Part:
        from toolkit.tuning import train

        if not isinstance(context.model, LocalModel):
            raise ModelError(f"the model '{context.model.name}' cannot be tuned here: its weights are not local")
        sequences = self._sequences(context)
        meter = context.meter
        for notice in self.settings.notices():
            meter.event("notice", text=f"tune: {notice}", settled=True)

        def on_step(step: int, steps: int, loss: float, tokens: int) -> None:
            meter.event("train", step=step, steps=steps, loss=loss, tokens=tokens)

        with meter.stage("train") as amounts:
            result = train(
                context.model.module,
                sequences,
                self.settings,
                folder=context.folder / "adapter",
                seed=context.seed,
                on_step=on_step,
                stop=context.renderer.stop if self.learns_answers else (),  # raw text has no answer to end
                bos=context.renderer.bos,
            )
            amounts |= {"tokens": result.seen_tokens, "supervised_tokens": result.supervised_tokens}
        return TunedWeights(context.folder / "adapter")

    def load(self, folder: Path, context: FitContext) -> Part:
        return TunedWeights(folder)

    @property
    def settings(self) -> TuneSettings:
        return TuneSettings(**{name: getattr(self, name) for name in TuneSettings.model_fields})

    def _sequences(self, context: FitContext) -> list[TrainingSequence]:
        if self.learn == "corpus":
            return _of_corpus(context, self.window_tokens)
        context.meter.event("drafts", examples=len(context.task.train))
        return _of_answers(context)


def _of_corpus(context: FitContext, window_tokens: int | Literal["auto"]) -> list[TrainingSequence]:
    """The corpus's documents in windows.

    Raises:
        DataError: there is no corpus or it cannot be read, a document has nothing to learn, or windows are longer than
            the model's context.
    """
    from toolkit.retrieval import read_corpus

    if context.task.corpus is None:
        raise DataError(f"task '{context.task.name}' has no corpus to learn")
    documents = read_corpus(context.task.corpus)
    context.meter.event("texts", documents=len(documents))
    length = _window_tokens(window_tokens, context.model)
    return context.renderer.text_sequences([document.text for document in documents], length)


def _window_tokens(wanted: int | Literal["auto"], model: FoundationModel) -> int:
    room = model.context_tokens
    if wanted == "auto":
        return WINDOW_TOKENS if room is None else min(WINDOW_TOKENS, room)
    if room is not None and wanted > room:
        raise DataError(f"window_tokens: {wanted}, but the context of '{model.name}' is {room}; lower it")
    return wanted


def _of_answers(context: FitContext) -> list[TrainingSequence]:
    """What the train split teaches.

    Raises:
        FairnessError: a sequence does not begin with exactly what is sent when asking, or learns some of it.
    """
    sequences, problems = [], []
    for example, draft in context.drafts("train"):
        sequence = context.renderer.training_sequence(draft, target_text(context.task.contract, example))
        prompt = context.renderer.prompt(draft).token_ids or ()
        if sequence.token_ids[: len(prompt)] != prompt:
            problems.append(f"example '{example.id}': its training ids do not start with its prompt's {len(prompt)}")
        elif learnt := sum(sequence.supervised[: len(prompt)]):
            problems.append(f"example '{example.id}': {learnt} tokens of its prompt are supervised")
        sequences.append(sequence)
    if problems:
        more = [f"and {len(problems) - SHOWN_PROBLEMS} more"] if len(problems) > SHOWN_PROBLEMS else []
        heading = "training would not match asking; make both with the same `Renderer`"
        raise FairnessError(listing(problems[:SHOWN_PROBLEMS] + more, heading))
    return sequences


class TunedWeights(Part):
    """A PEFT adapter in a folder."""

    def __init__(self, folder: Path) -> None:
        from toolkit.models import adapter_digest

        self._folder = folder
        self.weights = Weights(folder, adapter_digest(folder))

    def save(self, folder: Path) -> None:
        shutil.copytree(self._folder, folder, dirs_exist_ok=True)

    def describe(self) -> Mapping[str, Any]:
        facts = json.loads((self._folder / "training.json").read_text(encoding="utf-8"))
        size = sum(path.stat().st_size for path in self._folder.glob("*.safetensors"))
        return {"adapter_bytes": size, "training": facts}
