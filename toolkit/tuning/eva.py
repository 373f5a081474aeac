"""EVA (Paischer et al. 2024): an adapter that starts from the data it will see.

The rows of A are the principal directions of a layer's inputs on the first sequences of the training, and layers whose
first directions explain more of their inputs get more of the ranks. B is 0, so the fresh adapter answers like the base.
The components are those of PEFT's incremental analysis, and PEFT sets them in. Its search for them is not used: that
reads the same batches again until no direction turns any more, dozens of times for some that explain next to nothing;
here every token is read once. Letters: B batch, T tokens, D inputs of a layer, r rank.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from toolkit.errors import ModelError
from toolkit.models.adapted import cuda_devices
from toolkit.rendering.prompt import TrainingSequence
from toolkit.seeds import derive
from toolkit.tuning.methods import adapted_layers

if TYPE_CHECKING:
    from peft import PeftModel

TOKENS = 4096
"""Of the training's first sequences, as many whole ones as reach it; prompts and answers alike."""

PASS_TOKENS = 1024
"""Read at once, at least, or as many as there are components: they are brought up to date after every pass."""

SPREAD = 2
"""A layer's rank becomes at most so many times what it was (rho in the paper, 2 in PEFT too); their sum stays."""


def start_from_data(adapted: PeftModel, sequences: Iterable[TrainingSequence], seed: int) -> None:
    """Gives a fresh adapter of plain LoRA its ranks and its A; it stays one of plain LoRA.

    Each layer keeps the scale that it had, alpha / rank of the settings, whatever rank it gets: PEFT raises or lowers
    its alpha with its rank. A layer left without a rank loses its adapter. Layers that see too few tokens (experts of a
    mixture, say) keep their rank and draw their A from the seed, as in LoRA.

    Args:
        sequences: in the order of the training; no more are taken than reach `TOKENS`.

    Raises:
        ModelError: there are fewer tokens than directions to look for, twice the largest rank.
    """
    from peft.tuners.lora import EvaConfig, initialize_lora_eva_weights

    layers = {name: layer for name, layer in adapted_layers(adapted) if layer.lora_A}  # an embedding reads no vectors
    ranks = {name: int(layer.r["default"]) for name, layer in layers.items()}
    if not ranks:
        raise ModelError("method: eva starts from what layers read, and what is adapted reads token ids only")
    wanted = SPREAD * max(ranks.values())
    passes = _passes(sequences, max(PASS_TOKENS, wanted))
    inputs = _Inputs(wanted)
    _read(adapted, layers, passes, inputs)
    found = inputs.found()
    if not found:
        most = max((sum(len(sequence.token_ids) for sequence in rows) for rows in passes), default=0)
        raise ModelError(f"method: eva looks for {wanted} directions in {most} tokens; lower `rank` or add sequences")
    counts = _shared_out({name: shares for name, (_, shares) in found.items()}, ranks)
    directions = {name: rows[: counts[name]] for name, (rows, _) in found.items()}
    with torch.random.fork_rng(devices=cuda_devices(adapted.get_base_model())), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="the following layers were initialized")  # as is said above
        torch.manual_seed(derive(seed, "adapter"))
        config = adapted.peft_config["default"]
        _by_full_names(config, adapted)
        config.init_lora_weights, config.eva_config = "eva", EvaConfig(rho=SPREAD)
        initialize_lora_eva_weights(
            adapted, eva_state_dict={f"base_model.model.{name}": rows for name, rows in directions.items()}
        )
        config.init_lora_weights, config.eva_config = True, None
    if not all(
        counts.values()
    ):  # PEFT names layers by their last parts, and a layer that lost its adapter has them too
        config.target_modules = {name for name, _ in adapted_layers(adapted)}
    for name, layer in adapted_layers(adapted):
        if name not in layers:
            for own in (layer.lora_embedding_A, layer.lora_embedding_B):
                own["default"].data = own["default"].data.float()
            continue
        down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        down.data = directions[name].clone() if name in directions else down.data.float()
        up.data = up.data.float()  # PEFT gave layers of another rank the base's dtype


def _by_full_names(config: Any, adapted: PeftModel) -> None:
    """Says of each layer what the patterns say of it: PEFT reads them here against longer names than before."""
    layers = dict(adapted_layers(adapted))
    config.rank_pattern = {name: layer.r["default"] for name, layer in layers.items()}
    config.alpha_pattern = {name: layer.lora_alpha["default"] for name, layer in layers.items()}


class _Inputs:
    """The principal components of what layers read; of layers that read the same tensor, once."""

    def __init__(self, wanted: int) -> None:
        """`wanted` components, or as many as a layer has inputs."""
        self._wanted = wanted
        self._analyses: dict[str, Any] = {}
        self._leaders: dict[str, str] = {}
        self._last: tuple[Any, str] = (None, "")
        self.real = torch.empty(0)

    def take(self, name: str, _: Any, arguments: tuple[Any, ...]) -> None:
        """As a hook before a layer: its inputs [B, T, D], of which `real` [B, T] count; or [N, D]."""
        from peft.utils.incremental_pca import IncrementalPCA

        inputs = arguments[0]
        if inputs is self._last[0]:  # layers that read the same tensor do so one after the other
            self._leaders[name] = self._last[1]
            return
        self._last, self._leaders[name] = (inputs, name), name
        rows = inputs.reshape(-1, inputs.shape[-1])
        if len(rows) == self.real.numel():  # experts are handed their own tokens, all real but for the padding's
            rows = rows[self.real.flatten()]
        components = min(self._wanted, rows.shape[1])
        if len(rows) >= components:
            if name not in self._analyses:
                self._analyses[name] = IncrementalPCA(components, lowrank=True, lowrank_seed=0)
            self._analyses[name].partial_fit(rows.float())

    def found(self) -> dict[str, tuple[torch.Tensor, list[float]]]:
        """By layer the directions [components, D], and the share of the variance that each explains; largest first."""
        found = {
            name: (one.components_, one.explained_variance_ratio_.tolist()) for name, one in self._analyses.items()
        }
        return {name: found[leader] for name, leader in self._leaders.items() if leader in found}


def _passes(sequences: Iterable[TrainingSequence], least: int) -> list[list[TrainingSequence]]:
    """The first sequences, in passes of at least so many tokens; what is left over goes with the pass before."""
    passes: list[list[TrainingSequence]] = []
    taken, size = 0, least
    for sequence in sequences:
        if size >= least:
            passes.append([])
            size = 0
        passes[-1].append(sequence)
        size += len(sequence.token_ids)
        taken += len(sequence.token_ids)
        if taken >= max(TOKENS, least):
            break
    if len(passes) > 1 and size < least:
        passes[-2:] = [passes[-2] + passes[-1]]
    return passes


def _read(
    adapted: PeftModel, layers: Mapping[str, Any], passes: Sequence[Sequence[TrainingSequence]], inputs: _Inputs
) -> None:
    """Runs the decoder over the passes while its layers are looked at."""
    view = adapted.get_base_model()
    hooks = [layer.register_forward_pre_hook(partial(inputs.take, name)) for name, layer in layers.items()]
    training = view.training
    view.eval()
    try:
        with torch.no_grad():
            for rows in passes:
                width = max(len(sequence.token_ids) for sequence in rows)
                ids = [[*sequence.token_ids, *[0] * (width - len(sequence.token_ids))] for sequence in rows]
                sizes = torch.tensor([[len(sequence.token_ids)] for sequence in rows])
                inputs.real = (torch.arange(width)[None] < sizes).to(view.device)
                view.get_decoder()(input_ids=torch.tensor(ids, device=view.device), use_cache=False)
    finally:
        view.train(training)
        for hook in hooks:
            hook.remove()


def _shared_out(shares: Mapping[str, Sequence[float]], ranks: Mapping[str, int]) -> dict[str, int]:
    """The sum of these layers' ranks, given to the directions that explain most; at most `SPREAD` r to a layer."""
    offers = [(share, name) for name in shares for share in shares[name][: SPREAD * ranks[name]]]
    offers.sort(key=lambda offer: -offer[0])  # stable: equal ones in the layers' order
    counts = Counter(name for _, name in offers[: sum(ranks[name] for name in shares)])
    return {name: counts[name] for name in shares}
