"""launch/durability.py on a real (untrained) miniature model: later steps with TRL, a LoRA delta scaled, curves."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from derta.config.durability import DurabilityRunConfig
from derta.config.evaluation import EvaluationConfig, JudgeName, PromptSetConfig
from derta.config.model import ModelConfig
from derta.errors import InputError
from derta.miniature.model import write_fresh_model
from derta.report.later import Axis, later_points
from derta.report.runs import load_runs
from derta.storage.json_lines import write_lines
from derta.sweep.durability import run_durability, scaled_adapter

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model, adapter (of the model) and rows.jsonl: three helpful rows, which are evaluated, too."""
    place = tmp_path_factory.mktemp("durability")
    write_fresh_model(place / "model", seed=0)
    model = AutoModelForCausalLM.from_pretrained(place / "model")
    torch.manual_seed(0)
    settings = peft.LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    peft.get_peft_model(model, settings).save_pretrained(place / "adapter")
    texts = {name: [{"role": role, "content": name}] for name, role in (("hello", "user"), ("mild tea", "assistant"))}
    row = {"source": "helpful", "kind": "helpful", "prompt": texts["hello"], "chosen": texts["mild tea"]}
    write_lines(place / "rows.jsonl", [{**row, "id": f"row-{i}", "rejected": None} for i in range(3)])
    return place


def configured(place: Path, output: str, model: str = "model", **settings) -> DurabilityRunConfig:
    sets = {
        "harmful": PromptSetConfig(harmful=True, path=str(place / "harmful.jsonl")),
        "benign": PromptSetConfig(path=str(place / "rows.jsonl")),
    }
    write_lines(place / "harmful.jsonl", [{"id": f"h{i}", "prompt": "a request"} for i in range(2)])
    known = dict(steps=[1, 2], batch_size=2, helpful=str(place / "rows.jsonl"), learning_rate=1e-3, label="arm")
    return DurabilityRunConfig(
        model=ModelConfig(name_or_path=str(place / model)),
        eval=EvaluationConfig(sets=sets, judge=JudgeName.refusal_phrases, max_new_tokens=4, probability=False),
        output_dir=str(place / output),
        **(known | settings),
    )


def test_later_steps_are_evaluated_once_and_their_models_are_deleted(place):
    config = configured(place, "steps")
    said = run_durability(config)
    root = place / "steps"
    assert "arm, 2 steps" in said and not (root / "models").exists()
    runs = load_runs([str(root / name) for name in ("before", "after-1", "after-2")])
    points = later_points(runs, Axis.steps)["arm"]
    assert [(at, run.name) for at, (run,) in points.items()] == [(0, "before"), (1, "after-1"), (2, "after-2")]
    assert len({run.summary.identity.model.sha256 for run in runs}) == 3  # every step has changed the weights
    assert (root / "later_steps.png").is_file() and 'id="later"' in (root / "report.html").read_text()
    made = {file: file.stat().st_mtime_ns for file in root.glob("*/results.jsonl")}
    run_durability(config)
    assert made == {file: file.stat().st_mtime_ns for file in root.glob("*/results.jsonl")}
    # A run of two steps alone, on the evaluation that is there, comes to the same weights as one that stopped at 1.
    kept = configured(place, "kept", steps=[2], keep_models=True, before=str(root / "before"), label=None)
    run_durability(kept)
    assert not (place / "kept" / "before").exists()
    after = load_runs([str(place / "kept" / "after-2")])[0].summary
    assert after.identity.model == points[2][0].summary.identity.model and after.label == "arm, 2 steps"
    tuned, before = (load_file(folder / WEIGHTS) for folder in (place / "kept" / "models" / "after-2", place / "model"))
    # AdamW's first steps move a weight by the learning rate, or not at all.
    moved = max(float((tuned[name] - before[name]).abs().max()) for name in tuned)
    assert 1e-3 < moved < 2.01e-3


def test_an_adapter_is_scaled_down_to_its_base(place):
    run_durability(configured(place, "scales", "adapter", steps=[], lora_scales=[1.0, 0.5, 0.0]))
    runs = load_runs([str(place / "scales" / name) for name in ("before", "scale-0.5", "scale-0")])
    assert list(later_points(runs, Axis.scale)["arm"]) == [0.0, 0.5, 1.0]
    assert not later_points(runs, Axis.steps) and not (place / "scales" / "later_steps.png").exists()
    scaled_adapter(place / "adapter", 0.25, place / "quarter")
    ids = torch.arange(8)[None]

    def weight(adapter: str) -> torch.Tensor:
        base = AutoModelForCausalLM.from_pretrained(place / "model")
        merged = peft.PeftModel.from_pretrained(base, str(place / adapter)).merge_and_unload()
        assert torch.isfinite(merged(ids).logits).all()
        return merged.get_parameter("model.layers.0.self_attn.q_proj.weight").detach()

    base = load_file(place / "model" / WEIGHTS)["model.layers.0.self_attn.q_proj.weight"]
    torch.testing.assert_close(weight("quarter") - base, (weight("adapter") - base) / 4)


def test_what_no_factor_scales_and_other_work_are_refused(place):
    model = AutoModelForCausalLM.from_pretrained(place / "model")
    settings = peft.LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"])
    peft.get_peft_model(model, settings).save_pretrained(place / "more")
    with pytest.raises(InputError, match="holds more than LoRA deltas"):
        scaled_adapter(place / "more", 0.5, place / "none")
    assert not (place / "none").exists()
    config = configured(place, "steps")
    with pytest.raises(InputError, match="another study of durability(.|\n)*tuning.seed: 0 there, 1 here"):
        run_durability(replace(config, seed=1))
    other = replace(config, before=str(place / "steps" / "after-1"), output_dir=str(place / "new"))
    with pytest.raises(InputError, match="before=.* is another evaluation(.|\n)*model.sha256"):
        run_durability(other)
    (place / "harmful rows.jsonl").write_text(json.dumps({"question": "a request"}) + "\n")
    for data, words in (("harmful rows.jsonl", "no helpful rows"), ("nowhere.jsonl", "helpful=.*nowhere.jsonl")):
        with pytest.raises(InputError, match=words):
            run_durability(replace(config, helpful=str(place / data)))
    assert not (place / "new").exists()
    assert DurabilityRunConfig(model=ModelConfig(name_or_path="m")).problems()[-1].startswith("helpful is empty")
