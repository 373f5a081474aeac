"""Weights laid out once as the processor's products want them, instead of before every product.

oneDNN multiplies by blocks of a weight and makes those first, in each call. For the few rows of a decoding pass that is
half of the time in bf16, a quarter in fp32; for a thousand rows a twentieth. For the vocabulary's product with a dozen
rows in fp32 it is 42 ms against 12 (Zen 3). The price is a second copy of the linear layers, so only small models get
one.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import nn
from torch.nn import functional

MOST_BYTES = 1 << 30
"""Of linear layers in one model: those of a larger one stay as they are, and a head that goes beyond it."""

DTYPES = (torch.float32, torch.bfloat16)
PACKED_FOR = 64
"""Rows the blocks are chosen for; oneDNN chooses the same for one row (bf16) and for thousands."""

_CLOSE = {torch.float32: 1e-4, torch.bfloat16: 0.02}
"""Of a probed product, relative to its length."""


class Layouts:
    """The laid out weights of a model, found by the storage they are copies of.

    Args:
        weights: the model's own.
        base: of the model this one shares weights with: copies of that one's weights are made and kept there.
    """

    def __init__(self, weights: Iterable[torch.Tensor] = (), base: Layouts | None = None) -> None:
        self._own = frozenset(weight.data_ptr() for weight in weights)
        self._base = base
        self._found: dict[tuple[int, torch.Size, torch.dtype], tuple[torch.Tensor, torch.Tensor]] = {}

    def of(self, weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """The laid out copy of a weight [out, in], for products in `dtype`."""
        if self._base is not None and weight.data_ptr() in self._base._own:
            return self._base.of(weight, dtype)
        key = (weight.data_ptr(), weight.shape, dtype)
        if key not in self._found:
            given = weight.detach() if weight.dtype == dtype else _in_passing(weight, dtype)
            made: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(given, PACKED_FOR)
            self._found[key] = made, weight  # the weight is kept, or another one could come to lie where it lay
        return self._found[key][0]


class LaidOut(nn.Linear):  # type: ignore[misc]
    """A linear layer whose product reads the laid out copy; weight and bias stay the layer's own.

    Args:
        computing: of inputs and outputs; fp32 where bf16 weights are widened (`toolkit.models.widening`).
    """

    def __init__(self, linear: nn.Linear, layouts: Layouts, computing: torch.dtype) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self.computing = computing
        self.laid_out = layouts.of(linear.weight, computing)
        self._added = None if linear.bias is None else linear.bias.detach().to(computing)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return _product(input, self.laid_out, self._added)

    def onto(self, update: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """update [N, out] + what rows [N, in] give, summed in fp32 and rounded once."""
        return _sum(update, rows, self.laid_out, self._added)


def lay_out(decoder: nn.Module, layouts: Layouts, computing: torch.dtype) -> bool:
    """Puts `LaidOut` layers in the place of a decoder's linear layers, adapted ones' bases among them.

    Args:
        decoder: on a module tree of one's own (`shared_copy`); nothing is replaced where the device has no use for it.
        computing: what the products are made in.

    Returns:
        Whether they were replaced.
    """
    layers = list(linear_layers(decoder))
    if not _pays([one for *_, one in layers], computing):
        return False
    for parent, name, linear in layers:
        setattr(parent, name, LaidOut(linear, layouts, computing))
    return True


def lay_out_head(head: nn.Module, decoder: nn.Module, layouts: Layouts, computing: torch.dtype) -> nn.Module:
    """A model's head with a laid out copy of its weight; the head as it is where it has more to it than a product.

    Args:
        decoder: the head's, laid out already: head and linear layers together keep to `MOST_BYTES`.
        computing: as the decoder's layers.
    """
    inside = [one for one in decoder.modules() if isinstance(one, LaidOut)]
    if not is_plain(head) or not _pays([*inside, head], computing):
        return head
    return LaidOut(head, layouts, computing)


def _pays(layers: Sequence[nn.Linear], computing: torch.dtype) -> bool:
    """Whether the device has a use for laid out weights of these layers, and they are small enough."""
    kinds = {(one.weight.device.type, one.weight.dtype) for one in layers}
    sizes = {one.weight.data_ptr(): one.weight.numel() * computing.itemsize for one in layers}
    known = computing in DTYPES and kinds <= {("cpu", dtype) for dtype in DTYPES}
    return known and 0 < sum(sizes.values()) <= MOST_BYTES and _works(computing)


def linear_layers(decoder: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Linear]]:
    """Plain linear layers with their parents; not those of an adapter, which are too thin to gain."""
    for path, parent in decoder.named_modules():
        for name, child in parent.named_children():
            if is_plain(child) and "lora_" not in path:
                yield parent, name, child


def is_plain(module: nn.Module) -> bool:
    """Whether a layer is a product and nothing more; the hooks of one that something listens to would be lost."""
    return type(module) is nn.Linear and not module._forward_hooks and not module._forward_pre_hooks


def _in_passing(weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A weight in another dtype, in a mapping of its own: in the heap such copies left holes of 0.2 GB (SmolLM2)."""
    room = mmap.mmap(-1, weight.numel() * dtype.itemsize)
    return torch.frombuffer(room, dtype=dtype).view(weight.shape).copy_(weight.detach())


def _product(x: torch.Tensor, laid_out: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    found: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, laid_out, bias, "none", [], "")
    return found


def _sum(update: torch.Tensor, x: torch.Tensor, laid_out: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    found: torch.Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, update, laid_out, bias, "add")
    return found


def _works(dtype: torch.dtype) -> bool:
    """Whether this torch has the operations, and they give what its linear layer gives."""
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(size, generator=generator).to(dtype) for size in ((5, 48), (32, 48)))
    right = functional.linear(x, weight).float()
    try:
        laid_out = Layouts().of(weight, dtype)
        found = _product(x, laid_out, None)
        twice = _sum(found, x, laid_out, None).float()
    except (AttributeError, NotImplementedError, RuntimeError):  # not in this build, or not on this processor
        return False
    return all(bool((one - right).norm() <= _CLOSE[dtype] * right.norm()) for one in (found.float(), twice / 2))
