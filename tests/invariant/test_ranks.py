"""Same data, seed and global batch: same losses, however the batch is split over ranks, accumulation and ZeRO stages.

Every case is launch/train.py with real arguments; all of them share one torchrun of two ranks (see launch_cases.py).
While they train, all but the last few measure P(refusal) on held-out rows, which must not depend on the split either.
"""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

LAUNCHER = Path(__file__).with_name("launch_cases.py")
EVALUATION = Path(__file__).with_name("evaluation_case.py")

STEPS, GLOBAL_BATCH = 5, 8
ADAPTER = "adapter_model.safetensors"
TOLERANCE = 1e-5

ABLATION = [
    "trainer.eval_steps=0",
    "objective.ablation.probability=0.5",
    "objective.ablation.refresh_steps=2",
    "objective.ablation.positions=[-1,-2]",
    "objective.ablation.prompts=3",
]
LORA = ["peft=lora", "peft.r=4", "peft.dropout=0.0", "trainer.eval_steps=0"]
FLATTENED, VARLEN = ["trainer.padding_free=true"], "model.attn_implementation=varlen"
PICKLES = "trainer.resume_despite=[pickles]"
# name: (ranks, micro batch, further arguments); accumulation follows from the global batch of 8.
CASES: dict[str, tuple[int, int, list[str]]] = {
    "1x8": (1, 8, []),
    "8x1 accumulation": (1, 1, []),
    "flattened": (1, 8, FLATTENED),
    "2 ranks x 4": (2, 4, ["trainer.save_steps=3"]),
    "2 ranks x 4 flattened, 2 workers": (2, 4, [*FLATTENED, "trainer.num_workers=2"]),
    "2 ranks x 1 x 4 accumulation": (2, 1, []),
    "ZeRO-2": (2, 4, ["distributed=zero2"]),
    "ZeRO-2, 2 accumulation": (2, 2, ["distributed=zero2"]),
    "ZeRO-3": (2, 4, ["distributed=zero3"]),
    "ZeRO-3 flattened, 2 accumulation": (2, 2, ["distributed=zero3", *FLATTENED, VARLEN]),
    "FSDP2": (2, 4, ["distributed=fsdp2", "trainer.save_steps=3"]),
    "FSDP2 flattened, checkpointing, 2 accumulation": (
        2, 2, ["distributed=fsdp2", *FLATTENED, VARLEN, "trainer.gradient_checkpointing=true"],
    ),
    "2 ranks, resumed": (2, 4, ["trainer.resume={2 ranks x 4}/checkpoint-3"]),
    "FSDP2, resumed": (2, 4, ["distributed=fsdp2", "trainer.resume={FSDP2}/checkpoint-3", PICKLES]),
    "1x8, no probe": (1, 8, ["trainer.eval_steps=0"]),
    "2 ranks x 4, no probe": (2, 4, ["trainer.eval_steps=0"]),
    "ZeRO-3, no probe": (2, 4, ["trainer.eval_steps=0", "distributed=zero3"]),
}  # fmt: skip
SPLIT = [name for name in CASES if name != "1x8" and "resumed" not in name and "no probe" not in name]
KINDS = {
    "ablation": ABLATION,
    "reset_rto": ["trainer.eval_steps=0", "objective=reset_rto", "objective.reset_token='^'"],
    "constrained": ["trainer.eval_steps=0", "objective=constrained"],
    "door": ["trainer.eval_steps=0", "objective=door"],
    "w_door": ["trainer.eval_steps=0", "objective=w_door", "objective.weight_model={other model}"],
}
for kind, words in KINDS.items():
    CASES |= {
        kind: (1, 8, words),
        f"{kind}, 2 ranks x 2 accumulation": (2, 2, [*words, "trainer.save_steps=3"]),
        f"{kind}, ZeRO-3 flattened": (2, 4, [*words, "distributed=zero3", *FLATTENED]),
        f"{kind}, resumed": (2, 2, [*words, f"trainer.resume={{{kind}, 2 ranks x 2 accumulation}}/checkpoint-3"]),
    }
OPT = ["model.name_or_path={OPT model}", "trainer.eval_steps=0", "trainer.max_steps=2"]
CASES |= {
    "OPT": (1, 8, OPT),
    "OPT, FSDP2": (2, 4, [*OPT, "distributed=fsdp2"]),
    "LoRA": (1, 8, LORA),
    "LoRA, FSDP2": (2, 2, [*LORA, "distributed=fsdp2", "trainer.save_steps=3"]),
    "LoRA, FSDP2, resumed": (2, 2, [*LORA, "distributed=fsdp2", "trainer.resume={LoRA, FSDP2}/checkpoint-3", PICKLES]),
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def runs(tmp_path_factory, llama3_tokenizer, tiny_model, mixed_rows) -> dict[str, Path]:
    """Output directory per case. 11 training rows (4 triples, 3 helpful rows): an epoch is two steps, the second of
    which is filled up with rows that have been; a batch of half the size would make other epochs of them."""
    folder = tmp_path_factory.mktemp("ranks")
    for place, family, seed in (("model", "llama", 0), ("opt", "opt", 0), ("other", "llama", 3)):
        llama3_tokenizer.save_pretrained(folder / place)
        tiny_model(family, len(llama3_tokenizer), seed=seed).save_pretrained(folder / place)
    rows = [row for row in mixed_rows if row["id"] != "helpful-3"]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    probe = [{**row, "prompt": [{"role": "user", "content": f"another request {row['id']}"}]} for row in mixed_rows[:7]]
    (folder / "probe.jsonl").write_text("".join(json.dumps(row) + "\n" for row in probe), encoding="utf-8")
    outputs = {name: folder / f"run-{number}" for number, name in enumerate(CASES)}
    outputs |= {"other model": folder / "other", "OPT model": folder / "opt"}
    cases = []
    for name, (ranks, micro, further) in CASES.items():
        arguments = [
            "model=custom",
            "optim=miniature",
            "trainer=miniature",
            f"model.name_or_path={folder / 'model'}",
            "data=custom",
            f"data.path={folder / 'rows.jsonl'}",
            "data.format=preference",
            "data.max_length=100",
            "objective.rto_dropout=0.3",
            "objective.rto_weight=1.5",
            "objective.normalization=per_objective",
            "optim.learning_rate=3e-3",
            "optim.scheduler=constant",
            "optim.warmup=0",
            f"trainer.global_batch_size={GLOBAL_BATCH}",
            f"trainer.micro_batch_size={micro}",
            f"trainer.max_steps={STEPS}",
            "trainer.logging_steps=1",
            "trainer.eval_steps=2",
            f"probe.path={folder / 'probe.jsonl'}",
            "logging.wandb_mode=disabled",
            f"output_dir={outputs[name]}",
            *(re.sub(r"\{(.*)\}", lambda named: str(outputs[named[1]]), argument) for argument in further),
        ]
        cases.append({"ranks": ranks, "port": free_port(), "arguments": arguments})
    for ranks in (1, 2):
        outputs[f"evaluation on {ranks}"] = folder / f"evaluation-{ranks}.json"
        arguments = [str(folder / "model"), str(folder / "rows.jsonl"), str(outputs[f"evaluation on {ranks}"])]
        cases.append({"ranks": ranks, "port": free_port(), "script": str(EVALUATION), "arguments": arguments})
    (folder / "cases.json").write_text(json.dumps(cases), encoding="utf-8")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port"]
    finished = subprocess.run(
        [*torchrun, str(free_port()), str(LAUNCHER), str(folder / "cases.json")],
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, timeout=560,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stdout[-3000:] + finished.stderr[-6000:]
    return outputs


def lines_of(output: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def curve(output: Path, key: str) -> dict[int, float]:
    return {line["step"]: line[key] for line in lines_of(output) if key in line}


def probe_lines(output: Path) -> list[dict[str, float]]:
    """The measurements, without their cost."""
    lines = [line for line in lines_of(output) if "probe/seconds" in line]
    return [{key: line[key] for key in line if key not in ("probe/seconds", "probe/share_of_time")} for line in lines]


def steps_after_3(output: Path, key: str) -> dict[int, float]:
    return {step: value for step, value in curve(output, key).items() if step > 3}


@pytest.mark.parametrize("name", SPLIT)
def test_same_losses_and_curves(name, runs, record_property):
    """Gradient norm before clipping, both objectives and their token counts, over all ranks."""
    expected, found = curve(runs["1x8"], "loss"), curve(runs[name], "loss")
    assert list(expected) == list(found) == [1, 2, 3, 4, 5]
    assert max(expected.values()) - min(expected.values()) > 0.5  # the weights have moved: there is something to miss
    deviation = max(abs(expected[step] - found[step]) for step in expected)
    record_property("deviation", deviation)
    assert deviation < TOLERANCE
    for key in ("mle_tokens", "rto_tokens", "num_tokens"):
        assert curve(runs[name], key) == curve(runs["1x8"], key)
    for key in ("grad_norm", "mle_loss", "rto_loss", "refusal_prob", "mle_token_accuracy"):
        assert curve(runs[name], key) == pytest.approx(curve(runs["1x8"], key), rel=1e-4), key


@pytest.mark.parametrize(("name", "again"), [("2 ranks x 4", "2 ranks, resumed"), ("FSDP2", "FSDP2, resumed")])
def test_two_ranks_resumed_in_mid_epoch(name, again, runs):
    """From the checkpoint after step 3, in the second epoch: the same steps to the last bit, and the same weights."""
    whole, resumed = runs[name], runs[again]
    for key in ("loss", "grad_norm", "rto_tokens", "rto_loss"):
        assert curve(resumed, key) == steps_after_3(whole, key)
    assert (resumed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    lines = probe_lines(resumed)
    assert [line["step"] for line in lines] == [4, 5] and lines == probe_lines(whole)[2:]


@pytest.mark.parametrize("name", SPLIT)
def test_same_probe(name, runs):
    """7 rows for micro-batches of 1 to 8 on one or two ranks: the last one is filled up, and nothing counts twice."""
    expected, found = probe_lines(runs["1x8"]), probe_lines(runs[name])
    assert [line["step"] for line in expected] == [line["step"] for line in found] == [0, 2, 4, 5]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.keys() == theirs.keys()
        assert (ours["probe/rows_harmful"], ours["probe/rows_benign"]) == (4, 3)
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-7)
    assert found[-1]["probe/refusal_prob_harmful"] > 2 * found[0]["probe/refusal_prob_harmful"]  # it has learned


@pytest.mark.parametrize("name", ["1x8", "2 ranks x 4", "ZeRO-3"])
def test_training_does_not_notice_the_probe(name, runs):
    """The same losses and, to the last bit, the same weights as without it."""
    measured, alone = runs[name], runs[f"{name}, no probe"]
    assert len(probe_lines(measured)) == 4 and probe_lines(alone) == []
    assert curve(measured, "loss") == curve(alone, "loss")
    assert (measured / "model.safetensors").read_bytes() == (alone / "model.safetensors").read_bytes()


@pytest.mark.parametrize("split", ["2 ranks x 2 accumulation", "ZeRO-3 flattened"])
@pytest.mark.parametrize("kind", KINDS)
def test_other_ways_to_train(kind, split, runs):
    """The same rows are ablated, of the same direction, whichever rank computes it and whatever shards the weights; and
    the reference of the arms that have one is the same."""
    expected, found = curve(runs[kind], "loss"), curve(runs[f"{kind}, {split}"], "loss")
    assert max(abs(expected[step] - found[step]) for step in expected) < TOLERANCE
    assert curve(runs[f"{kind}, {split}"], "grad_norm") == pytest.approx(curve(runs[kind], "grad_norm"), rel=1e-4)
    assert any(abs(loss - curve(runs["1x8"], "loss")[step]) > 1e-3 for step, loss in expected.items())


def test_a_head_in_a_group_of_its_own(runs):
    """FSDP2 gathers OPT's head with no norm before it. A fused head that gathered it itself would lose the gradients of
    other ranks without a word."""
    for key in ("loss", "grad_norm"):
        assert curve(runs["OPT, FSDP2"], key) == pytest.approx(curve(runs["OPT"], key), rel=1e-5)


def test_adapters_under_fsdp2(runs):
    """They are trained and resumed as on one rank, and saved whole."""
    one, sharded, resumed = runs["LoRA"], runs["LoRA, FSDP2"], runs["LoRA, FSDP2, resumed"]
    for key in ("loss", "grad_norm"):
        assert curve(sharded, key) == pytest.approx(curve(one, key), rel=1e-5)
        assert curve(resumed, key) == steps_after_3(sharded, key)
    found, expected = (load_file(run / ADAPTER) for run in (sharded, one))
    assert found.keys() == expected.keys() and len(found) == 2 * 7 * 2
    for name, weight in found.items():
        assert torch.allclose(weight, expected[name], atol=1e-5), name
    assert sharded.joinpath(ADAPTER).read_bytes() == resumed.joinpath(ADAPTER).read_bytes()


def test_a_model_of_fsdp2_loads_anywhere(runs):
    """Its final model is that of one rank, and so is every checkpoint's; each rank has written about half of the other
    files: nobody held the whole optimizer state."""
    expected = AutoModelForCausalLM.from_pretrained(runs["1x8"]).state_dict()
    found, loaded = AutoModelForCausalLM.from_pretrained(runs["FSDP2"], output_loading_info=True)
    assert not loaded["missing_keys"] and not loaded["unexpected_keys"]
    for name, weight in found.state_dict().items():
        assert torch.allclose(weight, expected[name], atol=1e-4), name
    AutoModelForCausalLM.from_pretrained(runs["FSDP2"] / "checkpoint-3")
    for part in ("pytorch_model_fsdp_0", "optimizer_0"):
        one, two = (path.stat().st_size for path in sorted((runs["FSDP2"] / "checkpoint-3" / part).glob("*.distcp")))
        assert one == pytest.approx(two, rel=0.3)


@pytest.mark.parametrize("kind", KINDS)
def test_other_ways_resumed_on_two_ranks(kind, runs):
    whole, resumed = runs[f"{kind}, 2 ranks x 2 accumulation"], runs[f"{kind}, resumed"]
    assert curve(resumed, "loss") == steps_after_3(whole, "loss")
    assert (resumed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_evaluation_counts_every_row_once(runs):
    """19 table rows on two ranks in batches of 4: what fills the last ones up does not count."""
    one, two = (json.loads(runs[f"evaluation on {ranks}"].read_text(encoding="utf-8")) for ranks in (1, 2))
    assert one.keys() == two.keys() and {"padded", "flattened"} == one.keys()
    for kind in one:
        for key in ("eval_mle_tokens", "eval_rto_tokens", "eval_num_tokens"):
            assert one[kind][key] == two[kind][key] == one["padded"][key], key
        for key in ("eval_loss", "eval_mle_loss", "eval_rto_loss", "eval_refusal_prob", "eval_mle_token_accuracy"):
            assert two[kind][key] == pytest.approx(one[kind][key], rel=1e-5), key
