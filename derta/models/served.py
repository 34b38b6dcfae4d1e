"""Generation by a vLLM server that holds the model: POST {url}/completions with token ids.

    vllm serve DIR --served-model-name NAME          eval.server.url=http://localhost:8000/v1 eval.server.model=NAME

    {"model", "prompt": [[ids], [ids], ...], "max_tokens", "temperature", "stop_token_ids", "return_token_ids": true}
        ->  {"choices": [{"index", "token_ids": [ids], "finish_reason"}, ...]}

Token ids travel both ways (`return_token_ids`, vLLM 0.10.2 and later), so that a prefill is continued exactly where it
ends and positions are counted as they are without a server. Any server that speaks this will do. Greedy responses may
differ from those made here in rare near-ties: other kernels round otherwise.
"""

import json
from collections.abc import Sequence
from functools import partial
from typing import Any

from derta.config.model import EndpointConfig
from derta.errors import InputError
from derta.models.endpoint import Endpoint, NoAnswer, Passing
from derta.models.inputs import Generation, ModelInput, Sampling


class Server:
    """A server that continues token ids.
    Raises InputError: no url or model, or the environment variable of the key is not set."""

    def __init__(self, config: EndpointConfig):
        self._endpoint = Endpoint(config, "eval.server")

    def generate(
        self,
        batch: Sequence[ModelInput],
        end_token_ids: Sequence[int],
        reset_id: int | None = None,
        *,
        max_new_tokens: int,
        sampling: Sampling | None = None,
    ) -> list[Generation]:
        """As `derta.models.generation.generate`.
        Raises InputError: the server does not answer, or not with token ids. What is on disk stays; the same command
        continues there."""
        body: dict[str, Any] = {
            "model": self._endpoint.config.model,
            "prompt": [list(item.token_ids) for item in batch],
            "max_tokens": max_new_tokens,
            "temperature": 0.0 if sampling is None else sampling.temperature,
            "top_p": 1.0 if sampling is None else sampling.top_p,
            "seed": 0 if sampling is None else sampling.seed,
            "stop_token_ids": list(end_token_ids),
            "return_token_ids": True,
        }
        answer = self._endpoint.post("/completions", body, partial(_token_ids, expected=len(batch)))
        if isinstance(answer, NoAnswer):
            raise InputError(
                f"eval.server: no responses for a batch of {len(batch)} prompts: {answer.reason}; what was generated "
                "before is kept: see to the server (vLLM 0.10.2 or later) and run the same command again"
            )
        return [Generation.cut(item, ids, end_token_ids, reset_id) for item, ids in zip(batch, answer, strict=True)]


def _token_ids(answer: bytes, expected: int) -> list[list[int]] | NoAnswer:
    """The new ids of each prompt, in the order of the prompts; vLLM leaves the token that ended a response in."""
    try:
        choices = sorted(json.loads(answer)["choices"], key=lambda choice: choice["index"])
        found = [choice.get("token_ids") for choice in choices]
    except (ValueError, LookupError, TypeError, AttributeError):
        raise Passing("the answer is not a completion") from None
    if len(found) != expected:
        raise Passing(f"{len(found)} completions instead of {expected}")
    if not all(isinstance(ids, list) and all(isinstance(token, int) for token in ids) for ids in found):
        return NoAnswer("the answer holds no token_ids: the server does not know return_token_ids")
    return found
