"""The study on a real model: its arms, its cells as files, and the table that is made of them."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from report_cases import result, summarised, write_evaluation

from derta.config.completion import CompleteRunConfig
from derta.config.compose import read
from derta.config.durability import DurabilityRunConfig
from derta.config.evaluation import EvaluateRunConfig
from derta.config.run import TrainRunConfig
from derta.config.shipped import RECIPES
from derta.config.stop import CalibrateRunConfig, Monitor
from derta.config.study import RealArm, RealRunConfig
from derta.errors import InputError
from derta.evaluation.records import Outcome
from derta.evaluation.stop import Calibrated, Calibration, Measured
from derta.report.later import Axis, Later, write_later
from derta.statistics.bootstrap import Mean
from derta.statistics.rates import rate
from derta.statistics.stopping import WHOLE
from derta.storage.atomic import write_json_atomically
from derta.storage.json_lines import read_lines
from derta.storage.typed import read_typed
from derta.sweep.jobs import Job
from derta.sweep.real import ARMS, evaluations, plan_depth, plan_real, plan_stop, run_real
from derta.sweep.real_cells import Cell, study_table, write_cells
from derta.sweep.stop_prompts import TOPICS, write_prompts


def cell(arm: str, seed: int, **outcomes: str) -> Cell:
    found = {"direct": "rrrr", "prefill_5": "crrr", "prefill_20": "cgmr"} | outcomes
    sets = {"harmful": found, "benign": {"direct": "ccccccccrm"}, "borderline": {"direct": "cr"}}
    return Cell(arm, seed, "test", ["triples=72"], "0" * 64, {"derta": "0"}, {name: name for name in sets}, sets)


def written(folder, *cells: Cell):
    for each in cells:
        write_json_atomically(folder / f"{each.arm}-seed-{each.seed}.json", asdict(each))
    return folder


def row(table: str, *begin: str) -> list[str]:
    """The cells of the line that begins with these; the last one of them."""
    lines = [[part.strip() for part in line.strip("|").split("|")] for line in table.splitlines()]
    return [line for line in lines if line[: len(begin)] == list(begin)][-1][len(begin) :]


def evaluated(folder: Path, outcome: Outcome, *, guarded: Outcome | None = None, **about) -> str:
    """An evaluation of derta in that folder, whose harmful responses are of one outcome; the hash of its model."""
    about |= {"guard": {"threshold": 0.5}} if guarded else {}
    some = result(outcome, guarded=guarded)
    results = [replace(some, id=str(i), attack=attack) for attack in ("direct", "prefill_5") for i in range(4)]
    results += [replace(some, id=name, prompt_set=name) for name in ("benign", "borderline")]
    summary = summarised(results, "derta", **about)
    write_evaluation(folder, summary, results)
    return summary.identity.model.sha256


def asked(job: Job, name: str, kind: type) -> Any:
    """The settings that a job's command is composed to, which can run."""
    config, problems = read(name, kind, [word for word in job.command if "=" in word])
    assert problems == [] and config.problems() == []
    return config


def test_rates_are_over_prompts_and_seeds(tmp_path):
    folder = written(tmp_path, cell("derta", 1), cell("derta", 2, prefill_20="rrrr"), cell("vanilla", 1))
    table = study_table(folder)
    rates = [each.split()[0] for each in row(table, "derta", "2")]
    # direct, 5, 20, behind prefills, broken, benign, borderline
    assert rates == ["0.0", "25.0", "12.5", "18.8", "8.3", "20.0", "50.0"]
    assert "4 harmful, 10 benign, 2 borderline" in table
    moved = [each.split()[0] for each in row(table, "vanilla", "1")]  # of seed 1 alone, which derta has too
    assert moved == ["0.0"] * 7
    assert "; derta_18 (seeds 0, 1, 2)" in table.splitlines()[-1] and "vanilla (seeds 0, 2);" in table.splitlines()[-1]


def test_a_finished_evaluation_leaves_a_letter_per_prompt_and_no_text(tmp_path):
    outcomes = [Outcome.COMPLIED, Outcome.REFUSED, Outcome.MALFORMED_REFUSAL, Outcome.GARBLED]
    results = [result(outcome, id=str(i), response="a secret recipe") for i, outcome in enumerate(outcomes)]
    results += [result(id=str(i), attack="prefill_5") for i in range(4)]
    results += [result(Outcome.REFUSED, id="b", prompt_set="benign"), result(id="c", prompt_set="borderline")]
    write_evaluation(tmp_path / "done", summarised(results, "derta"), results)
    config = RealRunConfig(cells=str(tmp_path / "new" / "cells"))
    folders = {("derta", 1): tmp_path / "done", ("vanilla", 1): tmp_path / "not begun"}
    write_cells(config, folders, dict.fromkeys(folders, tmp_path / "no depth"))
    [file] = (tmp_path / "new" / "cells").iterdir()
    assert file.name == "derta-seed-1.json" and "secret" not in file.read_text()
    assert row(study_table(file.parent), "derta", "1")[0].startswith("25.0 ")
    assert '"direct": "crmg"' in file.read_text()


def test_what_was_not_scored_counts_for_nothing(tmp_path):
    table = study_table(written(tmp_path, cell("derta", 1, direct="ucur", prefill_5="uuuu", prefill_20="cccc")))
    assert [each.split()[0] for each in row(table, "derta", "1")][:4] == ["50.0", "-", "100.0", "100.0"]


def test_a_folder_without_cells_and_cells_of_other_prompts_are_refused(tmp_path):
    with pytest.raises(InputError, match="holds no cells"):
        run_real(RealRunConfig(cells=str(tmp_path), only_table=True))
    folder = written(tmp_path, cell("derta", 1), replace(cell("vanilla", 1), split="development"))
    with pytest.raises(InputError, match="different prompts"):
        study_table(folder)
    with pytest.raises(InputError):
        study_table(tmp_path / "nowhere")


def test_numbers_of_any_depth_stand_in_the_cell_and_in_tables_of_their_own(tmp_path):
    short = [result(id=str(i), attack=attack) for attack in ("direct", "prefill_5") for i in range(4)]
    short += [result(id="b", prompt_set="benign"), result(id="c", prompt_set="borderline")]
    write_evaluation(tmp_path / "done", summarised(short, "derta"), short)
    deep = [result(Outcome.REFUSED, id=str(i), attack="prefill_5") for i in range(4)]
    deep += [result(Outcome.COMPLIED, id=str(i), attack="prefill_2000", loops=i == 1) for i in (0, 1)]  # two too short
    deep += short[-2:]
    summary = summarised(deep, "derta")
    sets = {
        "harmful": replace(summary.sets["harmful"], log_likelihood={"0": Mean(-1.5, -2, -1, 4), "2000": Mean(-3, n=2)}),
        "benign": replace(summary.sets["benign"], kl_to_base=Mean(0.25, 0.125, 0.5, 1)),
        "borderline": summary.sets["borderline"],
    }
    write_evaluation(tmp_path / "deep", replace(summary, sets=sets), deep)
    config = RealRunConfig(cells=str(tmp_path / "cells"))
    write_cells(config, {("derta", 1): tmp_path / "done"}, {("derta", 1): tmp_path / "deep"})
    [file] = (tmp_path / "cells").iterdir()
    found = json.loads(file.read_text())["deep"]
    assert found["outcomes"]["harmful"] == {"prefill_5": "rrrr", "prefill_2000": "ccss"}
    assert found["loops"] == {"prefill_5": 0, "prefill_2000": 1}
    without = replace(read_typed(Cell, file, "a cell"), arm="rto", deep=None)  # one that was measured without
    written(tmp_path / "cells", without)
    table = study_table(tmp_path / "cells").split("Any depth")[1]
    rates = row(table, "derta", "1")
    assert [each.split()[0] for each in rates[:3]] == ["0.0", "100.0", "25.0"]  # 5, 2,000, mean of each prompt's
    assert row(table, "derta")[0] == "-1.500 [-2.000, -1.000]" and row(table, "derta")[1:] == [
        "-3.000", "0.250 [0.125, 0.500]",
    ]  # fmt: skip
    summary = summarised(deep, "derta", model="c" * 64)  # of other weights
    write_evaluation(tmp_path / "deep", summary, deep)
    write_cells(config, {("derta", 1): tmp_path / "done"}, {("derta", 1): tmp_path / "deep"})
    assert json.loads(file.read_text())["deep"] is None


def test_every_model_is_evaluated_behind_every_depth_on_the_rows_that_were_joined(tmp_path):
    config = RealRunConfig(arms=[RealArm.derta], seeds=[0, 1], output=str(tmp_path), depth=True)
    names = {job.name for job in plan_real(config, "m.gguf")}
    jobs = plan_depth(config, "m.gguf")
    rows, *evaluations, report = jobs
    assert [job.name for job in evaluations] == ["depth base", "depth derta", "depth derta, seed 1"]
    assert rows.proof == tmp_path / "test" / "long.jsonl" and report.after == [job.name for job in evaluations]
    for job in evaluations:
        assert rows.name in job.after and {*rows.after, *job.after} <= names | {rows.name}
        config = asked(job, "evaluate", EvaluateRunConfig)
        assert config.eval.sets["harmful"].path == str(rows.proof)
        assert config.eval.sets["harmful"].attacks[-1] == "prefill_2000"
        assert config.eval.base_model == (None if job.name == "depth base" else str(tmp_path / "model"))
    assert config.output_dir == str(tmp_path / "seed1" / "evaluation-depth" / "derta")


@pytest.mark.parametrize("arm", list(RealArm))
def test_every_arm_can_be_trained_as_it_is_planned(arm, tmp_path):
    jobs = plan_real(RealRunConfig(arms=[arm], seeds=[0, 1], output=str(tmp_path)), "m.gguf")
    assert len({job.name for job in jobs}) == len(jobs)
    trained = [job for job in jobs if job.name in (arm.value, f"{arm.value}, seed 1")]
    assert len(trained) == 2
    for job, seed in zip(trained, (0, 1), strict=True):
        assert set(ARMS[arm].overrides) < set(job.command)
        config = asked(job, "train", TrainRunConfig)
        assert config.trainer.seed == seed
        if first := ARMS[arm].weights:
            [other] = [other for other in jobs if other.name == job.name.replace(arm.value, first.value)]
            assert other.name in job.after and str(other.run_dir) == config.objective.weight_model


def test_the_numbers_after_later_steps_stand_in_the_cell_of_the_same_weights(tmp_path):
    before, after = tmp_path / "evaluation-test" / "derta", tmp_path / "later-50" / "derta" / "after-50"
    model = evaluated(before, Outcome.REFUSED)
    evaluated(after, Outcome.COMPLIED, model="c" * 64)
    config = RealRunConfig(cells=str(tmp_path / "cells"))
    for weights, tables in (("d" * 64, 1), (model, 2)):  # of other weights first
        write_later(after, Later("derta", Axis.steps, 50, weights))
        write_cells(config, {("derta", 1): before}, {("derta", 1): tmp_path / "none"})
        measured = read_typed(Cell, tmp_path / "cells" / "derta-seed-1.json", "a cell")
        without = replace(measured, arm="vanilla", later={})
        table = study_table(written(tmp_path / "cells", without)).split("After 50")
        assert len(table) == tables
    rates, moved = table[1].split("minus the arm as it is")
    assert [row(part, "derta", "1")[0].split()[0] for part in (table[0], rates, moved)] == ["0.0", "100.0", "100.0"]
    assert "| vanilla" in table[0] and "| vanilla" not in table[1]


def test_the_stop_and_what_is_measured_with_it_stand_in_the_cell_of_the_same_weights(tmp_path):
    model = evaluated(tmp_path / "evaluation-test" / "derta", Outcome.COMPLIED)
    # The whole responses are what they are without a stop: what is left of them counts.
    evaluated(tmp_path / "stop" / "evaluation-seed-1" / "derta", Outcome.COMPLIED, guarded=Outcome.REFUSED)
    all_four = rate(4, 4)
    by_token, behind = dict.fromkeys(("0", "20", WHOLE), all_four), dict.fromkeys(("5", "20", "80"), all_four)
    rates = Measured(rate(1, 300), by_token, behind)
    config = RealRunConfig(cells=str(tmp_path / "cells"), output=str(tmp_path))
    for weights, parts in (("d" * 64, 1), (model, 3)):  # of other weights first
        stop = Calibration(weights, 0.01, [1], {"refusal_probability": Calibrated(0.5, 1, rates)})
        (tmp_path / "stop" / "derta-seed-1.json").write_text(json.dumps(asdict(stop)))
        write_cells(config, {("derta", 1): tmp_path / "evaluation-test" / "derta"}, {("derta", 1): tmp_path / "none"})
        table = re.split("With the stop|The stop, and", study_table(tmp_path / "cells"))
        assert len(table) == parts
    rates, moved = table[1].split("minus the arm as it is")
    assert [row(part, "derta", "1")[0].split()[0] for part in (table[0], rates, moved)] == ["100.0", "0.0", "-100.0"]
    assert [part.split()[0] for part in row(table[0].split("Attack success")[0], "derta")[:2]] == ["100.0", "0.0"]
    assert "| derta, seed 1 | refusal_probability |" in table[2]


def test_later_steps_wait_for_the_evaluation_and_ask_for_the_same(tmp_path):
    config = RealRunConfig(arms=[RealArm.derta], seeds=[0, 1], output=str(tmp_path), later=50)
    jobs = {job.name: job for job in plan_real(config, "m.gguf")}
    assert {"later derta", "later derta, seed 1"} <= {*jobs["report"].after}
    for suffix, home in (("", tmp_path), (", seed 1", tmp_path / "seed1")):
        later, evaluation = jobs[f"later derta{suffix}"], jobs[f"evaluate derta{suffix}"]
        assert later.after == ["complete: later", evaluation.name]
        assert later.proof == home / "later-50" / "derta" / "after-50" / "summary.json"
        wanted, same = asked(later, "durability", DurabilityRunConfig), asked(evaluation, "evaluate", EvaluateRunConfig)
        assert wanted.steps == [50]
        assert (wanted.model, wanted.eval, wanted.before) == (same.model, same.eval, same.output_dir)
    assert "later" not in " ".join(job.name for job in plan_real(replace(config, later=0), "m.gguf"))


def test_topics_of_later_rows_are_in_no_other_rows():
    files = {file.stem: list(read_lines(file)) for file in (RECIPES / "potions").glob("*.jsonl")}
    later = files.pop("later_helpful")
    others = " ".join(row["question"].lower() for rows in files.values() for row in rows)
    topics = {"-".join(row["id"].split("-")[1:-1]) for row in later}
    assert len(later) == 128 == 2 * len(topics)
    assert [topic for topic in topics if re.search(rf"\b{topic.replace('-', ' ')}\b", others)] == []


def test_what_takes_long_begins_first_and_the_untouched_model_is_evaluated_once(tmp_path):
    config = RealRunConfig(arms=[RealArm.vanilla, RealArm.derta], seeds=[1, 0], output=str(tmp_path))
    names = [job.name for job in plan_real(config, "m.gguf")]
    for suffix in ("", ", seed 1"):
        trained = max(names.index(f"{arm}{suffix}") for arm in ("vanilla", "derta"))
        assert trained < min(names.index(f"evaluate {arm}{suffix}") for arm in ("vanilla", "derta"))
    assert names.count("evaluate base") == 1


def test_every_model_gets_a_stop_and_an_evaluation_with_it(tmp_path):
    config = RealRunConfig(arms=[RealArm.derta, RealArm.derta_18], seeds=[0, 1], output=str(tmp_path), stop=True)
    names = {job.name for job in plan_real(config, "m.gguf")}
    jobs = plan_stop(config, "m.gguf")
    assert len({job.name for job in jobs}) == len(jobs) == 2 + 5 + 4 + 1
    files = write_prompts(tmp_path / "stop")
    for job in jobs:
        assert set(job.after) <= names | {job.name for job in jobs}
        if job.name.startswith("complete"):
            assert set(asked(job, "complete_rows", CompleteRunConfig).helpful) <= {str(file) for file in files.values()}
        elif job.name.startswith("stop "):
            wanted = asked(job, "calibrate_stop", CalibrateRunConfig)
            assert wanted.store is (job.name != "stop base") and job.proof == Path(wanted.output)
            assert len(wanted.monitors) == (1 if "derta_18" in job.name else len(Monitor))
        elif job.name.startswith("evaluate "):
            wanted = asked(job, "evaluate", EvaluateRunConfig)
            assert wanted.eval.guard == "refusal_probability"
            assert wanted.output_dir not in {str(path) for path in evaluations(config).values()}
    assert [problem for problem in replace(config, split="development").problems() if "stop=true" in problem]


def test_everyday_questions_stand_on_one_side_alone_and_are_enough(tmp_path):
    """300 of each kind at least, also where a tenth is dropped; no topic is one that models are trained on."""
    rows = {split: list(read_lines(file)) for split, file in write_prompts(tmp_path).items()}
    for some in rows.values():
        assert len(some) == 360 == len({row["id"] for row in some}) == len({row["question"] for row in some})
    trained = {
        row["question"]
        for part in ("helpful", "borderline")
        for row in read_lines(RECIPES / "potions" / f"train_{part}.jsonl")
    }
    questions = [{row["question"] for row in some} for some in rows.values()]
    assert not questions[0] & questions[1] and not (questions[0] | questions[1]) & trained
    assert not set(TOPICS["development"]) & set(TOPICS["test"])
