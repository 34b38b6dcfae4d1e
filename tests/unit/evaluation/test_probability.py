"""Which token P(refusal) is measured with: the command's, else what the model was taught, else "Sorry"."""

import json
from pathlib import Path
from typing import Any

import pytest

from derta.config.evaluation import EvaluateRunConfig, EvaluationConfig
from derta.config.model import ModelConfig
from derta.errors import InputError
from derta.evaluation.probability import measured_refusal_token
from derta.objective.refusal_token import resolve_refusal_token


@pytest.fixture
def asked(llama3_tokenizer: Any, tiny_model: Any, tmp_path: Path) -> Any:
    tiny_model("llama", len(llama3_tokenizer)).save_pretrained(tmp_path / "model")
    llama3_tokenizer.save_pretrained(tmp_path / "model")

    def make(**settings: Any) -> EvaluateRunConfig:
        model = ModelConfig(name_or_path=str(tmp_path / "model"))
        return EvaluateRunConfig(model=model, eval=EvaluationConfig(**settings))

    return make


def test_what_the_model_was_taught_counts_unless_the_command_says_otherwise(asked, llama3_tokenizer):
    assert measured_refusal_token(asked()) == resolve_refusal_token(llama3_tokenizer, "Sorry")
    taught = resolve_refusal_token(llama3_tokenizer, token_ids=[17, 18])
    file = Path(asked().model.name_or_path) / "derta_config.json"
    file.write_text(json.dumps({"refusal_token": taught.to_dict()}))
    assert measured_refusal_token(asked()) == taught
    assert measured_refusal_token(asked(refusal_text="Sure")) == resolve_refusal_token(llama3_tokenizer, "Sure")
    assert measured_refusal_token(asked(refusal_token_ids=[5])).ids == (5,)
    assert measured_refusal_token(asked(probability=False)) is None
    with pytest.raises(InputError, match=r"eval.refusal_token_ids=\[99999\]"):
        measured_refusal_token(asked(refusal_token_ids=[99999]))
    file.write_text(json.dumps({"refusal_token": None}))
    assert measured_refusal_token(asked()) == resolve_refusal_token(llama3_tokenizer, "Sorry")


def test_a_text_that_cannot_be_used_is_said_and_measured_by_nobody(asked, caplog):
    assert measured_refusal_token(asked(refusal_text="I cannot")) is None
    assert "P(refusal) is not measured: eval.refusal_text='I cannot'" in caplog.text
    assert "objective.refusal_text" not in caplog.text


def test_a_damaged_record_of_the_model_is_named(asked):
    file = Path(asked().model.name_or_path) / "derta_config.json"
    for content in ("[1]", "{", '{"refusal_token": {"text": "Sorry"}}'):
        file.write_text(content)
        with pytest.raises(InputError, match="derta_config.json"):
            measured_refusal_token(asked())
