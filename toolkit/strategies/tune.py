"""tune: LoRA on the drafts that the parts before it build."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toolkit.errors import FairnessError, ModelError, listing
from toolkit.inference.local import LocalModel
from toolkit.inference.model import Weights
from toolkit.rendering import TrainingSequence
from toolkit.strategies.adapter import Adapter, Dependency, FitContext, Part
from toolkit.tasks.contract import target_text
from toolkit.tasks.task import TrainingTask
from toolkit.tuning.settings import TuneSettings

SHOWN_PROBLEMS = 5


class TuneAdapter(Adapter, TuneSettings):
    """Low-rank adaptation (Hu et al. 2021) of all linear layers, on the task's training examples.

    Placed after `retrieve` or `prompt` it is trained on the drafts those build (RAFT, Zhang et al. 2024); placed
    before them it is trained on the bare question.

    """

    tunes = True

    @property
    def seeded(self) -> bool:
        return True

    def depends_on(self) -> frozenset[Dependency]:
        return frozenset({"model"})

    def content(self) -> Mapping[str, Any]:
        """Several processes add up in another order, and draw their own chances: another part, by its bytes."""
        from toolkit.tuning.workers import waiting

        processes = waiting().count
        return {"processes": processes} if processes > 1 else {}

    def check(self, task: TrainingTask) -> list[str]:
        return [] if task.train else ["there is nothing to train on: train is empty"]

    def fit(self, context: FitContext) -> Part:
        from toolkit.tuning import train

        if not isinstance(context.model, LocalModel):
            raise ModelError(f"the model '{context.model.name}' cannot be tuned here: its weights are not local")
        context.meter.event("drafts", examples=len(context.task.train))
        sequences = _sequences(context)
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
                stop=context.renderer.stop,
                bos=context.renderer.bos,
            )
            amounts |= {"tokens": result.seen_tokens, "supervised_tokens": result.supervised_tokens}
        return TunedWeights(context.folder / "adapter")

    def load(self, folder: Path, context: FitContext) -> Part:
        return TunedWeights(folder)

    @property
    def settings(self) -> TuneSettings:
        return TuneSettings(**{name: getattr(self, name) for name in TuneSettings.model_fields})


def _sequences(context: FitContext) -> list[TrainingSequence]:
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
