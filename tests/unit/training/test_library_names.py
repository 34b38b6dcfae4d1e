"""Errors name what the reader has given: arguments of the library, or keys of the command line."""

import re
from typing import Any

import pytest

from derta.errors import InputError
from derta.training.config import command_names, library_names

_KEY = re.compile(r"\b(objective|data|model|trainer|optim|peft)\.[a-z]")


def test_of_the_config(derta_args: Any) -> None:
    wrong = {"rto_dropout": 1.5, "mle_copies": 0, "ablation_prompts": 0, "ablation_positions": [1], "refusal_text": ""}
    with pytest.raises(InputError) as error:
        derta_args(**wrong, skip_grad_norm_above=-1.0)
    assert not _KEY.search(str(error.value))
    named = {re.split(r"[= ]", line.removeprefix("  - "))[0] for line in str(error.value).splitlines()[1:]}
    assert named == {*wrong, "skip_grad_norm_above"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"max_length": 8}, "fill max_length=8 tokens .*: raise max_length, or set drop_long_prompts=True to leave"),
        ({"refusal_text": "I am"}, "^refusal_text='I am' starts"),
        ({"refusal_token_ids": [10**6]}, r"refusal_token_ids=\[1000000\]: expected"),
        ({"ablation_probability": 0.5, "ablation_layers": [7]}, r"^ablation_layers=\[7\]: the model has"),
    ],
)
def test_of_the_trainer(changes: dict[str, Any], said: str, tiny_trainer: Any) -> None:
    with pytest.raises(InputError, match=said) as error:
        tiny_trainer(**changes)
    assert not _KEY.search(str(error.value))
    with pytest.raises(InputError) as error, command_names():
        tiny_trainer(**changes)
    assert _KEY.search(str(error.value)), "as the command line has it"


def test_what_lies_beneath_is_kept() -> None:
    with pytest.raises(InputError) as error, library_names(), library_names():
        try:
            raise OSError("disk")
        except OSError as below:
            raise InputError("data.max_length=3") from below
    assert str(error.value) == "max_length=3" and isinstance(error.value.__cause__, OSError)
