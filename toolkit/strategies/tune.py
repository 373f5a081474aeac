"""tune: the model's weights adapted to the train split, to the corpus, or to conversations of a file."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from toolkit.errors import DataError, ModelError
from toolkit.inference.local import LocalModel
from toolkit.inference.model import FoundationModel, Weights
from toolkit.rendering.raw_text import SHORTEST_WINDOW_TOKENS
from toolkit.strategies.adapter import Adapter, Dependency, FitContext, Part
from toolkit.strategies.learning import SHOWN_PROBLEMS, Learn, Lessons, lessons, problems, window_length
from toolkit.strategies.places import candidates, not_there
from toolkit.tasks.chats import read_chats
from toolkit.tasks.task import TrainingTask
from toolkit.tuning.methods import why_not_tunable
from toolkit.tuning.settings import TuneSettings

if TYPE_CHECKING:
    from toolkit.tuning import Forecast, TrainingResult


class TuneAdapter(Adapter, TuneSettings):
    """Low-rank adaptation (Hu et al. 2021) of all linear layers, or another of `method`'s.

    Learning answers after `retrieve` or `prompt`, it is trained on the drafts those build (RAFT, Zhang et al. 2024);
    before them, on the bare question. Learning the corpus is going on with pretraining (Gururangan et al. 2020): no
    example and no draft is seen. Nor is any where conversations of a file are learnt (instruction tuning).

    Attributes:
        learn: `answers` of the train split; `preferences`, which hold the answer against those that an example has
            `rejected` (DPO, Rafailov et al. 2023); the raw texts of the `corpus`; or `chats`.
        chats: the file of these, JSON Lines of `{"messages": [...]}`; relative to the working directory or the recipe's
            file. All assistant messages are learnt but those with `"weight": 0`.
        window_tokens: raw texts are cut into windows of at most so many; `auto` is 512, or the model's context where
            that is shorter.
    """

    tunes: ClassVar[bool] = True
    places: ClassVar[frozenset[str]] = frozenset({"chats"})

    learn: Learn = "answers"
    chats: str | None = Field(default=None, min_length=1)
    window_tokens: Literal["auto"] | Annotated[int, Field(ge=SHORTEST_WINDOW_TOKENS)] = "auto"

    @property
    def seeded(self) -> bool:
        return True

    @property
    def learns_answers(self) -> bool:
        return self.learn in ("answers", "preferences")

    @property
    def makes_trials(self) -> bool:
        return self.validate_every > 0

    def depends_on(self) -> frozenset[Dependency]:
        return frozenset({"model", "corpus"} if self.learn == "corpus" else {"model"})

    def content(self) -> Mapping[str, Any]:
        """The chats' digest. And several processes add up in another order, and draw their own chances: another part,
        by its bytes."""
        from toolkit.tuning.parallel.helpers import waiting

        processes = waiting().count
        several = {"processes": processes} if processes > 1 else {}
        file = self.chats_file
        return several if file is None else {**several, "chats": _file_digest(file)}

    @property
    def chats_file(self) -> Path | None:
        """The first that is there, else where it should be; None where no chats are learnt."""
        if self.chats is None or self.learn != "chats":
            return None
        found = candidates(self.chats, self._recipe)
        return next((file for file in found if file.is_file()), found[-1])

    def questions(self) -> Iterator[tuple[str, str]]:
        file = self.chats_file
        for conversation in () if file is None or not file.is_file() else read_chats(file, []):
            said = (message.content for message in conversation.messages if message.role == "user")
            yield from ((f"{file}:{conversation.line}", text) for text in said)

    def check(self, task: TrainingTask) -> list[str]:
        found = problems(task, self.learn)
        if self.window_tokens != "auto" and self.learn != "corpus":
            found.append("window_tokens: only raw text is cut into windows; add `learn: corpus` or leave it out")
        if self.validate_every and not task.validation:
            found.append("validate_every: there is nothing to look at: validation is empty")
        return [*found, *(f"chats: {problem}" for problem in self._chats_problems())]

    def check_model(self, model: FoundationModel) -> list[str]:
        if not isinstance(model, LocalModel):
            return []
        if reason := why_not_tunable(model.module, self.method):
            return [reason]
        from toolkit.tuning.adapter import check_settings

        try:
            if self.learn == "corpus":
                window_length(model, self.window_tokens)
            check_settings(model.module, self.settings)
        except (DataError, ModelError) as error:
            return [str(error)]
        return []

    def fit(self, context: FitContext) -> Part:
        if not isinstance(context.model, LocalModel):
            raise ModelError(f"the model '{context.model.name}' cannot be tuned here: its weights are not local")
        learnt = lessons(context, self.learn, self.window_tokens, self.chats_file)
        for notice in self.settings.notices(self.learn == "preferences"):
            context.meter.event("notice", text=f"tune: {notice}", settled=True)
        with context.meter.stage("train") as amounts:
            result = _train(context, context.model.module, learnt, self.settings)
            amounts |= {"tokens": result.seen_tokens, "supervised_tokens": result.supervised_tokens}
        context.add_earlier(result.resumed_seconds)
        return TunedWeights(context.folder / "adapter")

    def load(self, folder: Path, context: FitContext) -> Part:
        return TunedWeights(folder)

    @property
    def settings(self) -> TuneSettings:
        return TuneSettings(**{name: getattr(self, name) for name in TuneSettings.model_fields})

    def _chats_problems(self) -> list[str]:
        if self.chats is None:
            missing = "`learn: chats` needs a file of conversations; add `chats: conversations.jsonl`"
            return [missing] if self.learn == "chats" else []
        file = self.chats_file
        if file is None:
            return [f"nothing reads '{self.chats}' here; add `learn: chats` or leave it out"]
        if not file.is_file():
            return [not_there(self.chats, self._recipe, "file", Path.is_file)]
        problems: list[str] = []
        for _ in read_chats(file, problems):
            pass
        more = [f"and {len(problems) - SHOWN_PROBLEMS} more"] if len(problems) > SHOWN_PROBLEMS else []
        return [*problems[:SHOWN_PROBLEMS], *more]


def _file_digest(file: Path) -> str:
    """sha256 of its bytes. Raises DataError where it cannot be read."""
    digest = hashlib.sha256()
    try:
        with file.open("rb") as opened:
            for block in iter(lambda: opened.read(1 << 20), b""):
                digest.update(block)
    except OSError as error:
        raise DataError(f"chats: {file} cannot be read: {error.strerror}") from error
    return digest.hexdigest()


def _train(context: FitContext, module: Any, learnt: Lessons, settings: TuneSettings) -> TrainingResult:
    from toolkit.tuning import train

    meter, primary = context.meter, context.primary

    def on_forecast(forecast: Forecast) -> None:
        meter.event("forecast", **asdict(forecast))
        if forecast.notice is not None:
            meter.event("notice", text=f"tune: {forecast.notice}", settled=True)

    def validate(state: Path) -> float:
        value = context.validate(TunedWeights(state))
        return value if primary.higher_is_better else -value

    return train(
        module,
        learnt.items,
        settings,
        folder=context.folder / "adapter",
        work=context.folder / "training",  # which goes with the work folder, once the part is in the Store
        seed=context.seed,
        on_forecast=on_forecast,
        on_step=lambda report: meter.event("train", **asdict(report)),
        on_look=lambda look: meter.event("validated", metric=primary.name, **asdict(look)),
        validate=validate,
        stop=learnt.stop,
        bos=context.renderer.bos,
        names=learnt.names,
    )


class TunedWeights(Part):
    """A PEFT adapter, or all weights, in a folder."""

    def __init__(self, folder: Path) -> None:
        from toolkit.models import adapter_digest

        self._folder = folder
        self.weights = Weights(folder, adapter_digest(folder))

    def save(self, folder: Path) -> None:
        shutil.copytree(self._folder, folder, dirs_exist_ok=True)

    def describe(self) -> Mapping[str, Any]:
        size = sum(path.stat().st_size for path in self._folder.glob("*.safetensors"))
        summary = self._folder / "training.json"
        if not summary.is_file():  # trained elsewhere
            return {"adapter_bytes": size}
        return {"adapter_bytes": size, "training": json.loads(summary.read_text(encoding="utf-8"))}
