"""What identifies weights, and a copy of a model's structure that shares them."""

from __future__ import annotations

import copy
import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.errors import ModelError
from toolkit.models.files import check_inside, indexed
from toolkit.models.four_bit import shared_parameter, state_tensors
from toolkit.resources import cache_folder
from toolkit.store import file_digest

if TYPE_CHECKING:
    from torch.nn import Module

# What changes an answer: weights, architecture, tokenizer, and the modules of a sentence encoder. Notes do not.
_PATTERNS = (
    "*.safetensors",
    "*.safetensors.index.json",
    "config*.json",
    "generation_config.json",
    "*tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "vocab.*",
    "merges.txt",
    "*.model",
    "modules.json",
    "sentence_*_config.json",
    "*processor_config.json",
)


def weights_digest(folder: Path) -> str:
    """sha256 over the weights, configuration and tokenizer files of a folder, by relative path and content.

    Neither the folder's name nor its place counts. The result is remembered (in the cache folder, since a model's own
    folder may be read-only) for as long as no file changes in size or time of change.

    Raises:
        ModelError: the folder does not exist, holds none of these files, or names files outside itself.
    """
    if not folder.is_dir():
        raise ModelError(f"the model folder {folder} does not exist")
    check_inside(folder)
    files = _identifying_files(folder)
    if not files:
        raise ModelError(f"the folder {folder} holds no weights, configuration or tokenizer")
    stamp = [[file, (folder / file).stat().st_size, (folder / file).stat().st_mtime_ns] for file in files]
    place = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:24]
    memo = cache_folder() / "digests" / f"{place}.json"
    try:
        remembered = json.loads(memo.read_text(encoding="utf-8"))
        if remembered["files"] == stamp:
            return str(remembered["digest"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # nothing usable is remembered, so the digest is computed
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file}\0{file_digest(folder / file)}\n".encode())
    _write_atomically(memo, json.dumps({"folder": str(folder.resolve()), "digest": digest.hexdigest(), "files": stamp}))
    return digest.hexdigest()


def tensors_digest(module: Module) -> str:
    """sha256 over every parameter and buffer of a module: name, dtype, shape and bytes. Copies each to the CPU.

    Of weights in 4 bits the scales count as well.
    """
    import torch

    tensors = dict(module.named_parameters(remove_duplicate=False)) | dict(module.named_buffers(remove_duplicate=False))
    tensors |= state_tensors(module)
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def shared_copy(module: Module) -> Module:
    """A copy of the module tree whose parameters and buffers are the original's storage, so it costs no memory.

    But for rotary frequencies, a few numbers each.

    Layers may be replaced, adapters injected, modes and `requires_grad` set in the copy: the original keeps its own
    modules and parameters. Only writing into a shared tensor in place would reach it. Every parameter of the copy has
    `requires_grad` False, and tied weights stay tied.
    """
    memo: dict[int, object] = {}
    for parameter in module.parameters():
        memo[id(parameter)] = shared_parameter(parameter, memo)
    for name, buffer in module.named_buffers():
        # a model whose rotary frequencies follow its rows writes them in place
        memo[id(buffer)] = buffer.clone() if name.endswith("inv_freq") else buffer
    return copy.deepcopy(module, memo)


def _identifying_files(folder: Path) -> list[str]:
    """Relative paths, sorted, with `/` on every system: the folder itself and the modules of a sentence encoder.

    Other folders inside (a trainer's checkpoints, a hub's bookkeeping) are not what is loaded.
    """
    places = [folder]
    try:
        modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
        places += [folder / str(module["path"]) for module in modules if module["path"]]
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not a sentence encoder
    found = {path for place in places for pattern in _PATTERNS for path in place.glob(pattern) if path.is_file()}
    for place in places:
        check_inside(place)
        found |= {path for name in indexed(place) if (path := place / name).is_file()}
    return sorted(path.relative_to(folder).as_posix() for path in found)


def _write_atomically(path: Path, text: str) -> None:
    """Two processes may write at once; either result is whole and right."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    except OSError:
        pass  # a cache that cannot be written only means computing again
