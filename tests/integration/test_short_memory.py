"""QLoRA and 8-bit AdamW on a CPU, which bitsandbytes supports: trained, saved, resumed, exported. What needs a GPU is
refused before anything is read, and tested on one."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from training_cases import STEPS
from transformers import AutoModelForCausalLM

from derta.config.export import ExportConfig
from derta.errors import InputError
from derta.release.export import export, probe_logits

pytest.importorskip("bitsandbytes", reason="needs derta[quantization]")

ADAPTER = ("peft.r=4", "peft.dropout=0.2", "optim=lora", "optim.learning_rate=1e-2")
QLORA = ("peft=qlora", *ADAPTER, "objective.ablation.probability=0.5", "trainer.gradient_checkpointing=true")


def exported(run: Path, output: Path) -> Any:
    return export(ExportConfig(source=str(run), output=str(output)))


def test_qlora(resumed: Callable[..., Path], model_dir: Path, tmp_path: Path) -> None:
    """Merged into the base as it was before it was rounded."""
    whole = resumed(*STEPS, *QLORA)
    adapter = load_file(whole / "adapter_model.safetensors")
    assert {weight.dtype for weight in adapter.values()} == {torch.float32}
    assert any(weight.bfloat16().float().ne(weight).any() for weight in adapter.values()), "no detour by bfloat16"
    assert "beside a base in 4 bits (nf4)" in (whole / "README.md").read_text()

    assert exported(whole, tmp_path / "merged").kind == "merged adapter"
    base = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    torch.testing.assert_close(
        probe_logits(merged), probe_logits(PeftModel.from_pretrained(base, whole)), atol=1e-4, rtol=0
    )
    assert "quantization_config" not in json.loads((tmp_path / "merged" / "config.json").read_text())


def test_adamw_in_8_bits(resumed: Callable[..., Path], tmp_path: Path) -> None:
    whole = resumed(*STEPS, "optim.name=adamw_8bit")
    states = torch.load(whole / "checkpoint-6" / "optimizer.pt", weights_only=True)["state"].values()
    means = [state.get("__bnb_optimizer_quant_state__", state)["state1"] for state in states]
    large = [mean.dtype for mean in means if mean.numel() >= 4096]
    assert sorted(map(str, large)) == ["torch.float32", "torch.uint8"], "embedding, head"
    assert exported(whole, tmp_path / "final").difference == 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("setting", ["optim.name=paged_adamw_8bit", "trainer.activation_offloading=true"])
def test_what_needs_a_gpu(setting: str, train: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"^{setting} needs a GPU"):
        train(tmp_path / "run", setting, "data.path=not-there")
    assert not (tmp_path / "run").exists()


@pytest.mark.gpu
@pytest.mark.parametrize("settings", [["optim.name=paged_adamw_8bit"], ["trainer.activation_offloading=true"], QLORA])
def test_on_a_gpu(settings: list[str], resumed: Callable[..., Path], tmp_path: Path) -> None:
    exported(resumed(*STEPS, *settings), tmp_path / "exported")
