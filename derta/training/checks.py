"""What running the model once, before its first step, tells: that TRL's fused head gives what log-softmax gives, and
that flattened rows do not see one another. Nothing of it is left: weights are equal to the last bit with and without.
"""

import logging
from typing import Any

import torch
import trl
from peft import PeftModel
from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from derta.errors import InputError
from derta.models.varlen import VARLEN, has_kernel
from derta.objective.rows import IGNORE
from derta.training.undisturbed import is_sharded, undisturbed

_POSITIONS = 32  # of the first batch's first row, so that [1, L, V] logits are small for any vocabulary
# Attention implementations that keep flattened rows apart, by their position ids or where each begins.
_WITHOUT_MASK = {VARLEN, "flex_attention", "flash_attention_2", "flash_attention_3"}
_PACKED_ATTENTION = {"sdpa", "eager", *_WITHOUT_MASK}
_ROW, _FLATTENED = 160, 256  # tokens of a row, and at least of all rows, that show whether rows stay apart

logger = logging.getLogger(__name__)


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


def decide_flattened(trainer: Any) -> bool:
    """Whether batches are flattened (`padding_free`). "auto" does it on a CUDA GPU in 16 bit, with an attention that
    needs no mask for it and keeps rows apart, which a model with sdpa is given; elsewhere batches are padded.

    Raises:
        InputError: rows are to be flattened, and this attention knows nothing of it.
    """
    wanted, model, device = trainer.args.padding_free, _base(trainer), trainer.args.device
    attention = model.config._attn_implementation
    if wanted == "auto":
        if device.type != "cuda" or _is_exact(trainer) or not model._supports_attention_backend:
            return False
        if attention == "sdpa" and (fastest := _fastest(device)) is not None:
            model.set_attn_implementation(fastest)
        if model.config._attn_implementation not in _WITHOUT_MASK:
            return False
        if is_sharded(trainer) or rows_stay_apart(trainer):
            return True
        logger.warning("trainer.padding_free=auto: flattened rows of this model see one another: batches are padded")
        model.set_attn_implementation(attention)
        return False
    if wanted and attention not in _PACKED_ATTENTION:
        raise InputError(
            f"padding_free=True with attention {attention!r}: flattened rows would attend "
            f"to one another; use one of {sorted(_PACKED_ATTENTION)} (model.attn_implementation) or padded batches"
        )
    if wanted and attention == "flex_attention" and device.type == "cpu":
        raise InputError("padding_free=True with 'flex_attention' on a CPU, where it has no gradient: use 'varlen'")
    if wanted and not is_sharded(trainer):
        check_rows_stay_apart(trainer)
    return bool(wanted)


def check_rows_stay_apart(trainer: Any) -> None:
    """Raises InputError where flattened rows do not give what each row gives alone."""
    if not rows_stay_apart(trainer):
        raise InputError(
            f"padding_free={trainer.args.padding_free}: {type(_base(trainer)).__name__} with attention "
            f"{_base(trainer).config._attn_implementation!r} lets flattened rows see one another; use padded batches "
            "(trainer.padding_free=false), or another model.attn_implementation"
        )


def rows_stay_apart(trainer: Any) -> bool:
    """Whether flattened rows give what each row gives alone with eager attention, by log-probabilities and by gradients
    of the embedded tokens. The kernel is that of training: more than 256 tokens, with gradients (fewer than 128 queries
    take another one of FlexAttention). Rounding is told from a leak by what a leak does: a row is also run as the end
    of the row before it.

    Some architectures build their mask without position ids (OPT, Falcon), others carry a state (Mamba); nothing in
    their configuration tells.
    """
    model, config = _base(trainer), trainer.model.config.get_text_config()
    length = min(_ROW, (getattr(config, "max_position_embeddings", None) or 2 * _ROW) // 2)
    rows = [
        [(5 * i + 7 * row + 1) % config.vocab_size for i in range(length - row % 5)]
        for row in range(_FLATTENED // length + 2)
    ]
    attention = model.config._attn_implementation
    with undisturbed(trainer) as callable_model, trainer.accelerator.autocast(), torch.enable_grad():
        flattened = _said(trainer, callable_model, rows)
        model.set_attn_implementation("eager")
        try:
            alone = [_said(trainer, callable_model, [row])[0] for row in rows]
            joined = _said(trainer, callable_model, [rows[0] + rows[1]])[0]
        finally:
            model.set_attn_implementation(attention)
    allowed = 1e-3 if _is_exact(trainer) else 0.25
    for kind in range(2):  # log-probabilities, gradients
        end = joined[kind][len(rows[0]) :]
        leak = (end - alone[1][kind]).abs().mean()
        found = torch.stack([(a[kind] - b[kind]).abs().mean() for a, b in zip(flattened, alone, strict=True)]).max()
        if not found <= allowed * leak:  # NaN, too
            return False
    return True


def _said(trainer: Any, model: Any, rows: list[list[int]]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Of each row, flattened: log P of its second and later tokens [S - 1], and the gradient of their sum by the
    embeddings of its tokens [S, H]."""
    collate, held = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True), []

    def hold(_: Any, __: Any, embedded: torch.Tensor) -> torch.Tensor:
        held.append(embedded.detach().requires_grad_())
        return held[0]

    batch = trainer._prepare_inputs(collate([{"input_ids": row, "labels": row} for row in rows]))
    hook = _base(trainer).get_input_embeddings().register_forward_hook(hold)
    try:
        log_probs = model(**batch, use_cache=False, fused_lm_head=True).log_probs
    finally:
        hook.remove()
    (gradient,) = torch.autograd.grad(log_probs.sum(), held)
    lengths = [len(row) for row in rows]
    spoken = torch.nn.functional.pad(log_probs[0].detach().float(), (0, 1)).split(lengths)
    return [(row[:-1], slope) for row, slope in zip(spoken, gradient[0].float().split(lengths), strict=True)]


def _fastest(device: torch.device) -> str | None:
    """The attention that flattened rows take on this GPU."""
    if is_flash_attn_3_available():
        return "flash_attention_3"
    if has_kernel(device):
        return VARLEN
    return "flash_attention_2" if is_flash_attn_2_available() else None


def _base(trainer: Any) -> Any:
    """The model below an adapter."""
    return trainer.model.get_base_model() if isinstance(trainer.model, PeftModel) else trainer.model


def _is_exact(trainer: Any) -> bool:
    """Whether the model computes in float32 throughout."""
    sixteen_bit = trainer.args.bf16 or trainer.args.fp16 or trainer.model.dtype != torch.float32
    return not sixteen_bit and not torch.backends.cuda.matmul.allow_tf32
