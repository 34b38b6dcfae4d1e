"""launch/sweep.py for real: jobs in torchruns of their own, one that fails, and the same command again."""

import os
import subprocess
import sys

from training_cases import ENVIRONMENT

from derta.config.shipped import CONF_DIR

SWEEP = CONF_DIR.parent / "launch" / "sweep.py"


def test_a_failed_job_leaves_the_others_alone_and_is_all_that_a_rerun_does(tmp_path, arguments):
    def sweep() -> subprocess.CompletedProcess:
        overrides = arguments("${sweep.root}/seed-${trainer.seed}", "trainer.seed=1,2", "trainer.max_steps=1")
        return subprocess.run(
            [sys.executable, str(SWEEP), "-m", *overrides, f"sweep.root={tmp_path / 'sweep'}", "sweep.parallel=2"],
            capture_output=True, text=True, timeout=300, cwd=tmp_path, env={**os.environ, **ENVIRONMENT},
        )  # fmt: skip

    root = tmp_path / "sweep"
    obstacle = root / "seed-1" / "notes.txt"
    obstacle.parent.mkdir(parents=True)
    obstacle.write_text("not a run")
    first = sweep()
    assert first.returncode == 1, first.stdout + first.stderr
    one, other = (f"{root}/seed-{seed} " for seed in (1, 2))
    assert f"{one} failed, exit code" in first.stdout and f"{other} finished in" in first.stdout
    assert "holds no run of derta" in next(root.glob("logs/*seed-1.log")).read_text()
    weights = root / "seed-2" / "model.safetensors"
    written = weights.stat().st_mtime_ns

    obstacle.unlink()
    second = sweep()
    assert second.returncode == 0, second.stdout + second.stderr
    assert f"{one} finished in" in second.stdout and f"{other} finished before" in second.stdout
    assert weights.stat().st_mtime_ns == written and (root / "seed-1" / "model.safetensors").is_file()
