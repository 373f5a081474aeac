"""An adapter as files: what is wrong with it, and a copy under PEFT's own names. No model is needed for either.

PEFT, TRL, axolotl and Unsloth write the same two files. What differs is what else an adapter may hold, and what
wrappers of a training (torch.compile, FSDP) leave in the names of its tensors: PEFT then finds none of them and only
warns, and the adapter does nothing.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from toolkit.errors import ModelError

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
PICKLE = "adapter_model.bin"

PREFIX = "base_model.model."
"""With which PEFT begins every tensor's name."""

PROMPT_LEARNING = frozenset(
    {"ADAPTION_PROMPT", "CARTRIDGE", "CPT", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "PROMPT_TUNING"}
)
WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
LEAVING_THE_BASE = (True, False, None, "gaussian", "orthogonal", "eva")
"""Values of `init_lora_weights` that draw the adapter and leave the base as it was."""

# fmt: off
KNOWN_SETTINGS = frozenset((
    "alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias", "corda_config", "ensure_weight_tying",
    "eva_config", "exclude_modules", "fan_in_fan_out", "inference_mode", "init_lora_weights", "layers_pattern",
    "layers_to_transform", "loftq_config", "lora_alpha", "lora_dropout", "lora_ga_config",
    "megatron_core", "peft_type", "peft_version", "qalora_group_size", "r", "rank_pattern", "revision",
    "runtime_config", "target_modules", "task_type", "use_dora", "use_rslora",
))
# fmt: on
"""What LoRA, rsLoRA and DoRA are computed from, or what only training asks about."""

WRAPPED = ("modules_to_save", "trainable_token_indices")
"""Settings under which PEFT keeps further tensors in copies of its own."""

ACTIVATED = "alora_invocation_tokens"
BESIDE_LORA: Mapping[str, str] = {
    "modules_to_save": "it also holds whole modules of the model",
    "trainable_token_indices": "it also holds rows of the embeddings",
    "layer_replication": "it repeats layers of the model",
    ACTIVATED: "it acts from certain tokens of the prompt on (activated LoRA)",
}
MERGE = (
    "merge it into its base where it was trained (PEFT's `merge_and_unload`, then `save_pretrained`) and name that "
    "folder as a `model:`"
)


def read_settings(folder: Path) -> dict[str, Any]:
    """The adapter's configuration, once both files are known to be there.

    Raises:
        ModelError: a file is missing, or the configuration is no JSON object.
    """
    for name in (CONFIG, TENSORS):
        if not (folder / name).is_file():
            raise ModelError(f"'{folder}' is not an adapter: it holds no {name} (pickled adapters are not read)")
    try:
        settings = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"'{folder / CONFIG}' is not JSON: {error}") from error
    if not isinstance(settings, dict):
        raise ModelError(f"'{folder / CONFIG}' holds no settings")
    return settings


def adapter_faults(folder: Path) -> list[str]:
    """Why an adapter cannot be used, whatever the model, each with what to do; empty where nothing is known."""
    if missing := _missing(folder):
        return [missing]
    try:
        settings = read_settings(folder)
    except ModelError as error:
        return [str(error)]
    kind = settings.get("peft_type")
    if kind in PROMPT_LEARNING:
        return [f"{kind} is prompt learning: it adds to prompts and not to weights, which LoRA does; train a LoRA"]
    if kind != "LORA":
        return [f"its kind is {kind}, and only LoRA (with rsLoRA and DoRA) is used here: {MERGE}"]
    faults = _unreadable(folder)
    return faults or [*_unusable(settings), *writing_into_base(folder), *_of_tensors(*_measured(folder))]


def writing_into_base(folder: Path) -> list[str]:
    """What in a readable adapter makes PEFT write into the base's own weights on loading, which a view shares."""
    settings, faults = read_settings(folder), []
    if settings.get("bias", "none") != "none":
        faults.append(f"bias: {settings['bias']}: it holds biases of the model itself; {MERGE}")
    start = settings.get("init_lora_weights", True)
    if settings.get("peft_type") == "LORA" and start not in LEAVING_THE_BASE:
        faults.append(
            f"init_lora_weights: {start}: a start like PiSSA's rewrites the base, and the adapter fits only what was "
            "left of it; save it as plain LoRA (PEFT's `save_pretrained` with "
            f"`path_initial_model_for_weight_conversion`), or {MERGE}"
        )
    others = [name for name in _names(folder) if "lora_" not in name]
    if others and settings.get("peft_type") == "LORA" and not any(settings.get(name) for name in WRAPPED):
        faults.append(
            f"{TENSORS} also holds {len(others)} tensors that are not LoRA's, the first is {others[0]}: weights of the "
            f"model itself; {MERGE}"
        )
    return faults


def plain_name(name: str) -> str:
    """A tensor's name as PEFT writes it: without an adapter's name in it, and without a training's wrappers."""
    parts = [part for part in name.split(".") if part not in WRAPPERS]
    place = next((place for place, part in enumerate(parts) if part.startswith("lora_")), None)
    if place is None:
        return ".".join(parts)
    bare = parts[place] == "lora_magnitude_vector" or parts[place].startswith("lora_embedding_")
    end = [] if bare else parts[place + 1 :][-1:]
    found = ".".join([*parts[: place + 1], *end])
    return found[found.find(PREFIX) :] if PREFIX in found else PREFIX + found


def copy_adapter(folder: Path, target: Path) -> None:
    """A copy of a faultless adapter's two files for `load_adapter`, under PEFT's own names; the same bytes anywhere.

    How its matrices were first drawn is forgotten: the file replaces them, and PEFT would draw them anew.
    """
    from safetensors import safe_open
    from safetensors.torch import save

    settings = {**read_settings(folder), "init_lora_weights": True, "inference_mode": True}
    settings["base_model_name_or_path"] = declared_base(folder)
    with safe_open(str(folder / TENSORS), framework="pt") as file:
        tensors = {plain_name(name): file.get_tensor(name).contiguous() for name in file.keys()}  # noqa: SIM118
    target.mkdir(parents=True, exist_ok=True)
    (target / TENSORS).write_bytes(save(tensors, metadata={"format": "pt"}))
    write_settings(settings, target)


def write_settings(settings: Mapping[str, Any], folder: Path) -> None:
    """Writes an adapter's configuration, keys in order; but for a pattern's, the first of which counts for a layer."""
    (folder / CONFIG).write_text(json.dumps(dict(sorted(settings.items())), indent=2) + "\n", encoding="utf-8")


def declared_base(folder: Path) -> str | None:
    """What an adapter says it was trained on; None where that is a path, which means nothing elsewhere."""
    said = read_settings(folder).get("base_model_name_or_path")
    if not isinstance(said, str) or not said:
        return None
    return None if said[0] in "/.~" or "\\" in said or said.count("/") > 1 else said


def _missing(folder: Path) -> str | None:
    """What is there in place of the two files."""
    if (folder / CONFIG).is_file() and (folder / TENSORS).is_file():
        return None
    if (folder / CONFIG).is_file():
        if (folder / PICKLE).is_file():
            return (
                f"its weights are pickled ({PICKLE}), and reading a pickle can run code; where you trust it, load it "
                f"with PEFT once and save it again, which writes {TENSORS}"
            )
        return f"it holds no {TENSORS}: copy the file of its trainer beside {CONFIG}"
    below = sorted(path.parent.name for path in folder.glob(f"*/{CONFIG}"))
    if below:
        return f"it holds no {CONFIG} itself; what does, below it: {', '.join(below)}. Name one of these"
    if (folder / "config.json").is_file():
        return "it is a whole model and not an adapter: name it as a `model:`"
    return f"it holds no {CONFIG}: name the folder that a trainer saved its adapter to"


def _unusable(settings: Mapping[str, Any]) -> Iterator[str]:
    for name, value in settings.items():
        if not value or name in KNOWN_SETTINGS:
            continue
        if name == "lora_bias":
            yield "lora_bias: B with a bias cannot be merged into a layer that has none; train it without"
        elif name in BESIDE_LORA:
            yield f"{name}: {BESIDE_LORA[name]} ({json.dumps(value)}); {MERGE}"
        else:
            yield (
                f"{name}: what this setting does is not known here; {MERGE}, or take it out of {CONFIG} if only its "
                "training asked about it"
            )


def _unreadable(folder: Path) -> list[str]:
    from safetensors import SafetensorError

    try:
        _names(folder)
    except (SafetensorError, OSError) as error:
        return [f"{TENSORS} cannot be read ({error}): copy it again"]
    return []


def _names(folder: Path) -> list[str]:
    from safetensors import safe_open

    with safe_open(str(folder / TENSORS), framework="pt") as file:
        return list(file.keys())


def _measured(folder: Path) -> tuple[dict[str, tuple[int, ...]], dict[str, float]]:
    """The shape and the largest absolute value of each of LoRA's tensors."""
    from safetensors import safe_open

    with safe_open(str(folder / TENSORS), framework="pt") as file:
        names = [name for name in file.keys() if "lora_" in name]  # noqa: SIM118
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
        whole = [name for name, shape in shapes.items() if 0 not in shape]
        return shapes, {name: float(file.get_tensor(name).abs().max()) for name in whole}


def _of_tensors(shapes: Mapping[str, tuple[int, ...]], largest: Mapping[str, float]) -> Iterator[str]:
    if not shapes:
        yield f"{TENSORS} holds no tensor of LoRA's: save the adapter again where it was trained"
        return
    twice = [name for name, count in Counter(map(plain_name, shapes)).items() if count > 1]
    if twice:
        yield f"{TENSORS} holds several adapters, all with a {twice[0]}: save the one that is meant alone"
    cut = [name for name, shape in shapes.items() if _is_matrix(name) and (len(shape) != 2 or 0 in shape)]
    if cut:
        yield (
            f"{len(cut)} of its tensors are parts of matrices, the first is {cut[0]}: they were saved while spread "
            "over processes; gather them there (ZeRO-3, FSDP) and save again"
        )
        return
    broken = [name for name, value in largest.items() if not math.isfinite(value)]
    if broken:
        yield f"{len(broken)} of its tensors hold no numbers, the first is {broken[0]}: its training went wrong"
    ups = [name for name in largest if "lora_B" in name or "lora_embedding_B" in name]
    if ups and not any(largest[name] for name in ups):
        yield "all its B matrices are 0, so it changes nothing: save it again once it is trained"


def _is_matrix(name: str) -> bool:
    return plain_name(name).endswith((".lora_A.weight", ".lora_B.weight"))
