"""The command line of launch/train.py: every mistake at once, each in a line with the remedy; help, completion, -m."""

import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from derta.config import Arm, TrainRunConfig
from derta.config.compose import composed, primary, read
from derta.config.evaluation import EvaluateRunConfig
from derta.config.shipped import CONF_DIR

REPOSITORY = CONF_DIR.parent
TRAIN = REPOSITORY / "launch" / "train.py"
SWEEP = "use: python launch/sweep.py -m objective=derta,vanilla"
Answer = Callable[..., tuple[Any, str, str]]


@pytest.fixture
def answer(capsys: pytest.CaptureFixture[str]) -> Answer:
    """What launch/train.py answers to words, in this process: exit code, stdout and stderr."""

    def ask(*words: str) -> tuple[Any, str, str]:
        code: Any = 0
        try:
            runpy.run_path(str(TRAIN))["main"](words)
        except SystemExit as end:
            code = end.code
        return (code, *capsys.readouterr())

    return ask


def found(*overrides: str) -> list[str]:
    """What launch/train.py says about them."""
    return read("train", TrainRunConfig, overrides)[1]


def run(*words: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(TRAIN), *words],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("trainer.sede=3", "no key 'sede'; did you mean optim.scheduler or trainer.seed?"),
        ("modle.name_or_path=x", "no key 'modle'; did you mean model?"),
        ("trainer.seed.x=1", "no key 'x'; --help lists the keys"),
        ("+trainer.qqq=1", "no key 'qqq'; --help lists the keys"),
        ("++model.qqq=1", "no key 'qqq'; --help lists the keys"),
        ("eval=miniature", "no key 'eval'"),
        ("trainer.seed=abc", "expected a whole number, at least 0 and at most 4294967295"),
        ("trainer.seed=true", "expected a whole number"),
        ("trainer.max_steps=1.5", "expected a whole number, at least 1, or -1 to count epochs instead"),
        ("optim.learning_rate=fast", "expected a number above 0"),
        ("trainer.shuffle=maybe", "expected true or false"),
        ("data.format=json", "expected one of derta, reference_jsonl, preference"),
        ("logging.wandb_mode=on", "expected one of auto, online, offline, disabled"),
        ("objective.refusal_token_ids=[a]", "expected null or a list of one whole number (every position) or two"),
        ("peft.target_modules=q_proj", "expected a list of module names [first,second]"),
        ("sweep.evaluate=direct", "expected a list [first,second], each text"),
        ("distributed.deepspeed=3", "expected null or a mapping"),
        ("objective.refusal_text=[a,b]", "expected text"),
        ("output_dir=null", "expected text; null is not allowed here"),
        ("~model.name_or_path", "a key cannot be deleted; give it a value"),
        ("objective=derto", f"no such choice; objective can be {', '.join(sorted(Arm.__members__))}"),
        ("distributed=zero9", "no such choice; distributed can be fsdp2, none, zero1, zero2, zero3, zero3_offload"),
        ("trainer=1", "no such choice; trainer can be miniature, paper"),
        ("~trainer", "no such choice; trainer can be miniature, paper"),
        ("objective=derta,vanilla", "several values: a sweep is `python launch/sweep.py -m ...`"),
        ("data.path=a,b", "several values"),
        ("data.path=runs/a=b", "Hydra cannot read this value; put it in quotes inside quotes"),
        ("data.path=runs/é", "Hydra cannot read this value"),
        ("data.path=runs/{x}", "Hydra cannot read this value"),
        ("seed", "expected key=value or group=choice"),
    ],
)
def test_a_mistake_is_one_line_with_the_remedy(override: str, expected: str) -> None:
    [problem] = found(override)
    assert problem.startswith(f"{override}: ") and expected in problem
    assert "\n" not in problem


def test_what_only_composing_shows_is_said_in_hydra_s_words() -> None:
    [problem] = found("output_dir=runs/${objective.nmae}")
    assert "Interpolation key 'objective.nmae' not found" in problem and "\n" not in problem
    [problem] = found("+experiment=miniature_base", "+experiment=miniature_base")
    assert "experiment" in problem and "\n" not in problem


def test_keys_that_no_file_holds_need_no_plus() -> None:
    """Prompt sets have names of the user's, and a DeepSpeed configuration holds whatever DeepSpeed knows."""
    words = ["eval.sets.mine.path=rows.jsonl", "eval.sets.mine.harmful=true", "~eval.sets.benign", "label=12"]
    config, problems = read("evaluate", EvaluateRunConfig, words)
    assert problems == [] and set(config.eval.sets) == {"harmful", "borderline", "mine"}
    assert config.eval.sets["mine"].attacks == ["direct"] and config.label == "12"
    [problem] = read("evaluate", EvaluateRunConfig, ["eval.sets.mine.paht=rows.jsonl"])[1]
    assert "no key 'paht'; did you mean eval.path or eval.sets.NAME.path" in problem
    config, problems = read("train", TrainRunConfig, ["distributed.deepspeed.zero_optimization.stage=2"])
    assert problems == [] and config.distributed.deepspeed == {"zero_optimization": {"stage": 2}}
    assert found("experiment=paper_lora", "model.name_or_path=x") == []


def test_files_of_the_user_s_are_checked_as_the_command_line_is(tmp_path: Path) -> None:
    """A group of their own, by --config-dir: Hydra composes it, unknown keys and values are ours to name. An error
    leaves no files."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("name_or_path: x\nrevison: abc\ntrust_remote_code: 3\n")
    result = run("--config-dir", str(tmp_path), "model=mine", "data.path=rows.jsonl", cwd=tmp_path)
    assert result.returncode == 2 and result.stderr.splitlines() == [
        "error: this configuration cannot run:",
        "  - model.trust_remote_code=3: expected true or false",
        "  - model.revison=abc: no key 'revison'; did you mean model.revision?",
    ]
    assert list(tmp_path.iterdir()) == [tmp_path / "model"]
    result = run("--config-dir", str(tmp_path), "--cfg", "job", "model.name_or_path=x", cwd=tmp_path)
    assert "learning_rate: 2.0e-05" in result.stdout, "a model that is named alone is no miniature here either"


@pytest.mark.parametrize("value", ["runs/a b", '"runs/a,b=c"', '"runs/日本 é"', "runs/a-b_c.d", "'runs/{x}'"])
def test_odd_paths_are_taken_as_they_are(value: str) -> None:
    assert found(f"data.path={value}", f"output_dir={value}") == []


def test_mistakes_of_every_kind_are_listed_together() -> None:
    problems = found(
        "trainer.sede=3", "trainer.epochs=many", "objective=derto", "objective.rto_dropout=1", "data.path=''",
        "trainer.global_batch_size=10", "trainer.micro_batch_size=4",
    )  # fmt: skip
    assert [problem.split(": ")[0].split(" is ")[0] for problem in problems] == [
        "trainer.sede=3", "objective=derto", "objective.rto_dropout=1", "trainer.epochs=many", "data.path",
        "trainer.global_batch_size=10",
    ]  # fmt: skip


def test_the_three_numbers_of_an_indivisible_batch_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    [problem] = found("trainer.global_batch_size=16", "trainer.micro_batch_size=2")
    assert "trainer.global_batch_size=16" in problem and "trainer.micro_batch_size=2 x 3 ranks = 6" in problem
    assert "for example trainer.global_batch_size=18" in problem
    assert found("trainer.global_batch_size=18", "trainer.micro_batch_size=2") == []


def test_importing_the_command_and_the_configuration_needs_no_torch() -> None:
    """That is what makes --help and mistakes fast."""
    code = (
        "import sys, runpy; sys.argv = ['train.py']\n"
        f"for name in ('train', 'build_data'): runpy.run_path(f'{TRAIN.parent}/{{name}}.py', run_name='module')\n"
        "import derta, derta.config, derta.config.compose, derta.config.help_text, derta.data.schema\n"
        "print([name for name in ('torch', 'transformers', 'trl', 'datasets', 'numpy') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_help_says_what_every_key_means_and_may_hold(answer: Answer) -> None:
    code, out, _ = answer("--help", "objective=rto", "trainer.seed=7")
    assert code == 0 and "  trainer.seed=7 " in out
    text = " ".join(out.split())
    for part in (
        "torchrun --nproc_per_node N launch/train.py",
        f"objective: {', '.join(sorted(Arm.__members__))}",
        "distributed: fsdp2, none, zero1, zero2, zero3, zero3_offload",
        'eval "$(python launch/train.py -sc install=bash)"',
        "trainer.global_batch_size=8 (null or a whole number, at least 1; default null) Rows per optimizer step",
        "objective.rto_dropout=0.0 (a probability in [0, 1); to train without RTO use objective=harmful_prefix; "
        "default) Probability that a position of an RTO row carries no loss in an epoch",
        f"objective.name=rto (one of {', '.join(Arm.__members__)}; default derta) The arms of the paper",
    ):  # fmt: skip
        assert part in text
    code, _, err = answer("--help", "objective=nothing")
    assert code == 2 and "objective can be constrained, derta" in err


COMMANDS = sorted(path for path in TRAIN.parent.glob("[a-z]*.py") if path.stem != "slurm")
assert len(COMMANDS) > 12


@pytest.mark.parametrize("command", COMMANDS, ids=[path.stem for path in COMMANDS])
def test_every_key_of_every_command_has_its_sentence(
    command: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [str(command), "--help"])
    runpy.run_path(str(command), run_name="__main__")
    lines = capsys.readouterr().out.partition("== Keys")[2].splitlines()
    keys = [place for place, line in enumerate(lines) if line.startswith("  ") and line[2] != " "]
    assert keys and not [lines[place] for place in keys if not lines[place + 1].startswith("      ")]


def test_a_job_of_slurm_has_the_values_of_a_run() -> None:
    primary("train", TrainRunConfig)  # conf/slurm.yaml stands on it
    run, job = (composed(name, TrainRunConfig, []) for name in ("train", "slurm"))
    assert OmegaConf.to_container(run) == OmegaConf.to_container(job)


def test_a_reader_that_has_gone_is_no_error() -> None:
    for words in ("--help", "--cfg job"):
        result = subprocess.run(
            ["bash", "-c", f"'{sys.executable}' {TRAIN} {words} | true; echo ${{PIPESTATUS[0]}}"],
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert result.stderr == "" and result.stdout in ("0\n", "141\n")


def test_cfg_job_prints_the_configuration(answer: Answer, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `~` in paths, which Hydra's grammar has not, and users do."""
    monkeypatch.setenv("HOME", "/HOME")
    out = answer("--cfg", "job", "objective=rto", "trainer.seed=7", "data.path=~/rows")[1]
    for line in ("  name: rto\n", "  seed: 7\n", "  path: /HOME/rows\n"):
        assert line in out
    assert "output_dir: /HOME/runs/one" in answer("--cfg", "job", "--resolve", "output_dir=~/runs/one")[1]
    out = answer("--cfg", "job", "--resolve", "objective=rto", "trainer.seed=7")[1]
    assert "output_dir: runs/miniature/rto-seed7" in out


def test_tab_completion() -> None:
    assert "hydra_bash_completion" in run("-sc", "install=bash").stdout
    line = "python launch/train.py objective="
    result = run("-sc", "query=bash", COMP_LINE=line, COMP_POINT=str(len(line)))
    assert "objective=derta" in result.stdout and "objective=vanilla" in result.stdout


@pytest.mark.parametrize(
    ("words", "ranks", "expected"),
    [
        (["-m", "objective=derta,vanilla"], "1", SWEEP),
        (["--multirun", "objective=derta,vanilla"], "1", SWEEP),
        (["hydra.mode=MULTIRUN", "objective=derta,vanilla"], "1", SWEEP),
        (["output_dir=runs/${now:%H-%M-%S}"], "2", "every rank would read its own clock"),
    ],
)
def test_what_ranks_cannot_do_together(
    words: list[str], ranks: str, expected: str, answer: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", ranks)
    code, _, err = answer(*words)
    assert code == 2 and expected in err and len(err.splitlines()) == 1


def test_one_rank_speaks_for_all() -> None:
    """The others give rank 0 time to be heard; the launcher ends them before they repeat it."""
    ranks = [
        subprocess.Popen(
            [sys.executable, str(TRAIN), "trainer.sede=3"],
            env={**os.environ, "RANK": str(rank), "WORLD_SIZE": "2"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    _, first = ranks[0].communicate(timeout=60)
    assert ranks[0].returncode == 2 and first.startswith("error: ")
    assert ranks[1].poll() is None
    _, second = ranks[1].communicate(timeout=60)
    assert ranks[1].returncode == 2 and second.startswith("error on rank 1: ")
