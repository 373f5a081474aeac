"""A local model by its name."""

from __future__ import annotations

from toolkit.inference.local import LocalModel


def load_model(name: str, dtype: str = "auto", device: str = "auto") -> LocalModel:
    """A model by catalog name, hub id (`hub:owner/name`) or folder, ready to score, generate and be tuned.

    It sets the process up for computing on a CPU as well (`toolkit.models.tune_cpu`: memory kept by the allocator, how
    fp32 products are made where that is exact, fewer prepared shapes), as a run does; whoever loads weights otherwise
    calls that first.

    Raises:
        ModelError: it is not found, cannot be fetched or is no causal language model; or it is a served one
            (`RemoteModel.of` asks those).
    """
    from toolkit.models import load_pretrained, resolve, tune_cpu

    tune_cpu()
    return LocalModel.of(load_pretrained(resolve(name, "model"), dtype, device))
