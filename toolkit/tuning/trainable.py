"""What of a model is trained: low-rank updates beside its weights, or (full fine-tuning) a copy of all of them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

from toolkit.models.weights import shared_copy
from toolkit.models.whole import WHOLE
from toolkit.rendering.prompt import TrainingSequence
from toolkit.tuning.adapter import adapter_tensors, new_adapter, save_adapter, write_tensors
from toolkit.tuning.methods import REWRITING
from toolkit.tuning.settings import TuneSettings

CHANCE = re.compile("dropout|pdrop|layerdrop|jitter")
"""In the name of a rate."""


class Trainable(Protocol):
    """A view of the base, of its own class; what is trained requires gradients, and nothing of it is the base's."""

    @property
    def view(self) -> Any: ...

    def save(self, folder: Path, base_name: str | None) -> None:
        """Writes what was trained, for `toolkit.models.load_adapter`: the same weights give the same bytes."""


class LowRank:
    """A PEFT adapter."""

    def __init__(self, module: Any, settings: TuneSettings, seed: int, first: Iterable[TrainingSequence]) -> None:
        self._adapted = new_adapter(module, settings, seed, first)
        self._start = adapter_tensors(self._adapted) if settings.method in REWRITING else None
        self.view = self._adapted.get_base_model()

    def save(self, folder: Path, base_name: str | None) -> None:
        save_adapter(self._adapted, folder, base_name, self._start)


class AllWeights:
    """The model's own weights, copied; trained in fp32 and, in a base of another dtype, rounded to it at each step."""

    def __init__(self, module: Any) -> None:
        self.view = shared_copy(module)
        for parameter in self.view.parameters():
            parameter.data = parameter.data.clone()
            parameter.requires_grad_(parameter.is_floating_point())

    def save(self, folder: Path, base_name: str | None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: one.detach().cpu().contiguous() for name, one in self.view.named_parameters()}
        write_tensors(folder / WHOLE, tensors, {"format": "pt"})


def trainable(module: Any, settings: TuneSettings, seed: int, first: Iterable[TrainingSequence]) -> Trainable:
    """What the settings train of a base, which is left as it is.

    Args:
        settings: with a rank that is a number.
        first: the sequences in the order in which they are learnt from, which some methods start from.

    Raises:
        ModelError: as `new_adapter`.
    """
    found: Trainable = AllWeights(module) if settings.method == "full" else LowRank(module, settings, seed, first)
    _switch_off_chance(found.view)
    return found


def _switch_off_chance(view: Any) -> None:
    """The base's own: `dropout` alone says whether there is any, whatever computes the steps.

    Some layers hold its rate, others read it from the configuration, of which a view has its own.
    """
    from torch.nn import Dropout

    for name, part in view.named_modules():
        if isinstance(part, Dropout) and ".lora_dropout." not in name:
            part.p = 0.0
        for holder in (part, getattr(part, "config", None)):
            rates = vars(holder) if holder is not None and not isinstance(holder, dict) else {}
            for field in [key for key, value in rates.items() if CHANCE.search(key) and isinstance(value, float)]:
                setattr(holder, field, 0.0)
