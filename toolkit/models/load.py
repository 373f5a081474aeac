"""Loads a causal language model with its tokenizer, ready to be read and never to be changed."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.errors import ModelError
from toolkit.models.catalog import Entry
from toolkit.models.fetch import Fetched, Notice, fetch_weights
from toolkit.models.four_bit import NF4, check_library, keep_bytes, loading
from toolkit.models.hardware import computing_dtype, resolve_device, resolve_dtype
from toolkit.models.weights import weights_digest

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_NO_LIMIT = 1_000_000_000  # a tokenizer that knows no limit says 1e30


@dataclass(frozen=True)
class LoadedModel:
    """A model in evaluation mode whose parameters take no gradients, and what identifies it.

    `digest` is that of the files, with `/nf4` behind it where they were quantised on loading; `source` names where they
    came from exactly (a hub's commit included).
    """

    module: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    digest: str
    name: str
    source: str
    folder: Path
    dtype: str
    dtype_reason: str
    device: str
    context_length: int | None

    @property
    def ends(self) -> frozenset[int]:
        """Tokens at which the model's own `generate` ends an answer: Llama 3 lists three, its tokeniser one."""
        said = getattr(getattr(self.module, "generation_config", None), "eos_token_id", None)
        return frozenset(said if isinstance(said, list | tuple) else () if said is None else (said,))


def load_pretrained(
    model: Entry | Path, dtype: str = "auto", device: str = "auto", notice: Notice | None = None
) -> LoadedModel:
    """Fetches (once) and loads a catalogue entry, or a local folder of safetensors.

    Args:
        model: what `resolve` gave, or a folder.
        dtype: `auto`, `float32`, `bfloat16`, `float16`, or `nf4` (4 bits; needs the extra `qlora`).
        device: `auto`, `cpu`, `cuda`, `cuda:1`, ...
        notice: called with one line before a download.

    Raises:
        ModelError: the folder is missing, holds only pickled weights, is no causal language model or lacks some of its
            weights, a file is damaged, or the device or dtype is not to be had (for `nf4`, bitsandbytes is missing).
    """
    name = model.name
    place = resolve_device(device)
    chosen = resolve_dtype(dtype, place)
    computing, quantised = computing_dtype(chosen, place), chosen.name == NF4
    if quantised:
        check_library()
    fetched = fetch_weights(model, notice) if isinstance(model, Entry) else Fetched(model, f"folder:{model.resolve()}")
    _check_files(name, fetched.folder)
    digest = weights_digest(fetched.folder)  # before anything is read: it refuses files that lie elsewhere
    with silenced():
        module = _load_module(name, fetched.folder, computing, loading(computing, place) if quantised else {})
        tokenizer = _load_tokenizer(name, fetched.folder)
    module.to(place)
    keep_bytes(module)
    module.eval()
    module.requires_grad_(False)
    return LoadedModel(
        module=module,
        tokenizer=tokenizer,
        digest=digest + (f"/{NF4}" if quantised else ""),
        name=name,
        source=fetched.source,
        folder=fetched.folder,
        dtype=chosen.name,
        dtype_reason=chosen.reason,
        device=place,
        context_length=_context_length(module, tokenizer),
    )


def _check_files(name: str, folder: Path) -> None:
    """Everything that can be said before the slow part."""
    if not folder.is_dir():
        raise ModelError(f"model '{name}': the folder {folder} does not exist")
    if not any(folder.glob("*.safetensors")):
        pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
        if pickles:
            raise ModelError(
                f"model '{name}': {folder} holds only pickled weights ({', '.join(pickles)}), which can run code when "
                "read; save them as safetensors once, with `save_pretrained` of transformers"
            )
        raise ModelError(f"model '{name}': {folder} holds no *.safetensors")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        architectures = [str(item) for item in config.get("architectures") or []]
    except FileNotFoundError as error:
        raise ModelError(f"model '{name}': {folder} holds no config.json") from error
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise ModelError(f"model '{name}': {folder / 'config.json'} cannot be read: {error}") from error
    if architectures and not set(architectures) & _causal_architectures():
        # Checked by class: an encoder such as BERT also loads as a causal model, with a head of random numbers.
        raise ModelError(f"model '{name}': {architectures[0]} is not a causal language model")


def _causal_architectures() -> set[str]:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    names: set[str] = set()
    for value in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values():
        names.update([value] if isinstance(value, str) else value)
    return names


def _load_module(name: str, folder: Path, dtype: str, quantisation: Mapping[str, Any]) -> PreTrainedModel:
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    try:
        module, found = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            **quantisation,
        )
    except SafetensorError as error:
        raise ModelError(
            f"model '{name}': a safetensors file in {folder} is damaged ({error}); delete the folder to fetch it anew"
        ) from error
    except Exception as error:  # what a configuration can have wrong is told by errors of many libraries
        raise ModelError(f"model '{name}' cannot be loaded from {folder}: {_first_line(error)}") from error
    missing = sorted(str(item) for key in ("missing_keys", "mismatched_keys") for item in found.get(key) or ())
    if missing:
        raise ModelError(
            f"model '{name}': {folder} lacks {len(missing)} of the model's tensors (the first is {missing[0]}), which "
            "would be random numbers"
        )
    return module


def _load_tokenizer(name: str, folder: Path) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises bare Exceptions
        raise ModelError(f"model '{name}': no tokenizer in {folder}: {_first_line(error)}") from error


def _context_length(module: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Tokens of the longest row; None where nothing limits it, or nothing says so (recurrent models, ALiBi)."""
    config = module.config.get_text_config()
    for key in ("max_position_embeddings", "n_positions", "max_seq_len"):
        value = getattr(config, key, None)
        if isinstance(value, int) and value > 0:
            return value
    if 0 < tokenizer.model_max_length < _NO_LIMIT:
        return int(tokenizer.model_max_length)
    return None


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


@contextmanager
def silenced() -> Iterator[None]:
    """Loading writes neither bars nor warnings to the terminal; afterwards everything is as it was."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
