"""LoRA's linear layer with one rounding.

PEFT computes `round(W x) + round(B A x)` and rounds again. In bfloat16 the second sum loses an update that is smaller
than half a unit of the first term's last place: with an update a thousandth of the output, half of its effect is gone.
Here the update is what the frozen product starts from, `addmm(B A x, x, W)`: the sum is formed in fp32 and rounded
once, all of the effect arrives, and no addition over the outputs is left to do. Names and files are PEFT's.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora import Linear
from torch.nn import functional

from toolkit.models.layouts import LaidOut
from toolkit.models.widening import Widened


class OneRoundingLinear(Linear):
    """PEFT's LoRA layer over a plain `torch.nn.Linear`; whatever is not plain LoRA takes PEFT's own way.

    With B = 0 the output has the base layer's bits, except (by one rounding) where the layer has a bias.
    """

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """[..., inputs] -> [..., outputs], in the dtype of `x`."""
        name, base = self.only_adapter(), self.get_base_layer()
        own = isinstance(base, LaidOut | Widened)
        computing = base.computing if own else base.weight.dtype
        if name is None or args or kwargs or computing != x.dtype:
            output: torch.Tensor = super().forward(x, *args, **kwargs)
            return output
        rows = x.reshape(-1, x.shape[-1])
        down, up = self.lora_A[name].weight.to(x.dtype), self.lora_B[name].weight.to(x.dtype)
        update = functional.linear(functional.linear(self.lora_dropout[name](rows), down) * self.scaling[name], up)
        if own:
            summed = base.onto(update, rows)
        else:
            summed = torch.addmm(update, rows, base.weight.t())
            if base.bias is not None:
                summed = summed + base.bias
        return summed.view(*x.shape[:-1], -1)

    def only_adapter(self) -> str | None:
        """The adapter's name where plain LoRA is all there is to do."""
        active = [name for name in self.active_adapters if name in self.lora_A]
        if self.disable_adapters or self.merged or len(active) != 1:
            return None
        plain = active[0] not in self.lora_variant and self.lora_B[active[0]].bias is None
        return active[0] if plain else None
