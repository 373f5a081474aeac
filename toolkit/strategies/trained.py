"""adapter: LoRA weights that were trained elsewhere, measured like any other strategy."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from toolkit.errors import ModelError
from toolkit.inference.local import LocalModel
from toolkit.inference.model import FoundationModel
from toolkit.models import adapter_digest
from toolkit.models.adapter_files import CONFIG, adapter_faults, copy_adapter, declared_base
from toolkit.strategies.adapter import Adapter, Dependency, FitContext, Part
from toolkit.strategies.places import candidates, not_there
from toolkit.strategies.tune import TunedWeights
from toolkit.tasks.task import TrainingTask


class TrainedAdapter(Adapter):
    """A LoRA adapter of PEFT, TRL, axolotl, Unsloth or another run of this toolkit.

    It is asked with the recipe's prompts: where it was trained with others, give its strategy that `template`.

    Attributes:
        path: the folder with `adapter_config.json` and `adapter_model.safetensors`; relative to the working directory
            or the recipe's file.
    """

    tunes: ClassVar[bool] = True
    trained_elsewhere: ClassVar[bool] = True
    places: ClassVar[frozenset[str]] = frozenset({"path"})

    path: str = Field(min_length=1)

    def depends_on(self) -> frozenset[Dependency]:
        return frozenset()

    def content(self) -> Mapping[str, Any]:
        return {"adapter": adapter_digest(self._folder())}

    def check(self, task: TrainingTask) -> list[str]:
        folder = self._folder()
        if not folder.is_dir():
            return [f"path: {not_there(self.path, self._recipe, 'folder', Path.is_dir)}"]
        return [f"path: '{self.path}': {fault}" for fault in adapter_faults(folder)]

    def check_model(self, model: FoundationModel) -> list[str]:
        if not isinstance(model, LocalModel) or not (self._folder() / CONFIG).is_file():
            return []  # a hosted one is refused for all that tune; of what is not there `check` tells
        from tempfile import TemporaryDirectory

        from toolkit.models.adapted import MisfitError, load_adapter

        with TemporaryDirectory() as work:
            copy_adapter(self._folder(), Path(work))
            try:
                load_adapter(model.module, work)
            except MisfitError as error:
                advice = "name the model it was trained on, or train it on this one"
                return [f"path: '{self.path}' does not fit the model '{model.name}': {error.reason}; {advice}"]
        return []

    def fit(self, context: FitContext) -> Part:
        if not isinstance(context.model, LocalModel):
            raise ModelError(f"the model '{context.model.name}' takes no adapter here: its weights are not local")
        folder = self._folder()
        for notice in _notices(folder, context.model):
            context.meter.event("notice", text=f"adapter: {notice}", settled=True)
        copy_adapter(folder, context.folder / "adapter")
        return TunedWeights(context.folder / "adapter")

    def load(self, folder: Path, context: FitContext) -> Part:
        return TunedWeights(folder)

    def _folder(self) -> Path:
        """The first that holds an adapter, else the first that is there, else where it should be."""
        found = candidates(self.path, self._recipe)
        adapters = [folder for folder in found if (folder / CONFIG).is_file()]
        return [*adapters, *(folder for folder in found if folder.is_dir()), found[-1]][0]


def _notices(folder: Path, model: LocalModel) -> Iterator[str]:
    """What does not stand in the way and may yet be why it scores badly."""
    base = declared_base(folder)
    if base is not None:
        yield f"trained on '{base}', as it says; here it is asked on '{model.name}'"
    template, own = _chat_template(folder), getattr(model.renderer.tokenizer, "chat_template", None)
    if template is not None and own is not None and template.strip() != own.strip():
        yield (
            f"its folder has another chat template than '{model.name}'; it is asked with the model's, which may not be "
            "what it was trained on"
        )


def _chat_template(folder: Path) -> str | None:
    """The chat template that a trainer saved beside the adapter, if any."""
    beside, settings = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    if beside.is_file():
        return beside.read_text(encoding="utf-8")
    if not settings.is_file():
        return None
    try:
        said = json.loads(settings.read_text(encoding="utf-8"))
    except ValueError:
        return None
    found = said.get("chat_template") if isinstance(said, dict) else None
    return found if isinstance(found, str) else None
