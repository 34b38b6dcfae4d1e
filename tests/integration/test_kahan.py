"""Weights in bfloat16 with Kahan summation against float32 ones: losses, resumption, what is saved, what is refused."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from training_cases import curves
from transformers import AutoModelForCausalLM

from derta.config.export import ExportConfig
from derta.errors import InputError
from derta.release.export import export
from derta.training import run as training_run

pytest.importorskip("optimi", reason="needs derta[kahan]")

KAHAN = "optim.name=adamw_kahan"
WORDS = ("model.dtype=bfloat16", "trainer.max_steps=20", "trainer.micro_batch_size=2", "trainer.eval_steps=0")
OPTIM = ("optim.learning_rate=1e-3", "optim.scheduler=constant", "optim.warmup=0")


@pytest.fixture(scope="module")
def rounded(model_dir: Path, llama3_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tiny model with weights of bfloat16, which all start from."""
    place = tmp_path_factory.mktemp("rounded")
    AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.bfloat16).save_pretrained(place)
    llama3_tokenizer.save_pretrained(place)
    return f"model.name_or_path={place}"


def test_as_with_float32_weights(
    train: Callable[..., Path], resumed: Callable[..., Path], rounded: str, tmp_path: Path, monkeypatch: Any
) -> None:
    """Without the summation the same optimizer is an order of magnitude further off."""
    words = (rounded, *WORDS, *OPTIM)
    masters = curves(train(tmp_path / "masters", *words))
    whole = resumed(*words, KAHAN, "trainer.save_steps=10", "trainer.save_total_limit=null", step=10)

    def off(run: Path) -> float:
        return max(abs(ours["loss"] / theirs["loss"] - 1) for ours, theirs in zip(curves(run), masters, strict=True))

    assert off(whole) < 2e-3
    assert {weight.dtype for weight in load_file(whole / "model.safetensors").values()} == {torch.bfloat16}
    assert export(ExportConfig(source=str(whole), output=str(tmp_path / "exported"))).difference == 0

    with_it = training_run.own_optimizer

    def without(config: Any) -> dict[str, Any]:
        kind, settings = with_it(config)["optimizer_cls_and_kwargs"]
        return {"optimizer_cls_and_kwargs": (kind, settings | {"kahan_sum": False})}

    monkeypatch.setattr(training_run, "own_optimizer", without)
    assert off(train(tmp_path / "without", *words, KAHAN)) > 5e-3


def test_what_it_needs(train: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"^optim.name=adamw_kahan is for .* means float32: set model.dtype=bfloat16"):
        train(tmp_path / "run", KAHAN, "model.dtype=auto", "data.path=not-there")
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "optimi" else find(name, *more)
    )
    with pytest.raises(InputError, match=r"^optim.name=adamw_kahan needs torch-optimi.*derta\[kahan\]"):
        train(tmp_path / "run", KAHAN, "model.dtype=bfloat16", "data.path=not-there")
    assert not (tmp_path / "run").exists()
