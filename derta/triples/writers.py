"""Who writes the responses: a model in this process, or one behind an endpoint."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from derta.config.completion import CompleteRunConfig
from derta.models.endpoint import Endpoint, NoAnswer
from derta.models.inputs import ModelInput, Sampling

Answer = tuple[str, bool]
"""A response and whether the model has ended it before the token limit."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a row is asked with. `begun`: words that the response starts with."""

    id: str
    messages: list[dict[str, str]]
    begun: str = ""


class LocalWriter:
    """A model, or a LoRA adapter on its base, on this machine's accelerator if there is one. identity: what it is
    recognised by. reproducible: whether the same request is answered alike."""

    reproducible = True

    def __init__(self, config: CompleteRunConfig):
        import torch

        from derta.models.fingerprint import fingerprint
        from derta.models.precision import resolve_dtype
        from derta.models.target import load_target

        model = config.model
        self.identity: dict[str, Any] = {
            "sha256": fingerprint(model.name_or_path, model.revision),
            "dtype": resolve_dtype(model),
        }
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        self._target = load_target(model, accelerator or torch.device("cpu"))
        self._batch_size = config.batch_size

    def batches(self, requests: Sequence[Request]) -> list[list[Request]]:
        """The requests in the batches that they are answered in; the same ones whatever is answered already."""
        from derta.models.generation import plan_batches

        by_id = {request.id: request for request in requests}
        inputs = [self._input(request) for request in requests]
        return [[by_id[item.row_id] for item in batch] for batch in plan_batches(inputs, self._batch_size)]

    def write(self, batch: Sequence[Request], limit: int, sampling: Sampling | None) -> list[Answer | NoAnswer]:
        """One response of at most `limit` tokens per request, in their order. sampling: None for greedy search."""
        from derta.models.generation import generate

        inputs = [self._input(request) for request in batch]
        answers = generate(self._target, inputs, max_new_tokens=limit, sampling=sampling)
        return [(self._target.decode(answer.token_ids), answer.finished) for answer in answers]

    def _input(self, request: Request) -> ModelInput:
        cutter = self._target.cutter
        if not request.begun:
            return ModelInput("", "", request.id, tuple(cutter.prompt_ids(request.messages)))
        cut = cutter.cut(request.messages, [{"role": "assistant", "content": request.begun}])
        return ModelInput("", "", request.id, (*cut.prompt, *cut.response), len(cut.response))


class EndpointWriter:
    """A chat model behind an address."""

    reproducible = False

    def __init__(self, config: CompleteRunConfig):
        self.identity: dict[str, Any] = {"endpoint": config.endpoint.model}
        self._endpoint = Endpoint(config.endpoint)
        self._batch_size = config.batch_size

    def batches(self, requests: Sequence[Request]) -> list[list[Request]]:
        size = self._batch_size
        return [list(requests[start : start + size]) for start in range(0, len(requests), size)]

    def write(self, batch: Sequence[Request], limit: int, sampling: Sampling | None) -> list[Answer | NoAnswer]:
        drawn = sampling or Sampling(temperature=0.0, top_p=1.0)
        answers = self._endpoint.complete_many(
            [request.messages for request in batch],
            seeds=[drawn.seed + place for place in range(len(batch))],
            max_tokens=limit,
            temperature=drawn.temperature,
            top_p=drawn.top_p,
        )
        return [answer if isinstance(answer, NoAnswer) else (answer, True) for answer in answers]


Writer = LocalWriter | EndpointWriter


def build_writer(config: CompleteRunConfig) -> Writer:
    return EndpointWriter(config) if config.endpoint.url.strip() else LocalWriter(config)
