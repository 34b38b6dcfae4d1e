"""The per-token objective as pure functions: arrays in, numbers out.

Shapes: B rows, T = sequence length - 1 next-token positions; objective ids as in rows.TokenObjective (0 none, 1 MLE,
2 RTO). N_o is the number of tokens of objective o in the *global* batch (all ranks, all accumulation steps), w_o its
weight.

    token           L = sum_i w_{o(i)} nll_i / sum_o w_o N_o        one weighted mean over all supervised tokens
    per_objective   L = sum_o w_o (sum_{i in o} nll_i) / N_o        the paper's sum of two expectations

Both are one dot product of nll with a scale per objective, so the forward and the head do not branch. With equal
weights `token` is what the reference code computes on one rank without accumulation (github.com/RobustNLP/DeRTa).
"""

import torch

OBJECTIVES = 2  # MLE and RTO; counts and weights are vectors of this length in that order


def count_objectives(objective: torch.Tensor) -> torch.Tensor:
    """int64 [2]: supervised MLE and RTO tokens. `objective` is [B, L], aligned with the unshifted labels, whose first
    column predicts nothing and is not counted."""
    shifted = objective[:, 1:]
    return torch.stack([(shifted == kind).sum() for kind in range(1, OBJECTIVES + 1)])


def objective_scales(counts: torch.Tensor, weights: torch.Tensor, normalization: str) -> torch.Tensor:
    """float32 [3]: what a token's nll is multiplied by, indexed by objective id (index 0, no objective: 0).

    Args:
        counts: [2], N_MLE and N_RTO of the global batch.
        weights: [2], w_MLE and w_RTO.
        normalization: "token" or "per_objective".

    Raises:
        ValueError: unknown normalization.
    """
    weights = weights.to(counts.device)
    if normalization == "token":
        scales = weights / (weights * counts).sum().clamp(min=1e-12)
        scales = scales * (counts > 0)
    elif normalization == "per_objective":
        scales = weights / counts.clamp(min=1)
    else:
        raise ValueError(f"normalization={normalization!r}: expected 'token' or 'per_objective'")
    return scales.new_zeros(OBJECTIVES + 1).index_copy_(0, counts.new_tensor([1, 2]), scales)


def objective_loss(log_probs: torch.Tensor, objective: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Scalar: this micro-batch's share of the global batch's loss.

    Args:
        log_probs: [B, T], log P(label) per next-token position, 0 where there is no label.
        objective: [B, T], aligned with log_probs (already shifted).
        scales: [3], from `objective_scales` with the counts of the global batch.
    """
    return -(log_probs * scales[objective.long()]).sum()
