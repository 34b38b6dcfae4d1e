"""Slurm jobs without a Slurm: the sbatch text that is generated, and the job body run here."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from hydra import compose, initialize_config_dir
from training_cases import ENVIRONMENT, REPOSITORY, logged, metrics, says_text, wait_until

from derta.config import TrainRunConfig
from derta.config.compose import primary
from derta.config.shipped import CONF_DIR

primary("train", TrainRunConfig)
LAUNCH = REPOSITORY / "launch"


@pytest.fixture
def submitit():
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="needs derta[slurm]")
    return pytest.importorskip("submitit")


def test_the_sbatch_text_asks_for_one_task_per_node(submitit, tmp_path: Path) -> None:
    from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf
    from omegaconf import OmegaConf
    from submitit.slurm.slurm import SlurmExecutor, _make_sbatch_string

    overrides = ["hydra.launcher.nodes=4", "hydra.launcher.partition=gpu"]
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        settings = compose("slurm", overrides, return_hydra_config=True).hydra.launcher
    shared = set(OmegaConf.structured(BaseQueueConf).keys())
    given = {
        key: value
        for key, value in OmegaConf.to_container(settings, resolve=False).items()
        if key not in {"_target_", "submitit_folder", "max_num_timeout"}
    }
    # As the plugin does, through submitit's own translation of its common names into Slurm's.
    common = {key: value for key, value in given.items() if key in shared and key != "name" and value is not None}
    slurm = {key: value for key, value in given.items() if key not in shared and value is not None}
    parameters = SlurmExecutor._equivalence_dict()
    renamed = {parameters.get(key, key): value for key, value in common.items()}
    renamed["time"] = renamed.pop("timeout_min", renamed.get("time"))
    text = _make_sbatch_string("python job.py", tmp_path, **renamed, **slurm)
    for line in ("nodes=4", "ntasks-per-node=1", "gpus-per-node=8", "partition=gpu", "signal=TERM@300", "time=1440"):
        assert f"#SBATCH --{line}\n" in text
    assert re.search(r"^srun .*python job.py$", text, re.MULTILINE)


def test_the_job_body_calls_torchrun(submitit, command, arguments, tmp_path: Path) -> None:
    paths = os.pathsep.join([str(REPOSITORY), *sys.path])  # wherever the plugin is installed
    words = ("-m", "hydra/launcher=submitit_local", "hydra.launcher.gpus_per_node=null", *arguments("run"))
    result = command(LAUNCH / "slurm.py", *words, PYTHONPATH=paths)
    logs = "".join(path.read_text() for path in tmp_path.rglob("*_log.*"))
    assert result.returncode == 0, result.stderr[-2000:] + logs[-2000:]
    assert (tmp_path / "run" / "finished.json").is_file()
    assert not says_text(result.stdout + result.stderr + logs)


STAND_INS = {
    "srun": """#!/usr/bin/env bash
# The step of the job: the command once per node, here, and signals to all of them.
while [[ $1 == --* ]]; do shift; done
for node in $(seq "$SLURM_JOB_NUM_NODES"); do "$@" & nodes+=($!); done
trap 'kill -TERM "${nodes[@]}"' TERM
code=0
for node in "${nodes[@]}"; do
    wait "$node" || code=$?
    while kill -0 "$node" 2>/dev/null; do wait "$node" || code=$?; done
done
exit $code
""",
    "scontrol": """#!/usr/bin/env bash
case "$1 $2" in
    "show hostnames") printf 'localhost\\nlocalhost\\n' ;;
    *) echo "$@" >> requests ;;
esac
""",
}


def end(job: subprocess.Popen) -> None:
    """Nothing of a job that failed stays behind."""
    if job.poll() is None:
        for process in [*psutil.Process(job.pid).children(recursive=True), psutil.Process(job.pid)]:
            process.kill()
        job.wait()


def test_the_script_trains_on_two_nodes_and_is_queued_again(arguments, train, tmp_path, request):
    """The script itself, and real torchruns that find one another; srun and scontrol stand for the cluster. The losses
    are those of one process: a rank that had trained alone would count half the tokens."""
    place = tmp_path / "bin"
    place.mkdir()
    for name, text in STAND_INS.items():
        (place / name).write_text(text)
        (place / name).chmod(0o755)
    (place / "torchrun").symlink_to(Path(sys.executable).with_name("torchrun"))
    (tmp_path / "launch").symlink_to(LAUNCH)  # a job starts in the directory it was submitted from
    environment = {
        **ENVIRONMENT, "PATH": os.pathsep.join([str(place), os.environ["PATH"]]),
        "SLURM_JOB_ID": str(10_000 + os.getpid() % 10_000), "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_JOB_NUM_NODES": "2", "SLURM_GPUS_ON_NODE": "1",
    }  # fmt: skip
    run, steps = tmp_path / "run", 40
    settings = (f"trainer.max_steps={steps}", "optim.scheduler=constant")
    words = arguments(run, *settings, "distributed=zero3", "trainer.micro_batch_size=2")
    command = ["bash", str(LAUNCH / "slurm" / "train.sh"), *words]

    def submit(log: Path) -> subprocess.Popen:
        with log.open("w") as file:
            return subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=file, stderr=subprocess.STDOUT)

    first = submit(tmp_path / "first.log")
    request.addfinalizer(lambda: end(first))
    wait_until(logged(run, 3), lambda: first.poll() is None, tmp_path / "first.log")
    first.send_signal(signal.SIGUSR1)  # what --signal=B:USR1@300 sends, to the script alone
    assert first.wait(timeout=100) != 0
    said = (tmp_path / "first.log").read_text()
    assert "stopped by SIGTERM on rank" in said and "queued again" in said, said[-3000:]
    assert (tmp_path / "requests").read_text() == f"requeue {environment['SLURM_JOB_ID']}\n"
    step = json.loads((run / "preempted.json").read_text())["step"]
    assert 3 <= step < steps and (run / f"checkpoint-{step}" / "complete.json").is_file()

    second = submit(tmp_path / "second.log")
    request.addfinalizer(lambda: end(second))
    assert second.wait(timeout=200) == 0, (tmp_path / "second.log").read_text()[-3000:]
    assert f"goes on from {run}/checkpoint-{step}" in (tmp_path / "second.log").read_text()
    assert (run / "finished.json").is_file()
    alone, lines = (metrics(place) for place in (train(tmp_path / "alone", *settings), run))
    assert [line["step"] for line in lines] == [*range(1, steps + 1), steps]
    for one, two in zip(alone[:3], lines[:3], strict=True):
        assert (one["mle_tokens"], one["rto_tokens"]) == (two["mle_tokens"], two["rto_tokens"])
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)
    assert not says_text(said + (tmp_path / "second.log").read_text())


def test_the_script_asks_slurm_for_a_signal_before_the_limit() -> None:
    text = (LAUNCH / "slurm" / "train.sh").read_text()
    assert subprocess.run(["bash", "-n", str(LAUNCH / "slurm" / "train.sh")]).returncode == 0
    signal, grace = re.search(r"--signal=B:USR1@(\d+)", text), re.search(r"--shutdown-timeout (\d+)", text)
    assert signal and grace and int(grace[1]) < int(signal[1]), "ranks may save until torchrun gives up, not longer"
    assert "scontrol requeue" in text and "#SBATCH --ntasks-per-node=1\n" in text
