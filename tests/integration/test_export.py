"""launch/export.py: merged adapters and full models as plain Hugging Face directories, verified and all or nothing."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from derta.config import Dtype
from derta.config.export import ExportConfig
from derta.errors import InputError
from derta.release.export import Exported, export, probe_logits

PICKLES = (".bin", ".pt", ".pth", ".pkl")
ADAPTER = ("peft=lora", "peft.r=4", "optim=lora", "optim.learning_rate=1e-2")


def exported(source: Path, output: Path, **settings: Any) -> Exported:
    return export(ExportConfig(source=str(source), output=str(output), **settings))


@pytest.fixture(scope="module")
def adapter_run(train: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("export") / "lora", *ADAPTER)


def with_adapter(model_dir: Path, run: Path) -> torch.Tensor:
    base = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    return probe_logits(PeftModel.from_pretrained(base, run))


def test_an_adapter_is_merged(adapter_run: Path, model_dir: Path, tmp_path: Path) -> None:
    result = exported(adapter_run, tmp_path / "merged")
    assert (result.kind, result.dtype, result.same_top_token) == ("merged adapter", "float32", 1.0)
    assert result.difference <= result.tolerance == 1e-3
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert type(model).__name__ == "LlamaForCausalLM"
    torch.testing.assert_close(probe_logits(model), with_adapter(model_dir, adapter_run), atol=1e-4, rtol=0)
    base = AutoModelForCausalLM.from_pretrained(model_dir)
    assert (probe_logits(model) - probe_logits(base)).abs().max() > 0.01, "the adapter says something"

    # What lies beside the weights
    names = {path.name for path in (tmp_path / "merged").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja", "README.md"} <= names
    assert not [name for name in names if name.endswith(PICKLES) or "adapter" in name]
    assert not (adapter_run / "model.safetensors").exists()
    assert len(load_file(adapter_run / "adapter_model.safetensors")) == 28, "seven modules in two layers, A and B"
    name = "derta_config.json"
    assert (tmp_path / "merged" / name).read_bytes() == (adapter_run / name).read_bytes()
    assert json.loads((adapter_run / name).read_text())["base_was_directory"] is True
    cards = [(folder / "README.md").read_text() for folder in (adapter_run, tmp_path / "merged")]
    assert cards[0].count("library_name: peft") == 1, "else this shows nothing"
    assert cards[1] == cards[0].replace("library_name: peft", "library_name: transformers")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    ends = json.loads((tmp_path / "merged" / "generation_config.json").read_text())["eos_token_id"]
    assert tokenizer.convert_tokens_to_ids("<|eot_id|>") in ends, "the token that training ends its turns with"
    assert list(tmp_path.iterdir()) == [tmp_path / "merged"], "nothing half-written"


def test_rounding_is_reported_and_bounded(adapter_run: Path, tmp_path: Path) -> None:
    result = exported(adapter_run, tmp_path / "half", dtype=Dtype.bfloat16)
    assert 0 < result.difference < result.tolerance == pytest.approx(0.05 * result.largest)
    weights = load_file(tmp_path / "half" / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}
    with pytest.raises(InputError, match=r"nothing was exported.*differs.*accepted 1.00e-06"):
        exported(adapter_run, tmp_path / "strict", dtype=Dtype.bfloat16, tolerance=1e-6)
    assert not (tmp_path / "strict").exists() and not list(tmp_path.glob("*.partial"))


def test_the_base_may_have_moved(adapter_run: Path, model_dir: Path, tmp_path: Path) -> None:
    moved, adapter = tmp_path / "elsewhere", tmp_path / "adapter"
    shutil.copytree(model_dir, moved)
    shutil.copytree(adapter_run, adapter)
    stored = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**stored, "base_model_name_or_path": "runs/gone"}))
    with pytest.raises(InputError, match=r"runs/gone, which is not here"):
        exported(adapter, tmp_path / "without")
    assert exported(adapter, tmp_path / "merged", base=str(moved)).difference <= 1e-3


def test_adapters_on_the_embedding(train, tiny_model, llama3_tokenizer, model_dir, tmp_path):
    """Merged with equal logits where the head is its own; refused before a step where it is tied to the embedding."""
    targets = "peft.target_modules=[q_proj,embed_tokens]"
    run = train(tmp_path / "run", *ADAPTER, targets)
    trained = load_file(run / "adapter_model.safetensors")
    assert any("lora_embedding_B" in name and weight.abs().sum() > 0 for name, weight in trained.items())
    assert "LoRA: r 4, alpha 16, dropout 0.05, on embed_tokens, q_proj" in (run / "README.md").read_text()
    result = exported(run, tmp_path / "merged")
    assert result.difference <= 1e-3 and result.same_top_token == 1.0
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(probe_logits(merged), with_adapter(model_dir, run), atol=1e-4, rtol=0)
    tied = tmp_path / "tied"
    tiny_model("llama", len(llama3_tokenizer), tied=True).save_pretrained(tied)
    llama3_tokenizer.save_pretrained(tied)
    for objective in ("derta", "dpo"):
        refused = (f"model.name_or_path={tied}", f"objective={objective}", *ADAPTER, targets)
        with pytest.raises(InputError, match="^peft.target_modules holds the token embedding.*LM head is tied to it"):
            train(tmp_path / "refused", *refused)
    assert not (tmp_path / "refused").exists()


def test_experts_of_a_mixture_are_merged(train, tiny_model, llama3_tokenizer, tmp_path):
    base = tmp_path / "mixtral"
    tiny_model("mixtral", len(llama3_tokenizer)).save_pretrained(base)
    llama3_tokenizer.save_pretrained(base)
    experts = "peft.target_parameters=[mlp.experts.gate_up_proj,mlp.experts.down_proj]"
    attention = "peft.target_modules=[q_proj,k_proj,v_proj,o_proj]"
    run = train(tmp_path / "run", f"model.name_or_path={base}", *ADAPTER, "peft.dropout=0", attention, experts)
    trained = load_file(run / "adapter_model.safetensors")
    experts_b = [weight for name, weight in trained.items() if ".experts." in name and "lora_B" in name]
    assert len(experts_b) == 4 and all(weight.abs().sum() > 0 for weight in experts_b)
    assert exported(run, tmp_path / "merged").difference <= 1e-3
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    torch.testing.assert_close(probe_logits(merged), with_adapter(base, run), atol=1e-4, rtol=0)


def test_a_full_run_and_its_newest_checkpoint(train: Callable[..., Path], tmp_path: Path) -> None:
    run = train(tmp_path / "run", "trainer.save_steps=2")
    result = exported(run, tmp_path / "final")
    assert (result.kind, result.difference) == ("full model", 0.0)
    final, stored = (load_file(place / "model.safetensors") for place in (tmp_path / "final", run))
    assert all(torch.equal(final[name], stored[name]) for name in stored)
    for name in ("model.safetensors", "config.json"):  # as if the run had not finished
        (run / name).unlink()
    assert exported(run, tmp_path / "newest").kind == "full model"
    checkpoint = load_file(max(run.glob("checkpoint-*")) / "model.safetensors")
    newest = load_file(tmp_path / "newest" / "model.safetensors")
    assert all(torch.equal(newest[name], checkpoint[name]) for name in checkpoint)
    assert (tmp_path / "newest" / "README.md").read_bytes() == (run / "README.md").read_bytes()


def test_zero_state_becomes_a_plain_directory(start_two, tmp_path, caplog):
    """As where stage3_gather_16bit_weights_on_model_save is off: only DeepSpeed's shards hold the weights."""
    run = tmp_path / "run"
    launch = start_two(run, "distributed=zero3", "trainer.save_steps=2", "trainer.micro_batch_size=2")
    assert launch.wait() == [0, 0], launch.output
    checkpoint = run / "checkpoint-2"
    gathered = load_file(checkpoint / "model.safetensors")
    (checkpoint / "model.safetensors").unlink()
    result = exported(checkpoint, tmp_path / "full", dtype=Dtype.float32)
    assert result.kind == "weights from ZeRO state" and result.difference == 0.0
    assert "DeepSpeed's pickles" in caplog.text
    plain = load_file(tmp_path / "full" / "model.safetensors")
    assert plain.keys() == gathered.keys()
    assert all(torch.equal(plain[name], gathered[name]) for name in gathered)
    kept = exported(checkpoint, tmp_path / "kept")
    assert kept.dtype == json.loads((checkpoint / "derta_config.json").read_text())["dtype"] == "float32"
    half = exported(checkpoint, tmp_path / "half", dtype=Dtype.bfloat16)
    assert half.dtype == "bfloat16" and half.difference <= half.tolerance
    shutil.move(checkpoint, tmp_path / "checkpoint-2")
    with pytest.raises(InputError, match=r"only from a complete checkpoint inside a run"):
        exported(tmp_path / "checkpoint-2", tmp_path / "foreign")


def test_what_cannot_be_exported(adapter_run: Path, model_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for settings, message in [
        ({"source": str(tmp_path / "none"), "output": str(tmp_path / "o")}, "no such directory"),
        ({"source": str(tmp_path / "there"), "output": str(tmp_path / "o")}, "holds no model, no adapter"),
        ({"source": str(adapter_run), "output": str(tmp_path / "there")}, "exists"),
        ({"source": str(model_dir), "output": str(tmp_path / "o"), "base": str(model_dir)}, "is no adapter"),
    ]:
        with pytest.raises(InputError, match=message):
            export(ExportConfig(**settings))
