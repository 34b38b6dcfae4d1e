"""How likely a model is to begin its response as an attack wishes: the loss that GCG and AutoDAN minimise.

    prompt ids                                  target ids          loss = mean of -log p(target token | what is before)
    [ prefix (cached) | candidate | suffix ]    [ t1 t2 ... tT ]

Shapes: B candidates, C tokens of a candidate, S of the suffix behind it, T of the target, V vocabulary, H hidden size.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from derta.errors import InputError
from derta.models.generation import left_pad
from derta.models.target import TargetModel

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class TargetLoss:
    """loss: mean negative log-likelihood per target token, in nats. greedy: greedy search would write the target."""

    loss: float
    greedy: bool


def target_losses(
    target: TargetModel, prompts: Sequence[Sequence[int]], target_ids: Sequence[int], batch_size: int
) -> list[TargetLoss]:
    """The loss of the same target after each of several prompts of any length. Raises InputError: NaN or infinite
    logits."""
    import torch

    losses: list[TargetLoss] = []
    for start in range(0, len(prompts), batch_size):
        sequences = [[*prompt, *target_ids] for prompt in prompts[start : start + batch_size]]
        input_ids, mask = left_pad(sequences, target.pad_token_id)
        positions = (mask.cumsum(1) - 1).clamp(min=0)  # padding on the left must not shift the positions
        device = target.model.device
        with torch.inference_mode():
            logits = target.model(
                input_ids=input_ids.to(device),
                attention_mask=mask.to(device),
                position_ids=positions.to(device),
                logits_to_keep=len(target_ids) + 1,
                use_cache=False,
            ).logits  # [B, T + 1, V]
        losses += _losses(logits, target_ids)
    return losses


class SuffixLoss:
    """The loss as a function of the tokens in one place of one prompt. What stands before them is computed once.

    Models whose cache cannot be copied for several candidates (recurrent ones) see the whole prompt every time.
    """

    def __init__(self, target: TargetModel, prefix: Sequence[int], suffix: Sequence[int], target_ids: Sequence[int]):
        """prefix, suffix: ids before and behind the candidate; the suffix ends with the assistant's header."""
        import torch

        self.model, self.target_ids = target.model, list(target_ids)
        self._embed = self.model.get_input_embeddings()
        self._cache: Any = None
        self._cached = 0
        with torch.no_grad():
            before, behind = (
                torch.tensor([list(ids)], dtype=torch.long, device=self.model.device)
                for ids in (prefix, [*suffix, *target_ids])
            )
            self._before, self._behind = self._embed(before), self._embed(behind)  # [1, P, H], [1, S + T, H]
            if prefix:
                output = self.model(input_ids=before, use_cache=True, logits_to_keep=1)
                cache = getattr(output, "past_key_values", None)  # recurrent models call theirs otherwise
                layers = getattr(cache, "layers", [])
                if layers and all(hasattr(layer, "batch_repeat_interleave") for layer in layers):
                    self._cache, self._cached, self._before = cache, len(prefix), self._before[:, :0]

    def losses(self, candidates: torch.Tensor, batch_size: int) -> list[TargetLoss]:
        """Of candidates [N, C], ids. Raises InputError: NaN or infinite logits."""
        import torch

        losses: list[TargetLoss] = []
        for batch in candidates.split(batch_size):  # [B, C]
            with torch.no_grad():
                losses += _losses(self._logits(self._embed(batch)), self.target_ids)
        return losses

    def token_gradient(self, candidate: torch.Tensor) -> torch.Tensor:
        """d loss / d one-hot of the candidate [C] -> [C, V]: how the loss would move if a token gave way to another.

        The one-hot enters through the embedding matrix W alone, so its gradient is (d loss / d embedding) W^T.
        """
        import torch

        with torch.no_grad():
            own = self._embed(candidate[None])  # [1, C, H]
        own = own.clone().requires_grad_(True)
        with torch.enable_grad():
            logits = self._logits(own)[0, :-1].float()  # [T, V]
            wished = torch.tensor(self.target_ids, device=logits.device)
            loss = torch.nn.functional.cross_entropy(logits, wished)
            (gradient,) = torch.autograd.grad(loss, own)
        return gradient[0].float() @ self._embed.weight.detach().float().T

    def _logits(self, candidates: torch.Tensor) -> torch.Tensor:
        """Embeddings of candidates [B, C, H] -> logits of the last T + 1 positions, [B, T + 1, V]."""
        import torch

        count = len(candidates)
        before, behind = (part.expand(count, -1, -1) for part in (self._before, self._behind))
        embeds = torch.cat([before, candidates, behind], 1)
        given: dict[str, Any] = {"use_cache": False}
        if self._cache is not None:
            cache = copy.deepcopy(self._cache)  # a forward adds to it
            cache.batch_repeat_interleave(count)
            given = {"past_key_values": cache, "use_cache": True}
        mask = torch.ones(count, self._cached + embeds.shape[1], dtype=torch.long, device=embeds.device)
        keep = len(self.target_ids) + 1
        return self.model(inputs_embeds=embeds, attention_mask=mask, logits_to_keep=keep, **given).logits


def _losses(logits: torch.Tensor, target_ids: Sequence[int]) -> list[TargetLoss]:
    """Logits [B, T + 1, V], the last position of which predicts what follows the target."""
    import torch

    predicting = logits[:, :-1].float()  # [B, T, V]
    wished = torch.tensor(list(target_ids), device=logits.device)
    log_p = predicting.gather(2, wished.expand(len(logits), -1)[..., None])[..., 0] - predicting.logsumexp(2)  # [B, T]
    losses = -log_p.mean(1)
    if not bool(torch.isfinite(losses).all()):
        raise InputError(
            "the model gives NaN or infinite logits, which cannot guide an attack: check the run that made it, or "
            "load it with model.dtype=float32"
        )
    greedy = (predicting.argmax(2) == wished).all(1)
    return [TargetLoss(loss, bool(same)) for loss, same in zip(losses.tolist(), greedy.tolist(), strict=True)]
