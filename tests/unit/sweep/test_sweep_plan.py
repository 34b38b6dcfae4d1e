"""From combinations of overrides to jobs."""

from __future__ import annotations

from pathlib import Path

import pytest

from derta.config import TrainRunConfig
from derta.config.compose import read
from derta.config.sweep import SweepConfig
from derta.errors import InputError
from derta.sweep.plan import Requested, evaluation_folder, plan_sweep, requests, run_sweep

PAPER = "+experiment=miniature_paper"


def requested(*combinations: str) -> list[Requested]:
    split = [overrides.split() for overrides in combinations]
    return requests([(words, read("train", TrainRunConfig, words)[0]) for words in split])


def test_runs_of_the_paper_s_experiment_wait_for_their_base_and_dpo_for_vanilla() -> None:
    runs = requested(*(f"{PAPER} objective={arm} trainer.seed={seed}" for seed in (1, 2) for arm in ("dpo", "vanilla")))
    jobs = {job.name: job for job in plan_sweep(runs)}
    assert "base, seed 2" in jobs["runs/paper/seed-2/vanilla"].after
    assert "runs/paper/seed-2/vanilla" in jobs["runs/paper/seed-2/dpo"].after
    assert "base, seed 2" not in jobs["runs/paper/seed-2/dpo"].after
    assert "runs/paper/seed-1/dpo" in jobs["evaluate runs/paper/seed-1/dpo"].after
    assert {f"evaluate runs/paper/seed-{seed}/base" for seed in (1, 2)} <= jobs.keys()
    assert sum(name.startswith("data: ") for name in jobs) == 3  # once for all seeds
    command = jobs["runs/paper/seed-1/vanilla"].command
    assert command[-4:] == [PAPER, "objective=vanilla", "trainer.seed=1", "output_dir=runs/paper/seed-1/vanilla"]
    assert "torch.distributed.run" in command


def test_each_run_is_named_after_its_objective_and_what_varies() -> None:
    [job] = plan_sweep(requested("model=miniature objective=rto trainer.seed=3 trainer.micro_batch_size=2"))
    assert job.run_dir == Path("runs/sweep/rto-seed3") and job.command[-1] == "output_dir=runs/sweep/rto-seed3"
    assert evaluation_folder(job.run_dir) == Path("runs/sweep/evaluation/rto-seed3")
    shared = "objective=derta logging.wandb_mode=disabled trainer.seed=1 optim.learning_rate="
    runs = requested(f"{shared}1e-5", f"{shared}2e-5")
    assert [run.arm for run in runs] == ["derta,optim.learning_rate=1e-5", "derta,optim.learning_rate=2e-5"]
    assert runs[1].output_dir == Path("runs/sweep/derta,optim.learning_rate=2e-5-seed1")
    long = f"objective=rto model.name_or_path={'long/' * 60}model"
    names = {run.output_dir.name for run in requested(f"{long}1", f"{long}2")}
    assert len(names) == 2 and all(len(name) <= 200 for name in names)


def test_a_root_alone_says_where_runs_go(tmp_path: Path) -> None:
    [run] = requested(f"objective=rto trainer.seed=3 sweep.root={tmp_path}")
    assert (run.output_dir, run.arm) == (tmp_path / "rto-seed3", "rto")
    [run] = requested(f"+experiment=paper_lora model.name_or_path=x sweep.root={tmp_path}")
    assert run.output_dir == tmp_path / "derta-seed42"
    [run] = requested(f"sweep.root={tmp_path} output_dir=elsewhere/run")
    assert run.output_dir == Path("elsewhere/run")


def test_what_cannot_run_is_refused_together_before_anything_starts() -> None:
    with pytest.raises(InputError) as caught:
        plan_sweep(
            requested(
                f"{PAPER} objective=rto",
                f"{PAPER} objective=rto objective.rto_dropout=0.95",
                f"{PAPER} objective=derta trainer.micro_batch_size=3",
                f"{PAPER} objective=vanilla sweep.parallel=2",
            )
        )
    message = str(caught.value)
    assert "would go to runs/paper/seed-42/rto, as another job does" in message
    assert "trainer.global_batch_size=8 is not divisible by trainer.micro_batch_size=3" in message
    assert "sweep.parallel is 1 in one job and 2 in another" in message


def test_an_evaluation_that_cannot_be_shows_before_anything_is_trained() -> None:
    words = "sweep.evaluate=['eval=custom','eval.sets.harmful.path=a.jsonl','eval.batch_sise=3']"
    with pytest.raises(InputError) as caught:
        plan_sweep(requested(f"objective=rto {words}"))
    assert "sweep.evaluate: eval.batch_sise=3: no key 'batch_sise'" in str(caught.value)


def test_rows_and_models_that_are_not_there_show_before_anything_is_trained(tmp_path: Path) -> None:
    rows, there = tmp_path / "rows.jsonl", tmp_path / "there.jsonl"
    there.write_text("")
    sets = f"sweep.evaluate=['eval=custom','eval.sets.harmful.path={rows}','eval.sets.benign.path={there}']"
    shared = f"model=custom model.name_or_path={tmp_path}/model data=custom data.format=preference"
    words = [f"{shared} data.path={path} sweep.root={tmp_path}/root {sets}" for path in (rows, there)]
    with pytest.raises(InputError) as caught:
        run_sweep(requested(*words))
    message = str(caught.value)
    assert f"- data.path={rows}: nothing is there" in message
    assert f"- sweep.evaluate: eval.sets.harmful.path={rows}: nothing is there" in message
    assert "/model: no such directory, and not a hub id" in message
    assert str(there) not in message and not (tmp_path / "root").exists()


def test_a_variant_has_a_name_of_its_own() -> None:
    runs = requested(f"{PAPER} objective=rto", f"{PAPER} objective=rto sweep.arm=${{objective.name}}_95")
    assert [run.arm for run in runs] == ["rto", "rto_95"]
    assert {job.name for job in plan_sweep(runs)} >= {"runs/paper/seed-42/rto", "runs/paper/seed-42/rto_95"}


def test_gpu_sets_say_how_many_jobs_and_ranks_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = SweepConfig(gpus=[[0, 1], [2, 3]])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert settings.problems() == [] and settings.processes == 2
    assert settings.slots == [{"CUDA_VISIBLE_DEVICES": "0,1"}, {"CUDA_VISIBLE_DEVICES": "2,3"}]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")  # a scheduler's share of the node
    assert settings.slots == [{"CUDA_VISIBLE_DEVICES": "4,5"}, {"CUDA_VISIBLE_DEVICES": "6,7"}]
    [job] = plan_sweep(requested("sweep.gpus=[[0,1],[2,3]] trainer.micro_batch_size=4"))
    assert job.command[4:6] == ["--nproc_per_node", "2"]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"gpus": [[0, 1], [2]]}, "sets of the same size"),
        ({"gpus": [[0], [0]]}, "name every GPU once"),
        ({"gpus": [[0], [1]], "parallel": 2}, "drop sweep.parallel and sweep.ranks"),
        ({"ranks": 0}, "sweep.ranks=0: expected a whole number, at least 1"),
    ],
)
def test_settings_that_contradict_themselves(settings: dict, expected: str) -> None:
    assert expected in " ".join(SweepConfig(**settings).problems("sweep"))
