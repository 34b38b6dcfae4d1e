"""The models that judges ask: one on this machine, or one behind an endpoint.

    questions (messages) -> answers (text), or the reason why there is none, which makes a response unscored

Nothing here knows what is asked: `judge_formats` does.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from derta.config.endpoint import EndpointConfig
from derta.config.model import ModelConfig
from derta.errors import InputError
from derta.models.conversation import ConversationCutter, is_raw_text
from derta.models.generation import left_pad
from derta.models.messages import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Question = list[Message]
_MARKERS = ("first\ue000turn", "second\ue001turn")  # private-use characters: no template holds them


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """Why a question has no answer; holds no text of a row."""

    reason: str


class Answerer(Protocol):
    def __call__(self, questions: Sequence[Question], max_new_tokens: int) -> list[str | NoAnswer]:
        """One answer per question, in their order."""
        ...


class EndpointAnswerer:
    """A model behind a chat-completions address. Failures are retried by the client, a bounded number of times."""

    def __init__(self, config: EndpointConfig):
        from derta.models.endpoint import Endpoint

        self.endpoint = Endpoint(config, "judging.endpoint")

    def __call__(self, questions: Sequence[Question], max_new_tokens: int) -> list[str | NoAnswer]:
        answers = self.endpoint.complete_many(questions, max_tokens=max_new_tokens)
        return [answer if isinstance(answer, str) else NoAnswer(f"endpoint: {answer.reason}") for answer in answers]


class LocalAnswerer:
    """A causal language model in this process, loaded with the first question, on this rank's GPU if there is one.

    Answers are greedy. Questions longer than the context have none: a judge that reads a cut response would miss what
    comes late.
    """

    def __init__(self, config: ModelConfig, batch_size: int):
        self.config = config
        self.batch_size = batch_size
        self._model: Any = None

    def __call__(self, questions: Sequence[Question], max_new_tokens: int) -> list[str | NoAnswer]:
        if self._model is None:
            self._load()
        encoded = [self._encode(question) for question in questions]
        limit = getattr(self._model.config, "max_position_embeddings", None)
        answers: list[str | NoAnswer] = [NoAnswer("the judge's context is too short for this response")] * len(encoded)
        fitting = [i for i, ids in enumerate(encoded) if limit is None or len(ids) + max_new_tokens <= limit]
        fitting.sort(key=lambda i: -len(encoded[i]))
        for start in range(0, len(fitting), self.batch_size):
            batch = fitting[start : start + self.batch_size]
            written = self._generate([encoded[i] for i in batch], max_new_tokens)
            for i, answer in zip(batch, written, strict=True):
                answers[i] = answer
        return answers

    def _load(self) -> None:
        import torch

        from derta.models.load import load_model, load_tokenizer
        from derta.models.precision import resolve_dtype

        local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        device = torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")
        try:
            self.tokenizer: PreTrainedTokenizerBase = load_tokenizer(self.config)
            self.cutter = ConversationCutter(self.tokenizer)
            model = load_model(self.config, resolve_dtype(self.config))
        except InputError as error:
            raise InputError(f"the judge cannot be loaded (judging.model): {error}") from error
        self._ends, self._pad = _special_ids(self.tokenizer, model)
        self._model = model.eval().to(device)  # type: ignore[arg-type]

    def _encode(self, question: Question) -> list[int]:
        if is_raw_text(question) or (not self.tokenizer.chat_template and len(question) == 1):
            return self.cutter.question_ids([dict(message) for message in question])
        return self.cutter.question_ids([self._content_type(question)(message) for message in question])

    def _content_type(self, question: Question) -> Any:
        """Plain text, or a list of parts (Llama-Guard-3-1B), whichever this template shows whole.

        Raises:
            InputError: neither: the tokenizer has no template, or one that leaves a turn out.
        """
        markers = _MARKERS[: len(question)]
        for with_content in (_as_text, _as_parts):
            turns = [with_content({**message, "content": m}) for message, m in zip(question, markers, strict=True)]
            try:
                text = self.cutter.question_text(turns)
            except (InputError, ValueError):  # not for such content; no template
                continue
            if all(marker in text for marker in markers):
                return with_content
        raise InputError(
            f"judging.model={self.config.name_or_path}: its tokenizer has no chat template that shows "
            f"{'both turns' if len(markers) > 1 else 'the question'}; take the tokenizer that the judge ships with, or "
            "set judging.model.chat_template"
        )

    def _generate(self, batch: Sequence[Sequence[int]], max_new_tokens: int) -> list[str]:
        import torch
        from transformers import GenerationConfig

        input_ids, attention_mask = left_pad(batch, self._pad)
        greedy = GenerationConfig(
            max_new_tokens=max_new_tokens, do_sample=False, num_beams=1, use_cache=True, pad_token_id=self._pad,
            eos_token_id=self._ends,
        )  # fmt: skip
        with torch.inference_mode():
            output = self._model.generate(
                input_ids=input_ids.to(self._model.device),
                attention_mask=attention_mask.to(self._model.device),
                generation_config=greedy,
            )
        return self.tokenizer.batch_decode(output[:, input_ids.shape[1] :], skip_special_tokens=True)


def _as_text(message: Mapping[str, Any]) -> dict[str, Any]:
    return dict(message)


def _as_parts(message: Mapping[str, Any]) -> dict[str, Any]:
    return {**message, "content": [{"type": "text", "text": message["content"]}]}


def _special_ids(tokenizer: PreTrainedTokenizerBase, model: Any) -> tuple[list[int], int]:
    """Ids that end an answer, and one to pad with; any id will do for that, padding is masked."""
    from transformers import GenerationConfig

    configured = model.generation_config.eos_token_id
    ends = {tokenizer.eos_token_id, *([configured] if isinstance(configured, int) else configured or [])} - {None}
    ends |= {i for token, i in tokenizer.get_added_vocab().items() if token in ("<|eot_id|>", "<|im_end|>")}
    model.generation_config = GenerationConfig()  # sampling settings that came with it would change greedy answers
    pad = tokenizer.pad_token_id
    return sorted(ends), pad if pad is not None else min(ends, default=0)


def answerer(model: ModelConfig, endpoint: EndpointConfig, batch_size: int) -> Answerer:
    """What these settings name; a local model is not loaded yet."""
    if endpoint.url.strip():
        return EndpointAnswerer(endpoint)
    return LocalAnswerer(replace(model), batch_size)
