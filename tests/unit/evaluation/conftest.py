"""Judge models with hand-set answers (keyword_model.py)."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from keyword_model import save_judge

from derta.config.judging import JudgingConfig
from derta.config.model import ModelConfig
from derta.evaluation.records import Response

PROMPT = "harmful request 3"


@pytest.fixture(scope="session")
def judge_model(llama3_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., JudgingConfig]:
    """Makes the settings of a local judge: judge_model({keyword: answer}, default, template=, ...)."""

    def make(
        answers: dict[str, str], default: str, *, chat_template: str | None = None, context: int = 4096, **settings: Any
    ) -> JudgingConfig:
        tokenizer = copy.deepcopy(llama3_tokenizer)
        tokenizer.chat_template = chat_template
        directory: Path = tmp_path_factory.mktemp("judge")
        save_judge(tokenizer, directory, answers, default, context=context)
        return JudgingConfig(model=ModelConfig(name_or_path=str(directory)), **settings)

    return make


@pytest.fixture(scope="session")
def respond() -> Callable[..., Response]:
    """Makes a response: respond(text, harmful=, prefill=, prompt=)."""

    def make(text: str, *, harmful: bool = True, prefill: str = "", prompt: str | None = PROMPT) -> Response:
        messages = [] if prompt is None else [{"role": "user", "content": prompt}]
        row = {"id": "row-1", "source": "test", "kind": "safety", "prompt": messages, "chosen": None, "rejected": None}
        return Response(row, "direct", text, prefill, harmful, finished=True)

    return make
