"""launch/sweep.py for real: jobs in torchruns of their own, one that fails, and the same command again."""

from training_cases import REPOSITORY


def test_a_failed_job_leaves_the_others_alone_and_is_all_that_a_rerun_does(tmp_path, command, arguments):
    words = arguments("${sweep.root}/seed-${trainer.seed}", "trainer.seed=1,2", "trainer.max_steps=1")
    words += [f"sweep.root={tmp_path / 'sweep'}", "sweep.parallel=2"]
    sweep = [REPOSITORY / "launch" / "sweep.py", "-m", *words]
    root = tmp_path / "sweep"
    obstacle = root / "seed-1" / "notes.txt"
    obstacle.parent.mkdir(parents=True)
    obstacle.write_text("not a run")
    first = command(*sweep)
    assert first.returncode == 1, first.stdout + first.stderr
    one, other = (f"{root}/seed-{seed} " for seed in (1, 2))
    assert f"{one} failed, exit code" in first.stdout and f"{other} finished in" in first.stdout
    assert "holds no run of derta" in next(root.glob("logs/*seed-1.log")).read_text()
    weights = root / "seed-2" / "model.safetensors"
    written = weights.stat().st_mtime_ns

    obstacle.unlink()
    second = command(*sweep)
    assert second.returncode == 0, second.stdout + second.stderr
    assert f"{one} finished in" in second.stdout and f"{other} finished before" in second.stdout
    assert weights.stat().st_mtime_ns == written and (root / "seed-1" / "model.safetensors").is_file()
