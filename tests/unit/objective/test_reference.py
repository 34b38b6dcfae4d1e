"""Where a token stands among those of its row, which decides how near it is kept to the reference."""

import math

import pytest
import torch

from derta.config import Arm, ObjectiveConfig
from derta.objective.reference import held_objective, places, reference_scores


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


def test_arms_of_the_paper_need_no_reference():
    assert {arm for arm in Arm if held_objective(arm) is not None} == {Arm.constrained, Arm.door}


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
