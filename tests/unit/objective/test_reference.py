"""Where a token stands among those of its row, which decides how near it is kept to the reference."""

import math

import pytest
import torch

from derta.config import Arm, ObjectiveConfig
from derta.objective.reference import is_held, places, reference_scores
from derta.objective.rows import View


def test_places_in_padded_and_in_flattened_rows():
    held = torch.tensor([[0, 0, 1, 1, 1, 0, 0, 1, 1], [1, 1, 0, 0, 0, 0, 0, 0, 1]], dtype=torch.bool)
    expected = [[0, 1, 2, 0, 1], [0, 1, 0]]
    assert [row[on].tolist() for row, on in zip(places(held), held, strict=True)] == expected


def test_constrained_scores():
    """Seven tokens of one response with betas 1, 2 and 4, each as likely as in the reference or e times that."""
    settings = ObjectiveConfig(name=Arm.constrained, constrained_betas=[1.0, 2.0, 4.0])
    objective = torch.tensor([[0, 1, 1, 1, 1, 1, 1, 1, 0]])
    log_probs = torch.full((1, 9), -2.0)
    for ratio in (0.0, 1.0):
        found = reference_scores(settings, log_probs, objective, log_probs - ratio)[0].tolist()
        expected = [2 / b * -math.log1p(math.exp(-b * ratio)) for b in (1, 2, 2, 2, 2, 4, 4)]
        assert found == pytest.approx([-2.0, *expected, -2.0])  # what is not held stays


def test_rows_that_need_a_reference():
    """Of a triple and of a helpful row, for the arms that have one at all."""
    views = {"vanilla": View.MLE, "prefix": View.MLE_WITH_PREFIX, "harmful": View.RTO}
    for arm in Arm:
        held = {name for name, view in views.items() if is_held(arm, {"view": int(view), "rejected_ids": [1]})}
        helpful = is_held(arm, {"view": int(View.MLE), "rejected_ids": []})
        assert arm.rows.reference == bool(held)
        assert helpful == (arm is Arm.constrained)
        expected = {Arm.constrained: set(views), Arm.door: {"harmful"}, Arm.w_door: set(views)}
        assert held == expected.get(arm, set())


def test_weights_of_w_door():
    """exp(rho / tau) up to the largest one; a helpful row has rho = 0, and the harmful response is unlearned beside."""
    settings = ObjectiveConfig(name=Arm.w_door, weight_tau=2.0, weight_max=3.0, door_beta=0.5)
    objective, log_probs = torch.tensor([[1, 1, 1, 0, 2]]), torch.tensor([[-1.0, -2.0, -4.0, -8.0, -16.0]])
    found = reference_scores(settings, log_probs, objective, torch.tensor([[0.0, -2.0, 50.0, 9.0, -17.0]]))
    npo = -4 * math.log1p(math.exp(0.5))
    assert found[0].tolist() == pytest.approx([-1, -2 * math.exp(-1), -4 * 3, -8, npo])


def test_a_row_of_door_is_one_number_spread_over_its_tokens():
    """Two rows of 3 and 2 tokens in one flattened batch, and a padded one of 1; MLE tokens stay as they are."""
    settings = ObjectiveConfig(name=Arm.door, door_beta=0.5)
    objective = torch.tensor([[0, 2, 2, 2, 0, 2, 2, 0], [2, 0, 1, 1, 0, 0, 0, 0]])
    log_probs = torch.full((2, 8), -2.0)
    reference = log_probs + torch.tensor([[9.0, 1, 2, 3, 9, -1, -2, 9], [4, 9, 9, 9, 9, 9, 9, 9]])
    found = reference_scores(settings, log_probs, objective, reference)
    rows = [-4 * math.log1p(math.exp(0.5 * ratio)) for ratio in (-6, 3, -4)]  # sums of log pi - log pi_ref
    expected = [[-2, *[rows[0] / 3] * 3, -2, *[rows[1] / 2] * 2, -2], [rows[2], *[-2] * 7]]
    assert found.tolist() == [pytest.approx(row) for row in expected]
