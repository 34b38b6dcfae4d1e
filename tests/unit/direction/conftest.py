"""The planted model and prompts for it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from planted import load_sides, planted_model

from derta.config.direction import DirectionConfig, SplitsConfig
from derta.config.prompts import PromptFormat, PromptsConfig
from derta.models.target import TargetModel

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def planted(llama3_tokenizer: Any) -> TargetModel:
    return TargetModel(planted_model(llama3_tokenizer), llama3_tokenizer)


@pytest.fixture(scope="session")
def not_planted(llama3_tokenizer: Any) -> TargetModel:
    return TargetModel(planted_model(llama3_tokenizer, refuses=False), llama3_tokenizer)


@pytest.fixture(scope="session")
def planted_dir(planted: TargetModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("planted") / "model"
    planted.model.save_pretrained(place)
    planted.tokenizer.save_pretrained(place)
    return place


@pytest.fixture(scope="session")
def prompt_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Forty harmful and forty harmless placeholders, one question each."""
    place = tmp_path_factory.mktemp("prompts")
    places = ("garden", "harbour", "bridge", "market")
    for name, start in (("harmful", "harmful request"), ("harmless", "helpful question")):
        lines = (f'{{"question": "{start} {i} about the {places[i % 4]}"}}\n' for i in range(40))
        (place / f"{name}.jsonl").write_text("".join(lines))
    return place / "harmful.jsonl", place / "harmless.jsonl"


@pytest.fixture(scope="session")
def make_config(prompt_files: tuple[Path, Path]) -> Callable[..., DirectionConfig]:
    def make(**changes: Any) -> DirectionConfig:
        harmful, harmless = (PromptsConfig(path=str(path), format=PromptFormat.question) for path in prompt_files)
        small = {
            "harmful": harmful,
            "harmless": harmless,
            "splits": SplitsConfig(train=16, validation=8, test=12),
            "max_new_tokens": 1,
            "batch_size": 32,
        }
        return DirectionConfig(**{**small, **changes})

    return make


@pytest.fixture(scope="session")
def sides(planted: TargetModel, make_config: Callable[..., DirectionConfig]) -> Any:
    return load_sides(make_config(), planted)
