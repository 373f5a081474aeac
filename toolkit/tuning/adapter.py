"""Adapters in PEFT's format: made, and saved with the same bytes everywhere. `toolkit.models.adapted` loads them.

The base is never touched: an adapter is made on a structural copy that shares the base's tensors.
"""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.errors import ModelError, RunError
from toolkit.models.adapted import cuda_devices, use_one_rounding
from toolkit.models.adapter_files import CONFIG, TENSORS
from toolkit.models.weights import shared_copy
from toolkit.rendering.prompt import TrainingSequence
from toolkit.seeds import derive
from toolkit.tuning.methods import (
    REWRITING,
    as_plain_lora,
    check_names,
    check_rewritable,
    lora_config,
    rewrite,
    smallest_rank,
)
from toolkit.tuning.settings import TuneSettings

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor

AUTOMATIC_RANKS = (8, 16, 32, 64, 128, 256)


def new_adapter(
    module: Any, settings: TuneSettings, seed: int, sequences: Iterable[TrainingSequence] = ()
) -> PeftModel:
    """A fresh adapter on a copy of the base; `.get_base_model()` is the view, of the base's own class.

    The adapter's tensors are fp32 and alone require gradients. A is drawn from the seed, B is 0, so the view answers
    like the base; with a method that rewrites the base, up to rounding. The global generator is left as it was.

    Args:
        settings: with a rank that is a number.
        sequences: in the order of the training; only `eva` takes of them, the first.

    Raises:
        ModelError: a target module or a layer of a pattern does not exist in this model, or is too small for the rank;
            or there are too few sequences to start from.
    """
    adapted = _plain_adapter(module, settings, seed)
    check_names(adapted, settings)
    if settings.method in REWRITING:
        rewrite(adapted, settings.method)
    if settings.method == "eva":
        from toolkit.tuning.eva import start_from_data

        start_from_data(adapted, sequences, seed)
    return adapted


def check_settings(module: Any, settings: TuneSettings) -> None:
    """Whether settings suit a model, without a training and before one.

    Raises:
        ModelError: as `new_adapter`, but for what only the sequences show.
    """
    if settings.method == "full":
        return
    adapted = _plain_adapter(module, settings.model_copy(update={"rank": 1} if settings.rank == "auto" else {}), seed=0)
    check_names(adapted, settings)
    if settings.method in REWRITING:
        check_rewritable(adapted, settings.method)


def resolved_rank(module: Any, settings: TuneSettings, supervised_tokens: int) -> int:
    """The rank, chosen by the number of tokens to learn from where it is `auto`.

    Raises:
        ModelError: as `new_adapter`.
    """
    if settings.rank != "auto":
        return settings.rank

    def trained(rank: int) -> int:
        adapted = _plain_adapter(module, settings.model_copy(update={"rank": rank}), seed=0)
        return sum(one.numel() for one in adapted.parameters() if one.requires_grad)

    return smallest_rank(AUTOMATIC_RANKS, trained, supervised_tokens)


def adapter_tensors(adapted: PeftModel) -> dict[str, Tensor]:
    """A copy of the adapter's tensors on the CPU, by PEFT's names."""
    from peft import get_peft_model_state_dict

    found = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in found.items()}


def save_adapter(
    adapted: PeftModel, folder: Path | str, base_name: str | None = None, start: Mapping[str, Tensor] | None = None
) -> None:
    """Writes the adapter for `peft.PeftModel.from_pretrained`: the same adapter gives the same bytes anywhere.

    Args:
        base_name: what the file says the adapter belongs to; never the path this machine loaded it from.
        start: `adapter_tensors` before training, of a method that rewrites the base: what is written is plain LoRA
            with what was learnt since, for the base as it was.
    """
    from safetensors.torch import save

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors, settings = adapter_tensors(adapted), adapted.peft_config["default"].to_dict()
    if start is not None:
        settings, tensors = as_plain_lora(settings, tensors, start)
    settings |= {"base_model_name_or_path": base_name, "inference_mode": True}
    text = json.dumps(settings, indent=2, sort_keys=True, default=_plain)
    write_atomically(folder / TENSORS, save(tensors, metadata={"format": "pt"}))
    write_atomically(folder / CONFIG, text.encode() + b"\n")


def write_atomically(path: Path, content: bytes | Callable[[Path], object]) -> None:
    """The file is whole or absent, whenever the process is killed; its content may be what writes a file."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        if isinstance(content, bytes):
            partial.write_bytes(content)
        else:
            content(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """`write_atomically` of a safetensors file, which is never whole in memory.

    Raises:
        OSError: it cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        write_atomically(path, lambda partial: save_file(dict(tensors), partial, dict(metadata)))
    except SafetensorError as error:  # which is how a full disk is told
        raise OSError(f"{path} cannot be written: {error}") from error


def remove_partials(*files: Path) -> None:
    """What processes killed in `write_atomically` have left beside these files."""
    for file in files:
        for path in file.parent.glob(f".{file.name}.*"):
            if path.name.rpartition(".")[2].isdecimal():
                path.unlink(missing_ok=True)


def _plain_adapter(module: Any, settings: TuneSettings, seed: int) -> PeftModel:
    """The adapter as PEFT makes it, before any rewriting."""
    import torch
    from peft import get_peft_model

    config, copied = lora_config(settings), shared_copy(module)
    use_one_rounding(config, copied)
    with torch.random.fork_rng(devices=cuda_devices(module)), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers by an old name
        warnings.filterwarnings("ignore", message=".*_pattern")  # a pattern for no layer is an error here
        warnings.filterwarnings("ignore", message="fan_in_fan_out")  # which PEFT then sets as it must be
        torch.manual_seed(derive(seed, "adapter"))
        try:
            return get_peft_model(copied, config)
        except ValueError as error:
            raise ModelError(f"target_modules: {error}") from error


def _plain(value: Any) -> Any:
    """What JSON cannot hold: sets in sorted order (theirs follows the process's hash seed), enumerations."""
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    raise TypeError(f"{type(value).__name__} has no place in {CONFIG}")


def check_writable(folder: Path) -> None:
    """A folder that cannot be written is told before the first step, not behind the last."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise RunError(f"the folder {folder} cannot be written ({error.strerror}); give another one") from error
