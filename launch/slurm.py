"""Slurm: every combination as a Slurm job of its own; on each node one task, which calls torchrun.

    python launch/slurm.py -m +experiment=llama3_8b_full objective=derta,vanilla hydra.launcher.nodes=2 \\
        hydra.launcher.partition=gpu

Needs `pip install derta[slurm]` (hydra-submitit-launcher). Settings of the jobs: conf/hydra/launcher/slurm.yaml.
hydra/launcher=submitit_local runs them here, without Slurm. A script for sbatch: launch/slurm/train.sh.
"""

import importlib.util
import signal
import subprocess
import sys
from typing import Any

from derta.config import TrainRunConfig
from derta.config.command import Command
from derta.config.failures import fail
from derta.config.shipped import CONF_DIR, command_of


def submit(jobs: list[tuple[list[str], TrainRunConfig]]) -> None:
    """All jobs have been checked here; Hydra's launcher submits them."""
    import hydra

    sys.argv[1:] = ["-m", *(word for word in sys.argv[1:] if word not in ("-m", "--multirun"))]
    hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name="slurm")(job)()


def job(_: Any) -> None:
    """What runs on each node."""
    import submitit
    from hydra.core.hydra_config import HydraConfig

    job, ranks = submitit.JobEnvironment(), HydraConfig.get().launcher.gpus_per_node or 1
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(ranks)]
    if job.num_nodes > 1:  # a port of its own for every job: two may share their first node
        endpoint = f"{job.hostnames[0]}:{20000 + int(job.raw_job_id) % 10000}"
        meeting = ["--rdzv_backend", "c10d", "--rdzv_endpoint", endpoint, "--rdzv_id", job.raw_job_id]
        command += ["--nnodes", str(job.num_nodes), *meeting]
    else:
        command.append("--standalone")
    process = subprocess.Popen(
        [*command, "--shutdown-timeout", "270", *command_of("train"), *HydraConfig.get().overrides.task]
    )
    for number in (signal.SIGTERM, signal.SIGINT):  # Slurm signals this task; torchrun passes it on to its ranks
        signal.signal(number, lambda received, _: process.send_signal(received))
    if code := process.wait():
        raise RuntimeError(f"torchrun ended with exit code {code}; its error is above")


def main() -> None:
    if importlib.util.find_spec("submitit") is None:
        fail("launch/slurm.py needs hydra-submitit-launcher: pip install derta[slurm]")
    from derta.config.compose import primary

    primary("train", TrainRunConfig)  # conf/slurm.yaml is conf/train.yaml and a launcher
    Command("slurm", TrainRunConfig, about=__doc__, together=submit)()


if __name__ == "__main__":
    main()
