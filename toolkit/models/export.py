"""Weights as other tools load them: an adapter under its base's published name, or merged into a whole model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.errors import ModelError, RunError
from toolkit.models.adapted import merged
from toolkit.models.adapter_files import TENSORS, read_settings, write_settings
from toolkit.models.four_bit import dequantise, in_float32, is_quantised
from toolkit.models.load import silenced
from toolkit.models.weights import shared_copy

if TYPE_CHECKING:
    from toolkit.models.load import LoadedModel

LARGEST_FILE = "5GB"

TOKENIZER_FILES = (
    "*tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "vocab.*",
    "merges.txt",
    "*.model",
)
OF_A_MACHINE = ("is_local", "local_files_only", "name_or_path", "_name_or_path")
"""What a configuration may hold of how it was loaded."""


def export_adapter(adapter: Path, folder: Path, base: str | None, revision: str | None) -> None:
    """Writes an adapter for `peft.PeftModel.from_pretrained` into an existing folder; its tensors keep their bytes.

    Args:
        base: the published name of what the adapter belongs to; None where there is none.
        revision: the commit of that base.
    """
    settings = {**read_settings(adapter), "base_model_name_or_path": base, "revision": revision, "inference_mode": True}
    write_settings(settings, folder)
    shutil.copyfile(adapter / TENSORS, folder / TENSORS)


def export_merged(loaded: LoadedModel, adapter: Path, folder: Path, dtype: str) -> None:
    """Writes the model with the adapter in its weights into an existing folder, for `from_pretrained`.

    The sum is made in float32 and rounded once, to `dtype`. In bfloat16 that loses most of a small update. Weights in 4
    bits are made whole again first. All other files are the base's own, so that whatever reads the base, older releases
    too, reads this alike.

    Args:
        loaded: from the caller's own `load_pretrained`: its module is converted and of no use afterwards.
        dtype: `float32` or `bfloat16`.

    Raises:
        ModelError: the adapter does not fit the model, or the model's files are quantised already.
        RunError: the disk cannot be written.
    """
    import torch
    from safetensors import SafetensorError

    if "quantization_config" in _settings(loaded.folder / "config.json"):
        raise ModelError(
            f"the base '{loaded.name}' is stored quantised already, so nothing can be merged into it: export the "
            "adapter alone, or tune the model it was made of (with `dtype: nf4` for 4 bits)"
        )
    plain = dequantise(in_float32(shared_copy(loaded.module))) if is_quantised(loaded.module) else loaded.module
    whole = merged(plain.to(torch.float32), adapter).to(getattr(torch, dtype))
    if parted := _head_is_parted(whole):
        for config in (whole.config, whole.config.get_text_config()):
            config.tie_word_embeddings = False
    try:
        with silenced():
            whole.save_pretrained(folder, max_shard_size=LARGEST_FILE)
    except SafetensorError as error:  # which hides an error of the disk
        raise RunError(f"{folder} cannot be written: {error}") from error
    for path in folder.iterdir():
        path.chmod(0o644)  # safetensors makes files that nobody else may read
    _copy_base_files(loaded.folder, folder, dtype, parted)


def _copy_base_files(base: Path, folder: Path, dtype: str, parted: bool) -> None:
    """Configuration, generation configuration and tokeniser, with what is now otherwise."""
    config = _settings(base / "config.json")
    for part in [part for part in (config, config.get("text_config")) if isinstance(part, dict)]:
        part.update({name: dtype for name in ("dtype", "torch_dtype") if name in part})
        part.update({"tie_word_embeddings": False} if parted else {})
    if "torch_dtype" not in config:
        config["dtype"] = dtype
    changed = {"config.json": config}
    for name in ("generation_config.json", "tokenizer_config.json"):
        if (base / name).is_file():
            changed[name] = _settings(base / name)
    for path in [path for pattern in TOKENIZER_FILES for path in base.glob(pattern) if path.is_file()]:
        shutil.copyfile(path, folder / path.name)
    for name, settings in changed.items():
        text = json.dumps(settings, indent=2, ensure_ascii=False)
        (folder / name).write_text(text + "\n", encoding="utf-8")


def _settings(path: Path) -> dict[str, Any]:
    settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return {name: value for name, value in settings.items() if name not in OF_A_MACHINE}


def _head_is_parted(module: Any) -> bool:
    """An adapter of the output head parts it from the embeddings: tied again on loading, its update would be lost."""
    head, embeddings = module.get_output_embeddings(), module.get_input_embeddings()
    tied = module.config.get_text_config().tie_word_embeddings
    return bool(tied and head is not None and head.weight is not embeddings.weight)
