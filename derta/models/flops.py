"""How much a training step computes, and what the device could: model FLOPs utilisation (MFU).

As defined with PaLM (Chowdhery et al. 2022, arXiv 2204.02311, appendix B): what the model has to compute, without what
is recomputed, over what the device could compute in that time. N parameters, n layers, d = heads x head size, T tokens:

    N outside embeddings and head   2 forward + 4 backward (2 where the weight is frozen) FLOPs per parameter and token
    head                            the same, on supervised positions only: the fused head leaves the others out
    attention                       12 n d T per token, so 12 n d T^2 per row, T being the row's own length

Padding is not counted. Of a mixture of experts, the experts count as far as a token passes through them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from derta.models.devices import known_peak
from derta.models.quantized import elements


@dataclass(frozen=True)
class ModelFlops:
    """FLOPs of one training step: per input token, per supervised token, and per squared row length."""

    per_token: float
    per_supervised: float
    per_square: float

    def total(self, *, tokens: float, supervised: float, squares: float) -> float:
        return self.per_token * tokens + self.per_supervised * supervised + self.per_square * squares

    def __add__(self, other: ModelFlops) -> ModelFlops:
        return ModelFlops(
            self.per_token + other.per_token,
            self.per_supervised + other.per_supervised,
            self.per_square + other.per_square,
        )

    @classmethod
    def of(cls, model: Any, *, forward_only: bool = False) -> ModelFlops:
        """Counted on the model as it is trained: with its adapter, and with whole sizes under ZeRO-3 and in four bits.
        forward_only: without the backward pass, as a reference model of preference training is run."""
        config = model.config.get_text_config()
        head = getattr(model.get_output_embeddings(), "weight", None)
        looked_up = {
            id(weight)
            for module in model.modules()
            if isinstance(module, torch.nn.Embedding)
            for weight in module.parameters(recurse=False)
        }
        used = _used_share_of_experts(config)
        per_token = per_supervised = 0.0
        for name, weight in model.named_parameters():
            each = 2 if forward_only else 6 if weight.requires_grad else 4
            flops = each * float(elements(weight))
            if weight is head:  # also where it is tied to the embedding
                per_supervised += flops
            elif id(weight) not in looked_up:
                per_token += flops * (used if ".experts." in name else 1.0)
        heads = getattr(config, "num_attention_heads", 0) or 0
        size = getattr(config, "head_dim", None) or (config.hidden_size // heads if heads else 0)
        attention = 4.0 if forward_only else 12.0
        return cls(per_token, per_supervised, attention * config.num_hidden_layers * heads * size)


def _used_share_of_experts(config: Any) -> float:
    chosen = getattr(config, "num_experts_per_tok", None)
    for name in ("num_local_experts", "num_experts", "n_routed_experts"):
        if chosen and getattr(config, name, None):
            return chosen / getattr(config, name)
    return 1.0


def device_peak(configured: float | None, *, sixteen_bit: bool) -> float | None:
    """FLOP/s that one device could do: as configured, else from the table of known GPUs, else None.
    sixteen_bit: whether matrices are multiplied in bfloat16 or float16; the table holds those figures only."""
    if configured is not None:
        return configured
    if not sixteen_bit or not torch.cuda.is_available():
        return None
    return known_peak(torch.cuda.get_device_name())
