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

        self.model = target.model
        self.target_ids = list(target_ids)
        device = self.model.device
        self._prefix = torch.tensor([list(prefix)], dtype=torch.long, device=device)  # [1, P]
        self._behind = torch.tensor([[*suffix, *target_ids]], dtype=torch.long, device=device)  # [1, S + T]
        self._cache: Any = None
        if prefix:
            with torch.no_grad():
                output = self.model(input_ids=self._prefix, use_cache=True, logits_to_keep=1)
            cache = getattr(output, "past_key_values", None)  # recurrent models call theirs otherwise
            layers = getattr(cache, "layers", [])
            if layers and all(hasattr(layer, "batch_repeat_interleave") for layer in layers):
                self._cache = cache

    def losses(self, candidates: torch.Tensor, batch_size: int) -> list[TargetLoss]:
        """Args: candidates [N, C], ids. Raises InputError for NaN or infinite logits."""
        import torch

        losses: list[TargetLoss] = []
        for batch in candidates.split(batch_size):  # [B, C]
            with torch.no_grad():
                ids = torch.cat([batch, self._behind.expand(len(batch), -1)], 1)  # [B, C + S + T]
                losses += _losses(self._logits(ids=ids), self.target_ids)
        return losses

    def token_gradient(self, candidate: torch.Tensor) -> torch.Tensor:
        """d loss / d one-hot of the candidate [C] -> [C, V]: how the loss would move if a token gave way to another.

        The one-hot enters through the embedding matrix W alone, so its gradient is (d loss / d embedding) W^T.
        """
        import torch

        embed = self.model.get_input_embeddings()
        with torch.no_grad():
            own, behind = embed(candidate[None]), embed(self._behind)  # [1, C, H], [1, S + T, H]
        own = own.clone().requires_grad_(True)
        with torch.enable_grad():
            logits = self._logits(embeds=torch.cat([own, behind], 1))[0, :-1].float()  # [T, V]
            wished = torch.tensor(self.target_ids, device=logits.device)
            loss = torch.nn.functional.cross_entropy(logits, wished)
            (gradient,) = torch.autograd.grad(loss, own)
        return gradient[0].float() @ embed.weight.detach().float().T

    def _logits(self, *, ids: torch.Tensor | None = None, embeds: torch.Tensor | None = None) -> torch.Tensor:
        """Of the last T + 1 positions: [B, T + 1, V]."""
        import torch

        own = ids if ids is not None else embeds
        assert own is not None
        count, length = own.shape[:2]
        given: dict[str, Any] = {"input_ids": ids} if ids is not None else {"inputs_embeds": embeds}
        known = self._prefix.shape[1]
        if self._cache is not None:
            cache = copy.deepcopy(self._cache)  # a forward adds to it
            cache.batch_repeat_interleave(count)
            given |= {"past_key_values": cache, "use_cache": True}
        else:
            before = self._prefix.expand(count, -1)
            if ids is not None:
                given = {"input_ids": torch.cat([before, ids], 1)}
            elif known:
                with torch.no_grad():
                    known_embeds = self.model.get_input_embeddings()(before)
                given = {"inputs_embeds": torch.cat([known_embeds, own], 1)}
            given["use_cache"] = False
        mask = torch.ones(count, known + length, dtype=torch.long, device=own.device)
        return self.model(**given, attention_mask=mask, logits_to_keep=len(self.target_ids) + 1).logits


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
