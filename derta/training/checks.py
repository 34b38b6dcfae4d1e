"""What running the model once, before its first step, tells: that TRL's fused head gives what log-softmax gives, and
that flattened rows do not see one another. Nothing of it is left: weights are equal to the last bit with and without.
"""

from __future__ import annotations

from typing import Any

import torch
import trl
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from derta.errors import InputError
from derta.objective.rows import IGNORE
from derta.training.undisturbed import undisturbed

_POSITIONS = 32  # of the first batch's first row, so that [1, L, V] logits are small for any vocabulary
# Attention implementations that keep flattened rows apart by their position ids.
_PACKED_ATTENTION = {"sdpa", "eager", "flex_attention", "flash_attention_2", "flash_attention_3"}


def check_head(trainer: Any, batch: dict[str, Any], refusal_id: int) -> None:
    """Hold the fused head against log-softmax of the model's own logits, on both kinds of labels and on positions
    without one. A head that changed in a new version of TRL would otherwise lose a part of the objective in silence.
    Every rank must call it: under ZeRO-3 all of them run the model equally often.

        input_ids   t0  t1  t2  t3  t4  t5 ..
        labels      -   S   -   t3  S   -  ..      next tokens as MLE has them, the refusal token as RTO has it, none

    Raises:
        InputError: they differ by more than rounding.
    """
    ids = batch["input_ids"][:1, :_POSITIONS].to(trainer.args.device)
    labels = ids.clone()
    labels[:, 1::3], labels[:, 2::3] = refusal_id, IGNORE
    with undisturbed(trainer) as model, trainer.compute_loss_context_manager():
        found = model(input_ids=ids, labels=labels, use_cache=False, fused_lm_head=True).log_probs.float()
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()
    targets = labels[:, 1:]
    chosen, over = logits.gather(2, targets.clamp(min=0)[..., None])[..., 0], logits.logsumexp(-1)
    expected = (chosen - over).masked_fill(targets == IGNORE, 0.0)
    if not torch.isfinite(expected).all():  # the model's own fault, which the guards tell
        return
    difference = float((found - expected).abs().max())
    # Rounded to 16 bits a logit is off by up to 1/512 of itself, and two of them make log P.
    allowed = float(torch.maximum(chosen.abs(), over.abs()).max()) * (1e-4 if _is_exact(trainer) else 1 / 64)
    if not difference <= allowed:  # NaN, too
        raise InputError(
            f"the fused LM head of TRL {trl.__version__} differs from log-softmax by {difference:.3g} nats (accepted: "
            f"{allowed:g}) for {type(trainer.accelerator.unwrap_model(model)).__name__}: a part of the objective would "
            "be lost or wrong; install the version of TRL that constraints.txt names"
        )


@torch.no_grad()
def check_rows_stay_apart(trainer: Any) -> None:
    """Change the first of two flattened rows: what the model says of the second must not change.

    Some architectures build their mask without position ids (OPT, Falcon, gpt-oss), others carry a state (Mamba);
    nothing in their configuration tells.

    Raises:
        InputError: it does.
    """
    vocabulary, length = trainer.model.config.get_text_config().vocab_size, 8
    collate = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)
    second = [(5 * i + 1) % vocabulary for i in range(length)]
    said = []
    with undisturbed(trainer) as model, trainer.compute_loss_context_manager():
        for offset in (0, length):
            first = [(i + offset) % vocabulary for i in range(length)]
            rows = [{"input_ids": first, "labels": [IGNORE] * length}, {"input_ids": second, "labels": second}]
            batch = trainer._prepare_inputs(collate(rows))
            said.append(model(**batch, use_cache=False, fused_lm_head=True).log_probs[:, length:].float())
    if (said[0] - said[1]).abs().max() > (1e-4 if _is_exact(trainer) else 5e-2):
        raise InputError(
            f"padding_free=True: {type(trainer.accelerator.unwrap_model(model)).__name__} with attention "
            f"{trainer.model.config._attn_implementation!r} lets flattened rows see one another; use padded batches, "
            "or another model.attn_implementation"
        )


def check_attention(model: Any) -> None:
    """Raises InputError for an attention implementation that knows nothing of flattened rows."""
    if model.config._attn_implementation not in _PACKED_ATTENTION:
        raise InputError(
            f"padding_free=True with attention {model.config._attn_implementation!r}: flattened rows would attend "
            f"to one another; use one of {sorted(_PACKED_ATTENTION)} (model.attn_implementation) or padded batches"
        )


def _is_exact(trainer: Any) -> bool:
    """Whether the model computes in float32 throughout."""
    sixteen_bit = trainer.args.bf16 or trainer.args.fp16 or trainer.model.dtype != torch.float32
    return not sixteen_bit and not torch.backends.cuda.matmul.allow_tf32
