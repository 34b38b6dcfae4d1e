"""Judge models with hand-set answers (keyword_model.py), and whole evaluations of a few rows."""

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from keyword_model import save_judge

from derta.config.evaluation import EvaluateRunConfig, EvaluationConfig, PromptSetConfig
from derta.config.judging import JudgingConfig
from derta.config.model import ModelConfig
from derta.evaluation.records import Response, Row

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
        return Response(row, text, prefill, harmful)

    return make


@pytest.fixture(scope="session")
def evaluation_of() -> Callable[..., EvaluateRunConfig]:
    """Writes the rows of sets, and makes the settings: evaluation_of(folder, model, {set: (rows, attacks)}, ...)."""

    def make(
        folder: Path, model: Path, rows: Mapping[str, tuple[Sequence[Row], list[str]]], **settings: Any
    ) -> EvaluateRunConfig:
        sets = {}
        for name, (some, attacks) in rows.items():
            file = folder / f"{name}.jsonl"
            file.write_text("".join(json.dumps(row) + "\n" for row in some))
            sets[name] = PromptSetConfig(path=str(file), harmful=name == "harmful", attacks=attacks)
        asked = EvaluationConfig(sets=sets, probability=False, **settings)
        return EvaluateRunConfig(model=ModelConfig(name_or_path=str(model)), eval=asked, output_dir=str(folder / "run"))

    return make
