"""The LM head of training: only the positions that carry a label are scored.

A row of DeRTa is mostly context: the prompt, a harmful prefix, positions that RTO dropout has left out. TRL's fused
head leaves those out on GPUs with Triton; elsewhere it scores every position, because accelerators that compile would
compile anew for every count. A CPU does not, so there the supervised positions are taken out before the head.

    hidden  [B, L, H]  --labels--> [1, N, H]  --head--> log P [N]  --scatter--> [B, L - 1], 0 where there is no label

N is the number of labelled next-token positions. N * V logits are held at once while they are few; above that TRL's
kernel walks over them in tiles. The numbers are those of TRL's head up to float rounding
(tests/parity/test_supervised_head.py).
"""

import functools
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import trl.trainer.utils as trl_utils
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedModel
from trl.trainer.utils import FusedCausalLMOutput, add_fused_lm_head

OUTPUTS = ("log_probs", "is_top1")  # what the loss and the curves read; TRL's own trainer computes entropies, too
_SELECTS = ("cpu", "mps")  # devices on which TRL's head scores every position and a new shape costs nothing
_AT_ONCE = 1 << 26  # logits (256 MiB in float32) that are held whole: faster than tiles by an eighth to a half
_CPU_TILE = 2048  # vocabulary columns per tile: a tile that stays in cache (32768, TRL's, is made for GPUs)


def score_supervised_positions(model: PreTrainedModel) -> None:
    """Make `model(..., labels=labels, fused_lm_head=True)` compute `log_probs` and `is_top1`, [B, L - 1], of labelled
    positions only. Other calls are unchanged. Call it on the bare model, after SFTTrainer has patched it.
    """
    add_fused_lm_head(model, outputs=OUTPUTS)
    model.base_model.register_forward_hook(functools.partial(_gather_head, model))
    fused = model.forward
    if model.base_model is model:  # no separate backbone whose output could be narrowed
        return

    @functools.wraps(type(model).forward)
    def forward(
        self: PreTrainedModel,
        *args: Any,
        labels: torch.Tensor | None = None,
        fused_lm_head: bool = False,
        **kwargs: Any,
    ) -> Any:
        if not fused_lm_head or labels is None or labels.device.type not in _SELECTS:
            return fused(*args, labels=labels, fused_lm_head=fused_lm_head, **kwargs)
        mask = labels[:, 1:] != -100
        kept = mask
        if not mask.any():  # one position keeps the result connected to the model; its value is not read
            kept = torch.zeros_like(mask)
            kept[0, 0] = True
        targets = labels[:, 1:][kept].clamp(min=0)  # [N]

        narrowed = False

        def select(module: torch.nn.Module, inputs: Any, output: Any) -> None:
            nonlocal narrowed
            output.last_hidden_state = output.last_hidden_state[:, :-1][kept][None]
            narrowed = True

        hook = self.base_model.register_forward_hook(select)
        try:
            if _fits_at_once(self, len(targets)) and not kwargs.get("output_router_logits"):
                logits = fused(*args, **kwargs).logits
                # Some models (OPT) call a part of their backbone rather than the whole.
                log_probs, is_top1 = _score(logits[0] if narrowed else logits[:, :-1][kept], targets)
                aux_loss = None
            else:
                with _tiles_for_cpu():
                    scored = fused(*args, shift_labels=targets[None], fused_lm_head=True, **kwargs)
                log_probs, is_top1, aux_loss = scored.log_probs[0], scored.is_top1[0], scored.aux_loss
        finally:
            hook.remove()
        return FusedCausalLMOutput(
            log_probs=log_probs.new_zeros(mask.shape).masked_scatter(mask, log_probs),
            is_top1=is_top1.new_zeros(mask.shape).masked_scatter(mask, is_top1),
            label_mask=mask,
            aux_loss=aux_loss,
        )

    model.forward = types.MethodType(forward, model)


def _gather_head(model: PreTrainedModel, *_: Any) -> None:
    """The fused head reads its weights past the call by which FSDP2 would gather them, and reduce their gradients."""
    if isinstance(head := model.get_output_embeddings(), FSDPModule):
        head.unshard()


def _fits_at_once(model: PreTrainedModel, positions: int) -> bool:
    head = model.get_output_embeddings()
    # Where it is sharded all ranks must gather the head in the same way, and their numbers of positions differ.
    is_sharded = hasattr(head.weight, "ds_id") or isinstance(head, FSDPModule)
    return not is_sharded and positions * head.weight.shape[0] <= _AT_ONCE


def _score(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """log P(target) in float32 and whether the target is the most likely token: [N] each, of logits [N, V]."""
    log_probs = -torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none")
    return log_probs, logits.detach().argmax(-1) == targets


@contextmanager
def _tiles_for_cpu() -> Iterator[None]:
    """TRL has no argument for the width of its tiles; it does not enter the numbers."""
    width = trl_utils._CHUNKED_LOGPROB_CHUNK_SIZE
    trl_utils._CHUNKED_LOGPROB_CHUNK_SIZE = _CPU_TILE
    try:
        yield
    finally:
        trl_utils._CHUNKED_LOGPROB_CHUNK_SIZE = width
