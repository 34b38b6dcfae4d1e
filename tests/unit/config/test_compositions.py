"""Every file under conf/ that a training run can choose composes and is sound."""

from pathlib import Path

import pytest
import yaml

from derta.config import Arm, PeftMethod, TrainRunConfig
from derta.config.compose import primary, read
from derta.config.shipped import CONF_DIR

GROUPS = ("model", "data", "objective", "peft", "distributed", "optim", "trainer", "logging")
CHOICES = [(group, path.stem) for group in GROUPS for path in sorted((CONF_DIR / group).glob("*.yaml"))]
EXPERIMENTS = [path.stem for path in sorted((CONF_DIR / "experiment").glob("*.yaml"))]
# What choices leave to the user.
GIVEN = ["model.name_or_path=org/model", "data.path=rows.jsonl", "objective.weight_model=org/safer"]

KAHAN = ("optim.name=adamw_kahan", "optim.adam_beta2=0.99")
OFFLOADING = "trainer.activation_offloading=true"


def composed(*overrides: str) -> TrainRunConfig:
    return read("train", TrainRunConfig, overrides)[0]


def test_no_group_is_forgotten() -> None:
    groups = {path.name for path in CONF_DIR.iterdir() if path.is_dir()}
    assert groups - {"direction", "eval", "experiment", "hydra"} == set(GROUPS)
    assert len(CHOICES) > 15


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_every_choice_composes_and_is_sound(group: str, choice: str) -> None:
    assert composed(f"{group}={choice}", *GIVEN).problems() == []


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_composes_and_is_sound(experiment: str) -> None:
    config = composed(f"+experiment={experiment}")
    missing = {"model.name_or_path is empty", "data.path is empty"}  # what an experiment leaves to the user
    problems = [problem for problem in config.problems() if not problem.startswith(tuple(missing))]
    assert problems == []


@pytest.mark.parametrize("arm", list(Arm))
@pytest.mark.parametrize("method", list(PeftMethod))
@pytest.mark.parametrize("distributed", ["none", "zero2", "zero3"])
def test_arms_adapters_and_strategies_combine(
    arm: Arm, method: PeftMethod, distributed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    batch = ("trainer.global_batch_size=8", "trainer.micro_batch_size=2")
    config = composed(f"objective={arm.value}", f"peft={method.value}", f"distributed={distributed}", *batch, GIVEN[2])
    assert (config.objective.name, config.peft.method) == (arm, method)
    cut_up = method is PeftMethod.qlora and distributed == "zero3"
    assert [problem[:20] for problem in config.problems()] == (["peft=qlora with ZeRO"] if cut_up else [])


def test_only_the_miniature_has_the_miniature_s_settings() -> None:
    """Learning rates are the paper's: 2e-5, and 1e-4 with LoRA."""
    for words, rate, batch, length, folder in (
        ([], 3e-4, 8, 320, "runs/miniature/derta-seed42"),
        (GIVEN, 2e-5, 128, 1024, "runs/model/derta-seed42"),
        (["model=miniature", *GIVEN], 3e-4, 8, 320, "runs/model/derta-seed42"),
        (["peft=lora"], 3e-4, 8, 320, "runs/miniature/derta-seed42"),
        (["model=custom", "model.name_or_path=org/some-model"], 2e-5, 128, 1024, "runs/some-model/derta-seed42"),
        (["model=qwen3_8b", "peft=lora", "objective=rto"], 1e-4, 128, 1024, "runs/Qwen3-8B/rto-seed42"),
        (["model=qwen3_8b", "peft=qlora"], 1e-4, 128, 1024, "runs/Qwen3-8B/derta-seed42"),
        (["peft=lora", "model=llama3_8b", "optim=full"], 2e-5, 128, 1024, "runs/Meta-Llama-3-8B/derta-seed42"),
        (["model=custom", "optim=miniature", "trainer=miniature"], 3e-4, 8, 1024, "runs/model/derta-seed42"),
        (["model=custom", "model.name_or_path=runs/mine/derta"], 2e-5, 128, 1024, "runs/mine/derta-seed42"),
    ):
        config = composed(*words)
        found = (config.optim.learning_rate, config.trainer.batch, config.data.max_length, config.output_dir)
        assert found == (rate, batch, length, folder), words
    assert composed("model=custom").data.path == "", "nor its rows"
    primary("train", TrainRunConfig)  # conf/slurm.yaml stands on it
    assert read("slurm", TrainRunConfig, GIVEN)[0].optim.learning_rate == 2e-5


@pytest.mark.parametrize(
    ("rows", "micro", "ranks", "batch"),
    [(60_000, 8, 8, 128), (128, 8, 1, 128), (100, 8, 1, 96), (100, 4, 4, 96), (5, 8, 2, 16)],
)
def test_the_global_batch_is_128_rows_or_all(rows: int, micro: int, ranks: int, batch: int) -> None:
    config = composed("model=custom", f"trainer.micro_batch_size={micro}")
    config.trainer.settle_batch(rows, ranks)
    assert config.trainer.global_batch_size == batch
    given = composed("model=custom", "trainer.global_batch_size=64")
    given.trainer.settle_batch(rows, ranks)
    assert given.trainer.global_batch_size == 64


def test_an_arm_is_one_override_from_another() -> None:
    one, other = composed("objective=derta"), composed("objective=vanilla")
    assert one != other
    other.objective.name, other.output_dir = one.objective.name, one.output_dir
    assert one == other


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["objective=dpo", "data.format=reference_jsonl"], "hold no pairs; use data.format=derta or preference"),
        (["objective=dpo", "trainer.padding_free=true"], "DPO rows are padded; set it to false"),
        (["objective=harmful_prefix", "data.format=reference_jsonl"], "use objective=derta"),
        (["objective=dpo", "distributed=fsdp2"], "objective=dpo with distributed=fsdp2...use zero2 or zero3"),
        ([*GIVEN, "objective=w_door", "distributed=fsdp2"], "objective=w_door with distributed=fsdp2..."),
        (["objective=w_door"], "objective=w_door needs objective.weight_model..."),
        (["objective=vanilla", "objective.transition_copies=2"], "transition_copies=2 with objective=vanilla"),
        (["objective=dpo", "objective.transition_copies=2"], "transition_copies=2 with objective=dpo"),
        (["objective=rto", "objective.ablation.probability=0.5"], "this arm has none; use objective=derta"),
        (["objective.rto_weight=0", "objective.mle_weight=0"], "nothing would be learned"),
        (["peft=lora", "peft.target_modules=[q_proj,all-linear]"], "must be the only entry"),
        (["peft=lora", "peft.target_modules=[lm_head]"], "would never train: drop it"),
        (["peft=lora", "peft.target_parameters=[experts]"], "peft.dropout=0.05 with peft.target_parameters"),
        (["peft=qlora", "distributed=fsdp2"], "peft=qlora with FSDP2..."),
        (["distributed=zero3", "distributed.fsdp2=true"], "use distributed=fsdp2 or zero3"),
        (["distributed.deepspeed={}"], "zero_optimization.stage=None: expected 0, 1, 2 or 3"),
        (["distributed.deepspeed={zero_optimization:3}"], "zero_optimization.stage=None: expected 0, 1, 2 or 3"),
        (["distributed=zero2", "distributed.deepspeed.zero_optimization.stage=7"], "stage=7: expected 0, 1, 2 or 3"),
        (["distributed=zero2", "trainer.resume_despite=[world_size]"], "its optimizer state is cut up by rank"),
        (["optim.name=adamw_8bit", "distributed=zero1"], "optim.name=adamw_8bit with DeepSpeed..."),
        (["optim.name=adamw_8bit", "distributed=fsdp2"], "optim.name=adamw_8bit with FSDP2..."),
        ([OFFLOADING, "distributed=fsdp2"], f"{OFFLOADING} with FSDP2..."),
        ([OFFLOADING, "distributed=zero3"], f"{OFFLOADING} with ZeRO-3..."),
        (["trainer.compile=true", "objective=dpo"], "trainer.compile=true was not tried with objective=dpo..."),
        # weights in bfloat16
        ([*KAHAN, "distributed=zero3"], "optim.name=adamw_kahan with DeepSpeed..."),
        ([*KAHAN, "distributed=fsdp2"], "optim.name=adamw_kahan with FSDP2..."),
        ([*KAHAN, "peft=lora"], f"{KAHAN[0]}...whose adapters are float32"),
        ([*KAHAN, "model.dtype=float32"], f"{KAHAN[0]}...with model.dtype=float32: set model.dtype=bfloat16"),
        ([*KAHAN, "objective=dpo"], f"{KAHAN[0]} with objective=dpo..."),
        (
            [*KAHAN, "trainer.global_batch_size=129", "trainer.micro_batch_size=1"],
            f"{KAHAN[0]}...the last of 129 micro-batches",
        ),
        ([*KAHAN, "optim.adam_beta2=0.999"], f"{KAHAN[0]}...set optim.adam_beta2=0.99"),
        ([*KAHAN, "optim.weight_decay=0.1"], f"{KAHAN[0]}...set optim.weight_decay=0"),
    ],
)
def test_what_does_not_go_together(words: list[str], expected: str) -> None:
    """The problem is one line, `start...part` of it or `part` alone."""
    (problem,) = composed(*words).problems()
    start, _, part = expected.rpartition("...")
    assert problem.startswith(start) and part in problem


def test_128_micro_batches_can_be_added_up_in_bfloat16() -> None:
    assert composed(*KAHAN, *GIVEN, "model=custom", "trainer.micro_batch_size=1").problems() == []


def test_the_paper_s_settings_are_the_defaults() -> None:
    """Full fine-tuning (arXiv 2407.09121): global batch 128, 2 epochs, 2e-5 cosine, warmup 0.03, weight decay 2e-5."""
    config = composed("optim=full", "trainer=paper")
    assert (config.trainer.batch, config.trainer.epochs) == (128, 2.0)
    optim = config.optim
    assert (optim.learning_rate, optim.scheduler, optim.warmup, optim.weight_decay) == (2e-5, "cosine", 0.03, 2e-5)
    lora = composed("optim=lora", "peft=lora")
    assert (lora.optim.learning_rate, lora.optim.warmup) == (1e-4, 0.0)
    assert (lora.peft.r, lora.peft.alpha, lora.peft.dropout) == (96, 16, 0.05)


def test_no_default_is_written_twice() -> None:
    """YAML holds differences only: a value equal to the dataclass's own default does not belong there."""
    doubles = []
    for group, choice in CHOICES:
        schema = type(getattr(TrainRunConfig(), group))
        values = yaml.safe_load((Path(CONF_DIR) / group / f"{choice}.yaml").read_text()) or {}
        for key, value in values.items():
            default = getattr(schema(), key, None)
            if key in schema.__dataclass_fields__ and value is not None and getattr(default, "value", default) == value:
                doubles.append(f"{group}/{choice}.yaml: {key}")
    named = {"objective/derta.yaml: name", "peft/none.yaml: method"}  # the choice itself
    assert set(doubles) <= named
