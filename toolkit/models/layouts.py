"""Weights laid out once as the processor's products want them, instead of before every product.

oneDNN multiplies by blocks of a weight and makes those first, in each call. For the few rows of a decoding pass that is
half of the time in bf16, a quarter in fp32; for a thousand rows a twentieth. The price is a second copy of the linear
layers, so only small models get one.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from torch.nn import functional

MOST_BYTES = 1 << 30
"""Of linear layers in one model: those of a larger one stay as they are."""

DTYPES = (torch.float32, torch.bfloat16)
PACKED_FOR = 64
"""Rows the blocks are chosen for; oneDNN chooses the same for one row (bf16) and for thousands."""

_CLOSE = {torch.float32: 1e-4, torch.bfloat16: 0.02}
"""Of a probed product, relative to its length."""


class Layouts:
    """The laid out weights of a model, found by the storage they are copies of.

    Args:
        base: of the model this one shares weights with; what is there is not laid out again.
    """

    def __init__(self, base: Layouts | None = None) -> None:
        self._base = base
        self._found: dict[tuple[int, torch.Size], tuple[torch.Tensor, torch.Tensor]] = {}

    def of(self, weight: torch.Tensor) -> torch.Tensor:
        """The laid out copy of a weight [out, in]."""
        key = (weight.data_ptr(), weight.shape)
        for place in (self, self._base):
            if place is not None and key in place._found:
                return place._found[key][0]
        made: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), PACKED_FOR)
        self._found[key] = made, weight  # the weight is kept, or another one could come to lie where it lay
        return made


class LaidOut(nn.Linear):  # type: ignore[misc]
    """A linear layer whose product reads the laid out copy; weight and bias stay the layer's own."""

    def __init__(self, linear: nn.Linear, laid_out: torch.Tensor) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self.laid_out = laid_out

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return _product(input, self.laid_out, self.bias)

    def onto(self, update: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """update [N, out] + what rows [N, in] give, summed in fp32 and rounded once."""
        return _sum(update, rows, self.laid_out, self.bias)


def lay_out(decoder: nn.Module, layouts: Layouts) -> bool:
    """Puts `LaidOut` layers in the place of a decoder's linear layers, adapted ones' bases among them.

    Args:
        decoder: on a module tree of one's own (`shared_copy`); nothing is replaced where the device has no use for it.

    Returns:
        Whether they were replaced.
    """
    layers = list(_linear_layers(decoder))
    kinds = {(one.weight.device.type, one.weight.dtype) for *_, one in layers}
    sizes = {one.weight.data_ptr(): one.weight.nbytes for *_, one in layers}
    if not kinds <= {("cpu", dtype) for dtype in DTYPES} or not 0 < sum(sizes.values()) <= MOST_BYTES:
        return False
    if not all(_works(dtype) for _, dtype in kinds):
        return False
    for parent, name, linear in layers:
        setattr(parent, name, LaidOut(linear, layouts.of(linear.weight)))
    return True


def _linear_layers(decoder: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Linear]]:
    """Plain linear layers with their parents; not those of an adapter, which are too thin to gain.

    One that something listens to stays: its hooks would be lost.
    """
    for path, parent in decoder.named_modules():
        for name, child in parent.named_children():
            heard = child._forward_hooks or child._forward_pre_hooks
            if type(child) is nn.Linear and not heard and "lora_" not in path:
                yield parent, name, child


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
        laid_out = Layouts().of(weight)
        found = _product(x, laid_out, None)
        twice = _sum(found, x, laid_out, None).float()
    except (AttributeError, NotImplementedError, RuntimeError):  # not in this build, or not on this processor
        return False
    return all(bool((one - right).norm() <= _CLOSE[dtype] * right.norm()) for one in (found.float(), twice / 2))
