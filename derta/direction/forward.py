"""One forward per batch, read at the end of the prompts: refusal metric, activations, KL.

    pad pad  prompt prompt <template>        left-padded, so that position -1 is every prompt's last token
                                  ^ logits [B, V] here; residual stream at the last P tokens of every block input

Shapes: N prompts, B of them in a batch, P positions, L layers, H hidden size, V vocabulary, R refusal tokens.
"""

from collections.abc import Iterator, Sequence

import torch

from derta.errors import InputError
from derta.models.generation import left_pad
from derta.models.target import TargetModel
from derta.progress import progress
from derta.residual.blocks import block_inputs


class PromptBatches:
    """Prompts cut into batches once, to be run many times under different interventions."""

    def __init__(self, target: TargetModel, prompts: Sequence[Sequence[int]], batch_size: int):
        """prompts: token ids. Those of similar length share a batch."""
        self.model = target.model
        self.count = len(prompts)
        self.shortest = min(map(len, prompts))
        order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), i))
        self._batches = []
        for start in range(0, len(order), batch_size):
            members = order[start : start + batch_size]
            input_ids, mask = left_pad([prompts[i] for i in members], target.pad_token_id)
            positions = (mask.cumsum(1) - 1).clamp(min=0)  # padding must not shift the positions
            inputs = {"input_ids": input_ids, "attention_mask": mask, "position_ids": positions}
            self._batches.append((members, {k: v.to(self.model.device) for k, v in inputs.items()}))

    def logits(self) -> Iterator[tuple[list[int], torch.Tensor]]:
        """Places in the list of prompts, and the logits [B, V] in float64 behind each prompt's last token. Raises
        InputError: NaN or infinite logits."""
        for members, inputs in self._batches:
            with torch.inference_mode():
                logits = self.model(**inputs, logits_to_keep=1, use_cache=False).logits[:, -1].double()
            if not bool(torch.isfinite(logits).all()):
                raise InputError(
                    "the model gives NaN or infinite logits: load it with model.dtype=float32, or check the run that "
                    "made it"
                )
            yield members, logits


def refusal_metric(logits: torch.Tensor, refusal_ids: Sequence[int]) -> torch.Tensor:
    """log(sum p_R) - log(1 - sum p_R) for logits [B, V] -> [B]; both sums in log space, so neither rounds to 0 or 1."""
    refusal = torch.zeros(logits.shape[-1], dtype=torch.bool, device=logits.device)
    refusal[list(refusal_ids)] = True
    return logits[:, refusal].logsumexp(1) - logits[:, ~refusal].logsumexp(1)


def metrics(batches: PromptBatches, refusal_ids: Sequence[int]) -> list[float]:
    """Refusal metric of every prompt, in their order."""
    values = [0.0] * batches.count
    for members, logits in batches.logits():
        for place, value in zip(members, refusal_metric(logits, refusal_ids).tolist(), strict=True):
            values[place] = value
    return values


def log_probabilities(batches: PromptBatches) -> list[torch.Tensor]:
    """Next-token log-probabilities per batch [B, V], to compare with later."""
    return [logits.log_softmax(1) for _, logits in batches.logits()]


def mean_kl(before: Sequence[torch.Tensor], batches: PromptBatches) -> float:
    """Mean over prompts of KL(before || now) of the next token, in nats. `before`: from `log_probabilities`."""
    total = 0.0
    for log_p, (_, logits) in zip(before, batches.logits(), strict=True):
        total += float((log_p.exp() * (log_p - logits.log_softmax(1))).sum())
    return total / batches.count


def mean_activations(batches: PromptBatches, positions: int) -> torch.Tensor:
    """[P, L, H] float64 on the CPU: mean block inputs at the last `positions` tokens, the last token last. Raises
    InputError: prompts shorter than that, NaN or infinite activations."""
    if batches.shortest < positions:
        raise InputError(
            f"direction.positions={positions}: the shortest prompt has {batches.shortest} tokens; ask for fewer"
        )
    total: torch.Tensor | None = None
    with progress(batches.count, "means") as bar, block_inputs(batches.model, positions) as seen:
        for members, _ in batches.logits():
            with torch.inference_mode():
                # Summed over the batch where the layer lives, in float64; only [P, L, H] travels.
                sums = torch.stack([x.double().sum(0).cpu() for x in seen], 1)
            total = sums if total is None else total + sums
            bar.update(len(members))
    assert total is not None
    mean = total / batches.count
    if not bool(torch.isfinite(mean).all()):
        layer = int((~torch.isfinite(mean)).any(2).any(0).nonzero()[0])
        raise InputError(
            f"the residual stream holds NaN or infinite numbers from the input of layer {layer} on: load the model "
            "with model.dtype=float32, or check the run that made it"
        )
    return mean
