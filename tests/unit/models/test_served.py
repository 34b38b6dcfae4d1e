"""Generation through a real HTTP server that speaks vLLM's completions protocol, with a real model behind it."""

from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from derta.config.model import ModelConfig
from derta.errors import InputError
from derta.evaluation.attacks.build import build_attack
from derta.models.generation import generate
from derta.models.target import TargetModel, load_target


@pytest.fixture
def served(chat_server: Any, target: TargetModel, model_dir: Any) -> TargetModel:
    """A model whose tokens come from a server that holds the same weights, and that answers in another order."""

    def complete(body: dict[str, Any]) -> dict[str, Any]:
        choices = []
        for index, prompt in enumerate(body["prompt"]):
            ids = torch.tensor([prompt])
            settings = GenerationConfig(
                max_new_tokens=body["max_tokens"], do_sample=False, eos_token_id=body["stop_token_ids"],
                pad_token_id=target.pad_token_id,
            )  # fmt: skip
            with torch.inference_mode():
                new = target.model.generate(
                    input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=settings
                )[0, ids.shape[1] :].tolist()
            choices.insert(0, {"index": index, "text": "", "token_ids": new, "finish_reason": "stop"})
        return {"object": "text_completion", "choices": choices}

    chat_server.script = complete
    endpoint = chat_server.config(retries=1, timeout=20)
    return load_target(ModelConfig(name_or_path=str(model_dir)), "cpu", "copy_per_rank", endpoint)


def test_a_server_continues_token_ids_as_the_weights_here_do(served, chat_server, target, harmful_rows):
    inputs = [
        item
        for name in ("direct", "prefill_20")
        for item in build_attack(name).inputs(harmful_rows[:2], served, "harmful").inputs
    ]
    assert served.end_token_ids == target.end_token_ids
    assert generate(served, inputs, max_new_tokens=6) == generate(target, inputs, max_new_tokens=6)
    (body,) = chat_server.requests
    assert chat_server.headers[0]["path"] == "/v1/completions" and body["temperature"] == 0.0
    assert body["prompt"] == [list(item.token_ids) for item in inputs]
    assert "model" not in vars(served)  # the weights were not loaded here
    assert torch.equal(served.model.lm_head.weight, target.model.lm_head.weight)  # until somebody asks for them


def test_a_response_ends_at_the_end_token_that_the_server_leaves_in(served, target, harmful_rows, monkeypatch):
    item = build_attack("direct").inputs(harmful_rows[:1], target, "harmful").inputs[0]
    free = generate(target, [item], max_new_tokens=6)[0]
    for model in (served, target):
        monkeypatch.setattr(model, "end_token_ids", [*model.end_token_ids, free.token_ids[3]])
    assert generate(served, [item], max_new_tokens=6) == generate(target, [item], max_new_tokens=6)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("token_ids", "does not know return_token_ids"),
        ("index", r"not a completion \(2 tries\)"),
        (503, r"status 503 \(2 tries\).*run the same command again"),
        (404, "eval.server.url"),
    ],
)
def test_a_server_that_fails_is_named_and_nothing_is_scored(served, chat_server, harmful_rows, fault, message):
    """fault: a field that the answer lacks, or a status."""
    complete = chat_server.script

    def broken(body: dict[str, Any]) -> Any:
        answer = complete(body)
        return {"choices": [{name: choice[name] for name in choice if name != fault} for choice in answer["choices"]]}

    chat_server.script = broken if isinstance(fault, str) else lambda body: fault
    items = build_attack("direct").inputs(harmful_rows[:2], served, "harmful").inputs
    with pytest.raises(InputError, match=message) as raised:
        generate(served, items, max_new_tokens=2)
    assert harmful_rows[0]["prompt"][-1]["content"] not in str(raised.value)
