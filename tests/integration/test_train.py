"""Runs of launch/train.py: every arm, LoRA, ZeRO-3, accelerate; what a finished run leaves behind."""

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from training_cases import TRAIN, contents, metrics, says_text, triple, write_rows
from transformers import AutoModelForCausalLM, AutoTokenizer

from derta.config.export import ExportConfig
from derta.errors import InputError
from derta.release.export import export


@pytest.fixture(scope="module")
def derta_run(train: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("arms") / "derta", "objective=derta")


def test_what_a_run_leaves(derta_run: Path, model_dir: Path, data_dir: Path) -> None:
    """A whole model that loads and generates, no pickle, nothing of W&B; and what it was taught, on which data."""
    names = {path.name for path in derta_run.iterdir()}
    assert names == {
        "README.md", "chat_template.jinja", "config.json", "config.yaml", "derta_config.json", "finished.json",
        "generation_config.json", "metrics.jsonl", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    assert (derta_run / "model.safetensors").stat().st_mode & 0o444 == 0o444, "readable by others"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(derta_run), AutoTokenizer.from_pretrained(derta_run)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hello"}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    generated = model.generate(**prompt, max_new_tokens=5, do_sample=False)
    assert generated.shape[1] > prompt["input_ids"].shape[1] and type(model).__name__ == "LlamaForCausalLM"
    before, after = load_file(model_dir / "model.safetensors"), load_file(derta_run / "model.safetensors")
    assert before.keys() == after.keys() and not torch.equal(before["lm_head.weight"], after["lm_head.weight"])

    config = yaml.safe_load((derta_run / "config.yaml").read_text())
    manifest = json.loads((data_dir / "manifest.json").read_text())
    assert config["objective"]["name"] == "derta" and config["trainer"]["max_steps"] == 3
    assert config["run"]["data_sha256"] == manifest["outputs"]["train.parquet"]["sha256"]
    assert config["run"]["world_size"] == 1 and config["run"]["packages"]["torch"] == torch.__version__
    assert all(version[0].isdigit() for version in config["run"]["packages"].values())
    stored = json.loads((derta_run / "derta_config.json").read_text())
    ids = [stored["refusal_token"][name] for name in ("start_id", "continued_id")]
    assert tokenizer.convert_ids_to_tokens(ids) == ["Sorry", "ĠSorry"]
    assert stored["rows"]["mle_rows"] == 48 and stored["rows"]["rto_rows"] == 24

    card = ModelCard.load(derta_run / "README.md")
    assert {"derta", "trl"} <= set(card.data.tags)
    assert card.data.base_model is None, "a local path means nothing to others"
    trained = ("Base model: tiny, a local model", "3 steps of 4 rows", "learning rate ", "epochs), ", "seed 42")
    data = ("| fiction |", "cc0-1.0", config["run"]["data_sha256"])
    for expected in ("2407.09121", "Known limits", "Over-refusal", "Sorry", *data, *trained):
        assert expected in card.text


def test_the_final_model_has_the_precision_of_its_base(train, model_dir, tmp_path, caplog):
    """A bfloat16 base is trained as float32 without DeepSpeed; checkpoints keep that, the final model does not."""
    base = tmp_path / "base"
    AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.bfloat16).save_pretrained(base)
    AutoTokenizer.from_pretrained(model_dir).save_pretrained(base)

    def precision(folder: Path) -> tuple[set[torch.dtype], str]:
        weights = load_file(folder / "model.safetensors")
        return {weight.dtype for weight in weights.values()}, json.loads((folder / "config.json").read_text())["dtype"]

    caplog.set_level("INFO")
    run = train(tmp_path / "run", f"model.name_or_path={base}", "trainer.save_steps=2", "trainer.global_batch_size=7",
                "trainer.micro_batch_size=7")  # fmt: skip
    said = "precision: computes in float32, holds weights in float32, saves the final model in bfloat16"
    assert said in caplog.text and "an epoch is 72 rows in 11 steps of 7: the last step repeats 5 rows" in caplog.text
    assert precision(run) == ({torch.bfloat16}, "bfloat16")
    assert precision(run / "checkpoint-2") == ({torch.float32}, "float32")
    export(ExportConfig(source=str(run / "checkpoint-2"), output=str(tmp_path / "exported")))
    assert precision(tmp_path / "exported") == ({torch.bfloat16}, "bfloat16")
    asked = train(tmp_path / "asked", f"model.name_or_path={base}", "model.dtype=float32", "trainer.max_steps=1")
    assert precision(asked) == ({torch.float32}, "float32")


def test_metrics_jsonl_has_a_line_per_step_and_a_summary(derta_run: Path) -> None:
    *steps, summary = metrics(derta_run)
    assert [line["step"] for line in steps] == [1, 2, 3]
    assert "train_runtime" in summary
    for line in steps:
        expected = {"loss", "grad_norm", "learning_rate", "mle_tokens", "rto_tokens", "tokens_per_second", "epoch"}
        assert expected | {"truncated_share", "dropped_share"} <= line.keys()
    both = [line for line in steps if line["rto_tokens"] and line["mle_tokens"]]
    assert both and all({"mle_loss", "rto_loss", "refusal_prob"} <= line.keys() for line in both)
    for line in both:  # one weighted mean over the tokens of the step
        tokens = line["mle_tokens"] + line["rto_tokens"]
        mean = (line["mle_loss"] * line["mle_tokens"] + line["rto_loss"] * line["rto_tokens"]) / tokens
        assert line["loss"] == pytest.approx(mean, rel=1e-5)


@pytest.mark.parametrize("arm", ["vanilla", "harmful_prefix", "rto", "dpo"])
def test_every_arm_is_one_override_away(arm: str, train: Callable[..., Path], tmp_path: Path) -> None:
    run = train(tmp_path / arm, f"objective={arm}", "logging.peak_flops=1e10")
    stored = json.loads((run / "derta_config.json").read_text())
    assert stored["objective"] == arm
    losses = [line["loss"] for line in metrics(run) if "loss" in line]
    assert len(losses) == 3 and all(isinstance(loss, float) for loss in losses)
    has_rto = any(line.get("rto_tokens") for line in metrics(run))
    assert has_rto == (arm == "rto")
    rates = {"padding_share", "tokens_per_second", "supervised_tokens_per_second", "mfu"}
    assert all(rates <= line.keys() for line in metrics(run) if "loss" in line)
    card = (run / "README.md").read_text()
    assert f"`{arm}`" in card and "cc0-1.0" in card and "Known limits" in card
    AutoModelForCausalLM.from_pretrained(run)
    assert not [name for name, data in contents(run).items() if says_text(data)]


def test_dpo_on_raw_text(train: Callable[..., Path], tmp_path: Path) -> None:
    """Alone and beside conversations. Before the first update policy and reference agree, so DPO's loss is log 2."""
    raw = {"prompt": "Q: zorblat\nA:", "chosen": " Sorry, quixlet.", "rejected": " Sure, vexmorn."}
    overrides = ("objective=dpo", "data.format=preference", "optim.warmup=0", "trainer.max_steps=1")
    rows = write_rows(tmp_path / "raw.jsonl", [raw] * 4)
    run = train(tmp_path / "dpo", *overrides, f"data.path={rows}")
    assert metrics(run)[0]["loss"] == pytest.approx(0.693147, abs=1e-4)
    rows = write_rows(tmp_path / "mixed.jsonl", [triple(0), raw, raw, triple(1)])
    run = train(tmp_path / "mixed", *overrides, f"data.path={rows}")
    assert json.loads((run / "derta_config.json").read_text())["rows"]["pairs"] == 4


def test_dpo_trains_on_the_tokens_of_the_other_arms(tiny_model, llama3_tokenizer, mixed_rows, tmp_path):
    """And these are TRL's own, less what the template writes behind the end of a turn."""
    from datasets import Dataset
    from trl import DPOTrainer

    from derta.data.load import LoadedRows
    from derta.training.dataset import tokenize_table
    from derta.training.dpo import PairConfig, make_dpo_trainer

    triples = Dataset.from_list([row for row in mixed_rows if row["rejected"]])
    args = PairConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to=[], max_length=256)
    tokenizer = copy.deepcopy(llama3_tokenizer)
    tokenizer.chat_template += "{{ '\n' if not add_generation_prompt }}"
    common = {"args": args, "processing_class": tokenizer}
    model, reference = (tiny_model("llama", len(tokenizer)) for _ in range(2))
    rows = LoadedRows(triples, "", None)
    ours = make_dpo_trainer(model, reference, rows, drop_long_prompts=False, **common).train_dataset
    theirs = DPOTrainer(model, reference, train_dataset=triples, **common).train_dataset
    own = tokenize_table(triples, tokenizer, None)
    (behind,) = tokenizer.encode("\n", add_special_tokens=False)
    for column in ("prompt_ids", "chosen_ids", "rejected_ids"):
        assert ours[column] == own[column]
        assert theirs[column] == [ids + [behind] * (column != "prompt_ids") for ids in own[column]]


def test_dpo_refuses_merged_tokens_without_the_prompt(train: Callable[..., Path], tmp_path: Path) -> None:
    raw = {"prompt": "Q: zorblat\nA: Sor", "chosen": "ry, quixlet.", "rejected": "ry, vexmorn."}
    rows = write_rows(tmp_path / "raw.jsonl", [raw] * 2)
    with pytest.raises(InputError, match="row raw-.*share a token") as caught:
        train(tmp_path / "dpo", "objective=dpo", "data.format=preference", f"data.path={rows}", "trainer.max_steps=1")
    assert "zorblat" not in str(caught.value) and "Sor" not in str(caught.value)


def test_rows_straight_from_a_file_under_an_odd_path(train, rows_file, tmp_path, derta_run):
    """Paths with blanks, commas and other alphabets; the rows are those of the built dataset."""
    odd = tmp_path / "a b, c=d é 日本"
    odd.mkdir()
    rows = odd / "rows = 1, 2.jsonl"
    rows.write_bytes(rows_file.read_bytes())
    run = train(
        tmp_path / "unused", f'output_dir="{odd / "run, one"}"', "data.format=preference", f'data.path="{rows}"',
        "trainer.max_steps=1",
    )  # fmt: skip
    assert run == odd / "run, one" and (run / "model.safetensors").is_file()
    stored, built = (json.loads((place / "derta_config.json").read_text()) for place in (run, derta_run))
    assert stored["rows"] == built["rows"]


def test_accelerate_launch_trains_the_same(command, arguments, tmp_path, derta_run):
    result = command(
        "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", "--num_machines", "1", "--mixed_precision",
        "no", "--dynamo_backend", "no", TRAIN, *arguments("accelerated"),
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    ours, theirs = load_file(derta_run / "model.safetensors"), load_file(tmp_path / "accelerated/model.safetensors")
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-6) for name in ours)
    assert not says_text(result.stdout + result.stderr)


def test_lora_under_zero3_on_two_ranks_saves_a_full_adapter(start_two, tmp_path, rows_file):
    """And measures P(refusal) while it trains: 3 + 3 rows in batches of 2 on two ranks, the last of them half empty."""
    overrides = [
        "peft=lora", "peft.r=4", "distributed=zero3", "trainer.micro_batch_size=2", "optim.learning_rate=1e-2",
        "trainer.gradient_checkpointing=true",
    ]  # fmt: skip
    rows = [json.loads(line) for line in rows_file.read_text().splitlines()]
    for row in rows:
        row["prompt"][-1]["content"] += " please"  # prompts that are not trained on
    held_out = write_rows(tmp_path / "held_out.jsonl", rows)
    overrides += ["trainer.eval_steps=2", f"probe.path={held_out}", "probe.rows=3"]
    launch = start_two(tmp_path / "zero3", *overrides)
    assert launch.wait() == [0, 0], launch.output
    weights = load_file(tmp_path / "zero3" / "adapter_model.safetensors")
    b_weights = [weight for name, weight in weights.items() if "lora_B" in name]
    assert (len(weights), len(b_weights)) == (28, 14)  # seven modules in two layers
    assert all(weight.numel() > 0 and weight.abs().sum() > 0 for weight in b_weights), "B starts at zero"
    assert (tmp_path / "zero3" / "finished.json").is_file()
    lines = metrics(tmp_path / "zero3")
    probes = [line for line in lines if "probe/seconds" in line]
    assert [line["step"] for line in lines if line not in probes] == [1, 2, 3, 3]
    assert [line["step"] for line in probes] == [0, 2, 3]
    assert {(line["probe/rows_harmful"], line["probe/rows_benign"]) for line in probes} == {(3, 3)}
    assert all(0 < line["probe/refusal_prob_harmful"] < 1 for line in probes)
