"""The loss as arithmetic: counts, scales and the dot product, with the numbers written out."""

import math

import pytest
import torch

from derta.objective.loss import count_objectives, objective_loss, objective_scales

OBJECTIVE = torch.tensor([[0, 0, 1, 1, 1], [0, 2, 2, 0, 2]], dtype=torch.int8)  # [B, L]: 3 MLE, 3 RTO
LOG_PROBS = torch.tensor([[0.0, -1.0, -2.0, -3.0], [-0.5, -0.25, 0.0, -4.0]])  # [B, L - 1]


def scales(counts: list[int], weights: list[float], normalization: str) -> list[float]:
    return objective_scales(torch.tensor(counts), torch.tensor(weights), normalization).tolist()


def test_counts():
    """A label at position 0 has no context before it; the loss skips it, so the counts must."""
    assert count_objectives(OBJECTIVE).tolist() == [3, 3]
    assert count_objectives(torch.tensor([[1, 1, 2], [2, 0, 0]])).tolist() == [1, 1]


def test_scales():
    """Weights 1, 3 and counts 6, 2: every token is divided by 1*6 + 3*2 = 12; or 1/6 per MLE, 3/2 per RTO token."""
    assert scales([6, 2], [1.0, 3.0], "token") == pytest.approx([0.0, 1 / 12, 3 / 12])
    assert scales([6, 2], [1.0, 3.0], "per_objective") == pytest.approx([0.0, 1 / 6, 3 / 2])
    with pytest.raises(ValueError, match="normalization='mean'"):
        scales([1, 1], [1.0, 1.0], "mean")


def test_objective_that_is_absent_from_the_step():
    assert scales([4, 0], [1.0, 3.0], "token") == pytest.approx([0, 1 / 4, 0])
    assert scales([4, 0], [1.0, 3.0], "per_objective")[1] == pytest.approx(1 / 4)
    assert all(math.isfinite(scale) for kind in ("token", "per_objective") for scale in scales([0, 0], [1, 1], kind))
    assert scales([4, 2], [0.0, 1.0], "token") == pytest.approx([0, 0, 1 / 2])  # a weight of 0 takes no share
    # Only RTO tokens and rto_weight 0: the loss is 0, not 0/0.
    assert scales([0, 5], [1.0, 0.0], "token") == [0, 0, 0]


@pytest.mark.parametrize(
    ("normalization", "weights", "expected"),
    [
        ("token", [1.0, 2.0], 15.5 / 9),
        ("per_objective", [1.0, 2.0], 6 / 3 + 2 * 4.75 / 3),
        ("token", [1.0, 1.0], (6 + 4.75) / 6),  # equal weights: the plain mean over tokens
    ],
)
def test_loss(normalization, weights, expected):
    """MLE nll 1 + 2 + 3 = 6 at weight 1, RTO nll .5 + .25 + 4 = 4.75 at weight 2: (6 + 9.5) / (3 + 6) = 15.5 / 9."""
    factors = objective_scales(torch.tensor([3, 3]), torch.tensor(weights), normalization)
    assert objective_loss(LOG_PROBS, OBJECTIVE[:, 1:], factors).item() == pytest.approx(expected)


@pytest.mark.parametrize("normalization", ["token", "per_objective"])
def test_shares_of_micro_batches_add_up(normalization):
    """Row 1 alone (3 MLE) and row 2 alone (3 RTO), each with the counts of both."""
    factors = objective_scales(torch.tensor([3, 3]), torch.tensor([1.0, 2.0]), normalization)
    whole = objective_loss(LOG_PROBS, OBJECTIVE[:, 1:], factors)
    parts = [objective_loss(LOG_PROBS[i : i + 1], OBJECTIVE[i : i + 1, 1:], factors) for i in range(2)]
    assert sum(parts).item() == pytest.approx(whole.item())
