"""LoRA's relatives, through PEFT: their configuration, and what those that rewrite the base need beside it.

PiSSA and OLoRA take a low-rank part out of the base's weights and train it: W' + s B A, with W' = W - s B0 A0. What
they learnt, s (B A - B0 A0), is itself a low-rank update of the untouched W, of at most twice the rank.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from toolkit.errors import ModelError, nearest
from toolkit.models.adapted import adapter_in_the_way
from toolkit.models.four_bit import is_quantised
from toolkit.tuning.settings import TuneSettings

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel
    from torch import Tensor

REWRITING = frozenset({"pissa", "olora"})

DOWN, UP = ".lora_A.", ".lora_B."
UPS = (UP, ".lora_embedding_B.")
"""Of linear layers, and of embeddings."""


def lora_config(settings: TuneSettings) -> LoraConfig:
    """PEFT's configuration; of a rewriting method that of plain LoRA, which is what is saved.

    The rank must be a number.
    """
    from peft import LoraConfig

    rank, targets = settings.rank, settings.target_modules
    assert rank != "auto", "see resolved_rank"
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=rank,
        lora_alpha=settings.alpha,
        rank_pattern=dict(settings.rank_pattern),
        alpha_pattern=dict(settings.alpha_pattern),
        lora_dropout=settings.dropout,
        use_rslora=settings.method == "rslora",
        use_dora=settings.method == "dora",
        target_modules=targets if isinstance(targets, str) else list(targets),
        bias="none",
    )


def why_not_tunable(module: Any, method: str) -> str | None:
    """Why a method cannot tune this base, and what to do; None where it can."""
    import torch

    if reason := adapter_in_the_way(module):
        return reason
    if module.dtype not in (torch.float32, torch.bfloat16):
        return f"weights in {module.dtype} cannot be tuned: load the model in float32 or bfloat16"
    if len({parameter.device for parameter in module.parameters()}) > 1:
        return "the model is spread over several devices: load it on one to tune it"
    if method not in REWRITING | {"full"} or not is_quantised(module):
        return None
    does = "trains the base's weights themselves" if method == "full" else "takes the base's weights apart"
    return (
        f"method: {method} {does}, and these are in 4 bits, which cannot be written: "
        "take method lora, rslora or dora, or load the model with dtype: bfloat16 or float32"
    )


def check_names(adapted: PeftModel, settings: TuneSettings) -> None:
    """PEFT only warns of a pattern that no layer goes by, and says nothing of one target among several.

    Of several patterns for one layer PEFT takes the first, and its file has them in alphabetical order.

    Raises:
        ModelError: there is one; or two patterns give a layer different values.
    """
    from peft.utils.other import get_pattern_key

    names = [name for name, _ in adapted_layers(adapted)]
    targets = () if isinstance(settings.target_modules, str) else settings.target_modules
    for target in targets:
        if not any(name == target or name.endswith(f".{target}") for name in names):
            every = {
                name.rpartition(".")[2] for name, _ in adapted.get_base_model().named_modules() if "lora_" not in name
            }
            raise ModelError(f"target_modules: '{target}' is the name of no layer{nearest(target, sorted(every))}")
    for field in ("rank_pattern", "alpha_pattern"):
        pattern: Mapping[str, int] = getattr(settings, field)
        found = {name: [key for key in pattern if get_pattern_key([key], name) == key] for name in names}
        for key in pattern:
            if not any(key in keys for keys in found.values()):
                raise ModelError(f"{field}: '{key}' is the name of no adapted layer; they are {_endings(names)}")
        for name, keys in found.items():
            if len({pattern[key] for key in keys}) > 1:
                said = " and ".join(f"'{key}' ({pattern[key]})" for key in keys)
                raise ModelError(
                    f"{field}: {said} all name {name}, and an adapter's file does not keep their order, by which PEFT "
                    "chooses; write them so that each layer goes by one"
                )


def check_rewritable(adapted: PeftModel, method: str) -> None:
    """Raises ModelError where a layer is not plainly linear, or has fewer inputs or outputs than the rank."""
    import torch

    for name, layer in adapted_layers(adapted):
        base = layer.get_base_layer()
        if type(base) is not torch.nn.Linear:  # PEFT's OLoRA would go wrong on transposed weights, unasked
            raise ModelError(f"method: {method} takes apart linear layers only, and {name} is a {type(base).__name__}")
        rank, smallest = layer.r["default"], min(base.weight.shape)
        if rank > smallest:
            raise ModelError(
                f"rank: {method} cannot take {rank} of the {smallest} dimensions of {name}; lower its rank"
            )


def rewrite(adapted: PeftModel, method: str) -> None:
    """Moves a low-rank part of each adapted layer's weight into its adapter, on weights that become the view's own.

    PEFT's own initialisation writes into the weight in place, and the view shares its weights with the base.

    Raises:
        ModelError: as `check_rewritable`.
    """
    import torch

    check_rewritable(adapted, method)
    for _, layer in adapted_layers(adapted):
        base = layer.get_base_layer()
        base.weight = torch.nn.Parameter(base.weight.detach().clone(), requires_grad=False)
        with torch.no_grad():
            if method == "pissa":
                layer.pissa_init("default", "pissa")
            else:
                layer.olora_init("default")


def as_plain_lora(
    config: Mapping[str, Any], tensors: Mapping[str, Tensor], start: Mapping[str, Tensor]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The configuration and tensors of plain LoRA on the untouched base.

    Args:
        config: of the adapter, as a dictionary.
        tensors: after training, by PEFT's names.
        start: the same before it, once the base was rewritten.
    """
    found: dict[str, Tensor] = {}
    for name in tensors:
        if DOWN in name:
            up = name.replace(DOWN, UP)
            found[name], found[up] = _difference(tensors[name], tensors[up], start[name], start[up])
    doubled: dict[str, Any] = {key: 2 * config[key] for key in ("r", "lora_alpha")}
    for key in ("rank_pattern", "alpha_pattern"):  # alpha too, so that alpha / rank stays
        doubled[key] = {layers: 2 * number for layers, number in config[key].items()}
    return {**config, **doubled}, found


def smallest_rank(ranks: Sequence[int], trained: Callable[[int], int], tokens: int) -> int:
    """The first of rising ranks that trains at least so many parameters, or the last.

    Args:
        trained: parameters trained with a rank; it is linear in it, so it is only asked twice.
    """
    one = trained(1)
    each = trained(2) - one
    return next((rank for rank in ranks if one + (rank - 1) * each >= tokens), ranks[-1])


def _difference(down: Tensor, up: Tensor, down_before: Tensor, up_before: Tensor) -> tuple[Tensor, Tensor]:
    """A [2 r, in] and B [out, 2 r] whose product is B A - B0 A0.

    Stacking the four would do, but then large products cancel, which a base in bfloat16 rounds away: hence the
    difference's own singular vectors, found in fp64 from the thin factors.
    """
    import torch

    left = torch.cat([up, -up_before], dim=1).double()
    right = torch.cat([down, down_before]).double()
    left_base, left_rest = torch.linalg.qr(left)
    right_base, right_rest = torch.linalg.qr(right.t())
    first, values, second = torch.linalg.svd(left_rest @ right_rest.t(), full_matrices=False)
    roots = values.sqrt()
    new_down, new_up = torch.zeros_like(right), torch.zeros_like(left)  # a thin layer has fewer values than 2 r
    new_down[: len(roots)] = (right_base @ second.t() * roots).t()
    new_up[:, : len(roots)] = left_base @ first * roots
    return new_down.to(down.dtype), new_up.to(up.dtype)


def adapted_layers(adapted: PeftModel) -> Iterator[tuple[str, Any]]:
    """Adapted layers, by the names that they have in the base."""
    from peft.tuners.lora import LoraLayer

    view = adapted.get_base_model()
    return ((name, layer) for name, layer in view.named_modules() if isinstance(layer, LoraLayer))


def _endings(names: Sequence[str]) -> str:
    return ", ".join(sorted({name.rpartition(".")[2] for name in names}))
