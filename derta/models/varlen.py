"""The attention implementation `varlen`: rows that lie one behind the other, each attending to itself alone.

    query           [1, H, T, D], T the tokens of all rows      key, value   [1, K, T, D], K heads for H of the queries
    cu_seq_lens_q   int32 [N + 1]: where each of N rows begins, and T

Torch's own varlen kernel computes it (16 bit, CUDA; no package is needed); where that cannot, sdpa does, row by row.
Other batches (evaluation, generation) go to sdpa. Importing this module registers it.
"""

import functools
import inspect
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from derta.errors import InputError

VARLEN = "varlen"
_WIDEST_HEAD = 256  # of the kernel
_NEEDED = {"scale", "window_size", "enable_gqa"}  # arguments of torch's function, which first came without them


@functools.cache
def has_kernel(device: torch.device) -> bool:
    """Whether torch's kernel runs on this device: Ampere and later."""
    if device.type != "cuda" or torch.version.hip is not None or torch.cuda.get_device_capability(device) < (8, 0):
        return False
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return False
    return inspect.signature(varlen_attn).parameters.keys() >= _NEEDED


def _attention(
    module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None,
    *, dropout: float = 0.0, scaling: float | None = None, sliding_window: int | None = None,
    cu_seq_lens_q: torch.Tensor | None = None, max_length_q: int = 0, **others: Any,
) -> tuple[torch.Tensor, None]:  # fmt: skip
    """As transformers calls it; the result is [1, T, H, D]. Raises InputError: the model asks for more."""
    if any(others.get(name) is not None for name in ("s_aux", "softcap")):
        raise InputError("attention 'varlen' knows neither sinks nor capped scores, which this model has: use another")
    if cu_seq_lens_q is None:
        return sdpa_attention_forward(module, query, key, value, mask, dropout=dropout, scaling=scaling, **others)
    place = query.device.type  # queries and keys may be float32 after the rotation
    dtype = torch.get_autocast_dtype(place) if torch.is_autocast_enabled(place) else value.dtype
    query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    width = query.shape[-1]
    plain = not dropout and value.shape[-1] == width <= _WIDEST_HEAD and width % 8 == 0
    if plain and dtype in (torch.bfloat16, torch.float16) and has_kernel(query.device):
        from torch.nn.attention.varlen import varlen_attn

        q, k, v = (heads[0].transpose(0, 1) for heads in (query, key, value))
        window = (-1 if sliding_window is None else sliding_window - 1, 0)
        ends = (cu_seq_lens_q, cu_seq_lens_q, max_length_q, max_length_q)
        output: Any = varlen_attn(q, k, v, *ends, scale=scaling, window_size=window, enable_gqa=True)
        return output[None], None
    lengths, settings = cu_seq_lens_q.diff().tolist(), {"dropout": dropout, "scaling": scaling, **others}
    rows = zip(*(heads.split(lengths, dim=2) for heads in (query, key, value)), strict=True)
    outputs = [sdpa_attention_forward(module, *row, _window(row[0], sliding_window), **settings)[0] for row in rows]
    return torch.cat(outputs, dim=1), None


def _window(query: torch.Tensor, width: int | None) -> torch.Tensor | None:
    """bool [1, 1, S, S]: the last `width` positions up to one's own; None where that is all of them."""
    length = query.shape[2]
    if width is None or width >= length:
        return None
    return torch.ones(length, length, dtype=torch.bool, device=query.device).tril().triu(1 - width)[None, None]


def _mask(
    *, batch_size: int, q_length: int, kv_length: int, attention_mask: torch.Tensor | None = None,
    allow_is_causal_skip: bool = True, **others: Any,
) -> torch.Tensor | None:  # fmt: skip
    """None for flattened rows, which transformers finds by their positions; else sdpa's."""
    if batch_size == 1 and q_length == kv_length and attention_mask is None and not allow_is_causal_skip:
        return None
    return sdpa_mask(
        batch_size=batch_size, q_length=q_length, kv_length=kv_length, attention_mask=attention_mask,
        allow_is_causal_skip=allow_is_causal_skip, **others,
    )  # fmt: skip


AttentionInterface.register(VARLEN, _attention)
AttentionMaskInterface.register(VARLEN, _mask)
