"""launch/diagnose_direction.py as a user calls it: select on a table, a study of two models, mistakes."""

import json
import re
from pathlib import Path

import pytest
from training_cases import REPOSITORY

from derta.config.compose import configure, read
from derta.config.direction import StudyRunConfig
from derta.direction.commands import COMMANDS, study
from derta.direction.selection import Candidate, write_table
from derta.miniature.model import write_fresh_model
from derta.miniature.rows import generate

LAUNCH = REPOSITORY / "launch" / "diagnose_direction.py"


def test_select_prints_json_and_nothing_else(command, tmp_path: Path) -> None:
    table = tmp_path / "direction_evaluations.json"
    write_table(
        table, [Candidate(-1, 0, -1.0, 1.0, 0.0), Candidate(-2, 1, -3.0, 1.0, 0.01), Candidate(-2, 4, -9, 1, 0)]
    )
    done = command(LAUNCH, "select", f"table={table.name}")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert json.loads(done.stdout) == {"position": -2, "layer": 1, "survivors": 2}


def test_mistakes_are_told_without_a_traceback(command) -> None:
    """A table that is none; and, of the diagnostic itself, two wrong overrides at once."""
    missing = command(LAUNCH, "select", "table=nothing.json")
    assert missing.returncode == 2 and missing.stderr.startswith("error: nothing.json: cannot be read")
    wrong = command(LAUNCH, "direction.positions=0", "direction.batch_sise=3")
    assert wrong.returncode == 2 and "Traceback" not in wrong.stderr
    assert "direction.positions=0" in wrong.stderr and "no key 'batch_sise'; did you mean" in wrong.stderr


@pytest.fixture(scope="module")
def miniature(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An untrained miniature model, and rows of its world: 12 harmful and 12 benign."""
    place = tmp_path_factory.mktemp("miniature")
    for side, part in (("harmful", "eval_harmful"), ("harmless", "eval_benign")):
        rows = generate(part, 12, seed=5)
        (place / f"{side}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return write_fresh_model(place / "fresh", seed=0), place


def test_a_study_of_models_that_refuse_nothing(miniature: tuple[Path, Path], tmp_path: Path) -> None:
    """All harmful prompts are filtered out, so the study looks without the filter; nothing valid is found, and says so.
    The second call finds everything done."""
    model, rows = miniature
    settings = [
        *(f"direction.{side}.path={rows / side}.jsonl" for side in ("harmful", "harmless")),
        *(f"direction.{side}.format=preference" for side in ("harmful", "harmless")),
        *(f"direction.{side}.source=null" for side in ("harmful", "harmless")),
        "direction.splits.train=4", "direction.splits.validation=4", 
        "direction.splits.test=4", "direction.max_new_tokens=2", "direction.selection.kl_max=0",
    ]  # fmt: skip
    words = [f"models={{base:[{model},{model}]}}", f"output_dir={tmp_path / 'study'}", *settings]
    table = study(configure("diagnose_direction", StudyRunConfig, words))
    assert "| runs with a valid direction | 0 of 2 |" in re.sub(" +", " ", table)
    report = json.loads((tmp_path / "study" / "base-1" / "direction.json").read_text())
    assert report["filtered"] is False and report["positions"] == 6
    stamps = [path.stat().st_mtime_ns for path in sorted((tmp_path / "study").glob("*/direction.json"))]
    assert len(stamps) == 2
    assert study(configure("diagnose_direction", StudyRunConfig, words)) == table
    assert [path.stat().st_mtime_ns for path in sorted((tmp_path / "study").glob("*/direction.json"))] == stamps


def test_a_study_names_what_it_cannot_read() -> None:
    problems = read("diagnose_direction", StudyRunConfig, ["direction.positions=0"])[1]
    assert "models={}: expected models by their label, models={LABEL:DIR,LABEL:[DIR,DIR]}" in problems
    assert "direction.positions=0: expected null or a whole number, at least 1" in problems


@pytest.mark.parametrize(
    ("command", "older", "today"),
    [
        ("study", ["--output", "o", "a=runs/a", "b=runs/b 1", "a=c", "--set", "direction.positions=2", "label=x"],
         ["direction.positions=2", "label=x", "models={a:[runs/a,c],b:['runs/b 1']}", "output_dir=o"]),
        ("collect", ["runs/a", "runs/b", "--output=o", "--evaluations", "e", "f"],
         ["results=[runs/a,runs/b]", "output=o", "evaluations=[e,f]"]),
        ("select", ["--table", "t.json", "--kl-max", "0.2"], ["table=t.json", "kl_max=0.2"]),
        ("convert", ["--file", "d.pt"], ["file=d.pt"]),
        ("select", ["table=t.json", "--help"], ["table=t.json", "--help"]),
    ],
)  # fmt: skip
def test_older_spellings_still_answer(command: str, older: list[str], today: list[str]) -> None:
    assert COMMANDS[command].modern(older) == today
