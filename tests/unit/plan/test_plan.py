"""Plans: what is proposed, durations by hand, the table and the JSON."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from planned import FULL, LORA, composed, memory, settings

from derta.config import Arm
from derta.config.compose import read
from derta.config.plan import Device, PlanRunConfig
from derta.data.build import rows_to_table
from derta.data.manifest import describe_output
from derta.data.schema import Row
from derta.errors import InputError
from derta.models.devices import GPUS
from derta.plan.duration import Rows, count_rows, flops_per_token, plan_duration, training_rows
from derta.plan.memory import disk_bytes, host_bytes
from derta.plan.plan import make_plan, render
from derta.plan.propose import propose
from derta.plan.shape import ModelShape
from derta.storage.read_files import sha256_of


def test_model_states_of_8b_by_hand(full: ModelShape) -> None:
    """ZeRO paper, figure 1, with 16-bit gradients: 2 P + 2 P + 12 P / 8, and so on."""
    p = 8_030_261_248
    for strategy, weights, gradients in [("zero1", 2 * p, 2 * p), ("zero2", 2 * p, p / 4), ("zero3", p / 4, p / 4)]:
        states = memory(full, FULL, f"distributed={strategy}")
        assert states.weights == pytest.approx(weights, rel=1e-3)  # ZeRO-3 keeps the norms whole
        assert (states.gradients, states.optimizer) == (gradients, 1.5 * p)
    states = memory(full, FULL, "distributed=fsdp2")
    assert (states.weights, states.gradients, states.optimizer) == (p // 2, p // 2, p)  # float32, an eighth of each
    states = memory(full, FULL, "distributed=none")
    assert (states.weights, states.gradients, states.optimizer) == (4 * p, 4 * p, 8 * p)


def test_dpo_holds_a_second_model_and_twice_the_rows(full: ModelShape) -> None:
    one, other = (memory(full, FULL, f"objective={arm}", "trainer.micro_batch_size=2") for arm in ("derta", "dpo"))
    assert (one.reference, other.reference) == (0, one.weights)
    assert other.activations == 2 * one.activations


def test_rows_are_padded_where_training_pads_them(full: ModelShape) -> None:
    for word, keys in (("model.dtype=auto", 0), ("model.dtype=float32", 1024), ("objective=dpo", 1024)):
        assert settings(full, FULL, "data.max_length=1024", word).keys == keys


def test_offload_moves_states_to_the_host(full: ModelShape) -> None:
    here, there = (memory(full, FULL, f"distributed={name}") for name in ("zero3", "zero3_offload"))
    assert there.optimizer == there.gradients == 0 and there.peak < here.peak
    assert there.host == here.weights + here.gradients + here.optimizer + here.fp32_gradients
    assert host_bytes(full, settings(full, FULL, "distributed=zero3_offload"), there, 8)["offload"] == 8 * there.host


def test_a_host_reads_the_model_once_under_zero3(full: ModelShape) -> None:
    for strategy, copies, weight in [("zero3", 1, 2), ("fsdp2", 1, 4), ("zero2", 8, 2)]:
        words = (FULL, f"distributed={strategy}")
        loading = host_bytes(full, settings(full, *words), memory(full, *words), 8)["loading"]
        assert loading == copies * weight * full.parameters


def test_an_adapter_s_checkpoint_is_small(full: ModelShape, lora: ModelShape) -> None:
    adapter = disk_bytes(lora, settings(lora, LORA))
    assert adapter == {"model": 2 * lora.trainable, "checkpoint": 14 * lora.trainable}
    whole = disk_bytes(full, settings(full, FULL))
    assert whole == {"model": 2 * full.parameters, "checkpoint": 14 * full.parameters}


def test_rows_steps_and_hours_by_hand(full: ModelShape) -> None:
    config = composed(FULL, "triples=1000", "helpful=3000", "tokens_per_row=500", "mfu=0.5", "data.path=absent")
    duration = plan_duration(config, full, GPUS[Device.h100], count_rows(config), lora=False)
    assert duration.trained == 1000 * 2 + 3000 and duration.steps == 2 * 40  # 5000 rows, 128 a step, 2 epochs
    assert duration.tokens == 80 * 128 * 500
    flops = 6 * (full.parameters - 128_256 * 4096) + 3 * 2 * 500 * 4096 * 32
    assert duration.flops_per_token == flops == flops_per_token(full, 500, lora=False)
    assert duration.hours == pytest.approx(duration.tokens * flops / (8 * 989e12 * 0.5) / 3600)


def test_arms_make_different_numbers_of_rows() -> None:
    data = Rows(10, 100, 0, "")
    rows = {arm: training_rows(composed(f"objective={arm.value}"), data) for arm in Arm}
    with_rto = dict.fromkeys((Arm.derta, Arm.rto, Arm.reset_rto, Arm.door, Arm.w_door), 120)
    assert rows == with_rto | dict.fromkeys((Arm.vanilla, Arm.harmful_prefix, Arm.reset, Arm.constrained), 110) | {
        Arm.dpo: 10
    }
    more = composed("objective=derta", "objective.mle_copies=2", "objective.transition_copies=3")
    assert training_rows(more, data) == 10 * (2 + 3 + 1) + 100


MESSAGES = {"chosen": "With vinegar.", "rejected": "With a hammer."}
FILES: dict[str, tuple[str, list[dict[str, Any]], tuple[int, int, int]]] = {
    "preference": ("rows.jsonl", [{**MESSAGES, "prompt": f"How is kettle {n} cleaned?"} for n in range(5)], (5, 0, 0)),
    "reference_jsonl": (
        "rows.json",
        [{"prefix": f"a {n}", "text": "b", "safe": "true" if n < 2 else "false"} for n in range(7)],
        (0, 5, 2),
    ),
}


@pytest.mark.parametrize("data_format", FILES)
def test_rows_of_a_file(data_format: str, tmp_path: Path) -> None:
    name, rows, (triples, helpful, harmful) = FILES[data_format]
    file = tmp_path / name
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    counted = count_rows(composed(FULL, f"data.path={file}", f"data.format={data_format}"))
    assert counted == Rows(triples, helpful, harmful, f"counted in {file}")


def test_a_refusal_without_a_harmful_response_is_no_triple(tmp_path: Path) -> None:
    rows: list[Row] = [
        {
            "id": str(n),
            "source": "some",
            "kind": "safety" if n < 4 else "helpful",
            "prompt": [{"role": "user", "content": str(n)}],
            "chosen": [{"role": "assistant", "content": "No."}],
            "rejected": [{"role": "assistant", "content": "Yes."}] if n < 1 else None,
        }
        for n in range(6)
    ]
    pyarrow.parquet.write_table(rows_to_table(rows), tmp_path / "train.parquet")
    outputs = {"train.parquet": describe_output(rows, sha256_of(tmp_path / "train.parquet"), [])}
    (tmp_path / "manifest.json").write_text(json.dumps({"build_key": "", "outputs": outputs}))
    counted = count_rows(composed(FULL, f"data.path={tmp_path}"))
    assert counted == Rows(1, 5, 0, f"counted in {tmp_path}")
    assert training_rows(composed("objective=derta"), counted) == 2 + 5
    assert training_rows(composed("objective=dpo"), counted) == 1


def test_assumed_rows_are_said_to_be_assumed() -> None:
    assumed = count_rows(composed(FULL, "data.path=absent"))
    assert (assumed.triples, assumed.helpful) == (3000, 60_000)
    for expected in ("assumed", "data.path=absent is not there", "data.format", "triples and helpful"):
        assert expected in str(assumed)


def test_a_file_that_training_refuses_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("{}\n")
    with pytest.raises(InputError, match=r"data\.format=preference"):
        count_rows(composed(FULL, f"data.path={tmp_path / 'rows.jsonl'}"))


def test_rows_that_an_arm_cannot_use_are_no_plan() -> None:
    with pytest.raises(InputError, match="objective=dpo finds no row to train on among 0 triples"):
        make_plan(composed(FULL, "triples=0", "helpful=9", "objective=dpo"))


def test_the_proposal_fits_and_is_no_dearer_than_what_was_asked(full: ModelShape, lora: ModelShape) -> None:
    for name, shape in ((FULL, full), (LORA, lora)):
        config = composed(name)
        proposal = propose(config, shape, GPUS[config.device])
        assert memory(shape, name, *proposal.overrides) == proposal.memory
        assert proposal.memory.peak <= GPUS[config.device].usable
        assert composed(name, *proposal.overrides).problems() == []


def test_one_gpu_of_80_gb(full: ModelShape) -> None:
    """Full fine-tuning of 8B takes 16 bytes a parameter, so it fits one GPU with offload alone."""
    words = (FULL, "world_size=1", "distributed=none")
    config = composed(*words)
    assert memory(full, *words).peak > GPUS[config.device].usable
    proposal = propose(config, full, GPUS[config.device])
    assert "distributed=zero3_offload" in proposal.overrides
    assert proposal.host > 14 * full.parameters  # weights, gradients, masters and two moments, all of them
    assert f"and {proposal.host / 2**30:.0f} GiB of host memory on each node" in render(make_plan(config))


@pytest.mark.parametrize(
    ("older", "device"), [("a100_80", Device.a100), ("h100_80", Device.h100), ("h200_141", Device.h200)]
)
def test_older_names_of_gpus_still_answer(older: str, device: Device) -> None:
    assert composed(f"device={older}").device is composed(f"device={device.name}").device is device


def test_more_gpus_where_a_model_does_not_fit(lora: ModelShape) -> None:
    """141 GB of weights in 16 bits, 41 in four."""
    for device, expected in (("a100_80", "peft=qlora"), ("l40s", "world_size=8")):
        config = composed(LORA, "world_size=1", f"device={device}")
        assert propose(config, lora, GPUS[config.device]).overrides[0] == expected


def test_table_and_json(lora: ModelShape, tmp_path: Path) -> None:
    plan = make_plan(composed(LORA))
    text, content = render(plan), json.loads(json.dumps(plan.to_dict()))
    assert "70,553,706,496" not in text and f"{70_553_706_496 + 1_242_562_560:,} parameters" in text
    assert "fits" in text and "assumed: " in text and "distributed=" in text
    assert "asked for: ZeRO-3, LoRA, micro-batch of 8 x 512 tokens, flattened, 2 of them per GPU and step, with" in text
    assert "69.9 usable (79.1 less 1.5 and 10% headroom)" in text and "was not measured" in text
    assert content["rank_bytes"]["peak"] == plan.memory.peak and content["fits"] is True


def test_an_unknown_model_is_refused_with_the_known_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"some/model.*cannot be read.*meta-llama/Meta-Llama-3-8B"):
        make_plan(composed("model=custom", "model.name_or_path=some/model"))


def test_settings_of_a_plan_are_checked_together() -> None:
    words = ["world_size=0", "mfu=2", "triples=0", "helpful=0", "model=llama3_8b", "tokens_per_row=9999"]
    found = "\n".join(read("plan", PlanRunConfig, words)[1])
    for expected in ("world_size=0", "mfu=2", "triples=0 and helpful=0", "tokens_per_row=9999"):
        assert expected in found
