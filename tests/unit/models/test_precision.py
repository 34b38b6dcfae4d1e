"""model.dtype=auto on a CPU: bfloat16 only where the CPU multiplies in it and the model is large."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from derta.config.model import Dtype, ModelConfig
from derta.models import precision
from derta.models.precision import resolve_dtype


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text("{}")
    save_file({"a": torch.zeros(3, 5), "b": torch.zeros(7)}, tmp_path / "model-1.safetensors")
    save_file({"c": torch.zeros(())}, tmp_path / "model-2.safetensors")
    return tmp_path


@pytest.mark.parametrize(
    ("has_it", "large", "expected"),
    [(True, 22, "bfloat16"), (True, 23, "float32"), (False, 22, "float32")],
)
def test_auto(has_it: bool, large: int, expected: str, model: Path, monkeypatch: Any) -> None:
    """The directory holds 15 + 7 + 1 parameters; a model on the hub is taken to be large."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": has_it}, raising=False)
    monkeypatch.setattr(precision, "LARGE_ON_CPU", large)
    assert resolve_dtype(ModelConfig(name_or_path=str(model))) == expected
    assert resolve_dtype(ModelConfig(name_or_path=str(model), dtype=Dtype.float32)) == "float32"
    assert resolve_dtype(ModelConfig(name_or_path="owner/name")) == ("bfloat16" if has_it else "float32")
