"""Losses that hold a model against a reference: itself, as it was before its first step.

r_t = log pi(y_t) - log pi_ref(y_t), for the tokens t = 1..n of a response that its row supervises.

    constrained    L = - sum_t (2 / b_t) log sigma(b_t r_t)       safe and helpful responses; b_1, b_2..b_5, b_6.. are
                                                                  objective.constrained_betas
                   Its gradient is that of the nll times 2 sigma(-b_t r_t), which is 1 at the start and falls as a token
                   becomes more likely: the larger b_t, the nearer the token stays to the reference.
                   Qi et al., arXiv 2406.05946, section 4.

    door           L = MLE of harmful_prefix + (2 / b) log(1 + exp(b sum_t r_t))    the harmful response y, t = 1..n
                   b is objective.door_beta. The second term is NPO: it lowers log pi(y), the less the lower it is.
                   It is a loss of the row and not of its tokens, so 1 / n of it stands at each.
                   DOOR, arXiv 2503.03710; NPO, arXiv 2404.05868.

    w_door         door, with w_t nll_t in place of nll_t in the safe response of a triple
                   w_t = min(exp(rho_t / tau), objective.weight_max), rho_t = log pi_w(y_t) - log pi_ref(y_t), behind
                   the prefix of the row; pi_w is objective.weight_model and tau objective.weight_tau.
                   The weights follow the paper's text, W-DOOR in arXiv 2503.03710, which has no largest one. Its code
                   (wicai24/DOOR-Alignment, 47feefc) takes exp(-rho_t / tau), and unlearns without a reference.

Each is a score per token that takes the place of log P(y_t) in `loss.objective_loss`: weights and the mean over the
global batch are those of every arm. At r = 0 the gradient is that of the nll, and in door's second term minus that.
Shapes: B rows, T next-token positions.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch

from derta.config.objective import Arm, ObjectiveConfig
from derta.objective.rows import TokenObjective, View

_EARLY = 5  # tokens of a response with a b of their own: the first, and the second to this one


def is_held(arm: Arm, entry: Mapping[str, Any]) -> bool:
    """Whether all supervised tokens of a row (an example with its `view`) need a number of the reference."""
    if arm.rows.weighted:
        return bool(entry["rejected_ids"])
    return arm.rows.constrained or (arm.rows.unlearn and entry["view"] == View.RTO)


def reference_scores(
    settings: ObjectiveConfig, log_probs: torch.Tensor, objective: torch.Tensor, reference: torch.Tensor
) -> torch.Tensor:
    """[B, T]: what stands in place of the log-probabilities, which are kept where nothing is held.

    Args:
        log_probs, objective: [B, T], as in `loss.objective_loss`. reference: [B, T], log pi_ref of the labels; rho_t at
            weighted ones; 0 where nothing is held.
    """
    rows, scores = settings.name.rows, log_probs
    mle, rto = objective == int(TokenObjective.MLE), objective == int(TokenObjective.RTO)
    if rows.constrained:
        beta = log_probs.new_tensor(settings.constrained_betas)
        place = places(mle)
        beta = beta[(place > 0).long() + (place >= _EARLY).long()]
        held = 2 / beta * torch.nn.functional.logsigmoid(beta * (log_probs - reference))
        scores = torch.where(mle, held, scores)
    if rows.weighted:
        weights = (reference / settings.weight_tau).clamp(max=math.log(settings.weight_max)).exp()
        scores = torch.where(mle, weights * log_probs, scores)
    if rows.unlearn:
        scores = torch.where(rto, _npo(log_probs - reference, rto, settings.door_beta), scores)
    return scores


def places(held: torch.Tensor) -> torch.Tensor:
    """int64 [B, T]: for held positions how many held ones stand before it in its row. Flattened rows are apart: each
    begins with a prompt, which is not held."""
    numbers = torch.arange(held.shape[1], device=held.device)
    return numbers - (_starts(held) * numbers).cummax(dim=1).values


def _starts(held: torch.Tensor) -> torch.Tensor:
    return held & ~torch.nn.functional.pad(held[:, :-1], (1, 0))


def _npo(ratio: torch.Tensor, held: torch.Tensor, beta: float) -> torch.Tensor:
    """[B, T]: at every held token -1/n of its row's loss, whose log-ratios stand in `ratio`."""
    row = _starts(held).flatten().cumsum(0)  # each row of the batch has a number of its own
    nothing = ratio.new_zeros(held.numel() + 1)
    total = nothing.index_add(0, row, (ratio * held).flatten())
    count = nothing.index_add(0, row, held.flatten().to(ratio.dtype))
    loss = 2 / beta * torch.nn.functional.softplus(beta * total) / count.clamp(min=1)
    return -loss[row].view_as(ratio)
