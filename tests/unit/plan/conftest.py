"""Shapes that take a second each."""

import pytest
from planned import FULL, LORA, composed

from derta.plan.shape import ModelShape, model_shape


@pytest.fixture(scope="session")
def full() -> ModelShape:
    return model_shape(composed(FULL))


@pytest.fixture(scope="session")
def lora() -> ModelShape:
    return model_shape(composed(LORA))
