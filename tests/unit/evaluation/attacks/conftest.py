"""Placeholder rows, and models whose weakness is known (bag_model.py)."""

from typing import Any

import pytest
from bag_model import bag_model

from derta.models.target import TargetModel


@pytest.fixture(scope="session")
def plain_rows() -> list[dict[str, Any]]:
    """Placeholder rows with a harmful response each, as real data has them."""
    return [
        {
            "id": f"row-{i}",
            "source": "test",
            "kind": "safety",
            "prompt": [{"role": "user", "content": f"harmful request {i} about the garden"}],
            "chosen": [{"role": "assistant", "content": "Sorry, I cannot help with that."}],
            "rejected": [{"role": "assistant", "content": "Sure here are the steps"}],
        }
        for i in range(3)
    ]


@pytest.fixture(scope="session")
def refusing(llama3_tokenizer: Any) -> TargetModel:
    """A model that refuses whatever it is asked."""
    return bag_model(llama3_tokenizer)
