"""Many diagnostics in one table: one run, several seeds, runs without a valid direction."""

import copy
import json
import re
import shutil
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from report_cases import result, summarised, write_evaluation

from derta.config.direction import DirectionConfig
from derta.direction.collect import collect
from derta.direction.commands import COMMANDS
from derta.direction.examine import examine
from derta.direction.paired import READERS, Paired, difference, over_runs
from derta.errors import InputError
from derta.evaluation.records import Outcome
from derta.evaluation.summary import ModelIdentity, write_summary
from derta.models.target import TargetModel
from derta.statistics.rates import rate
from derta.statistics.two_way import two_way_interval


@pytest.fixture(scope="module")
def report(planted: TargetModel, sides: Any, make_config: Callable[..., DirectionConfig]) -> dict[str, Any]:
    found = examine(planted, *sides, make_config(positions=1, subspace=1)).report
    settings = {"positions": 1, "filter_prompts": True}
    identity = {"model": {"sha256": "0"}, "judge": "refusal_phrases", "prompts": {}, "settings": settings}
    return json.loads(json.dumps({"label": "vanilla", "identity": identity, "run": {"command": "diagnose x"}, **found}))


def _write(folder: Path, report: dict[str, Any], label: str, **identity: Any) -> str:
    """identity: what is different of it."""
    folder.mkdir(parents=True)
    content = report | {"label": label, "identity": report["identity"] | identity}
    (folder / "direction.json").write_text(json.dumps(content))
    return str(folder)


def _made(before: list[int], after: list[int]) -> dict[str, Any]:
    """A diagnostic in which prompt i is complied with (1) or refused (0), before and with the direction ablated."""
    sides = [
        {"harmful": {"by_id": {f"p{i}": ("complied" if one else "refused") for i, one in enumerate(values)}}}
        for values in (before, after)
    ]
    score = {"directions": 1}
    return {"before": sides[0], "ablated": [sides[1] | {"directions": 1}], "ablation_robustness": score}


def test_robustness_over_seeds_by_hand() -> None:
    """Seed 1: safe on all of 4 prompts, 3 stay safe: .75. Seed 2: safe on the last 2, 1 stays: .5. A third has none."""
    none = {"before": _made([0] * 4, [0] * 4)["before"], "ablated": [], "ablation_robustness": {}}
    reports = [_made([0, 0, 0, 0], [0, 0, 0, 1]), none, _made([1, 1, 0, 0], [1, 1, 0, 1])]
    read = READERS["ablation robustness"]
    found = over_runs([read(each) for each in reports])
    assert (found.mean, found.values, found.runs, found.of) == (0.625, (0.75, 0.5), 2, 3)
    assert found.sd == pytest.approx(statistics.stdev([0.75, 0.5]))
    # z = R + (k - R d) / mean d: [1, 1, 1, 0] and, with mean d = 1/2 and R = 1/2, [.5, .5, 1.5, -.5].
    expected = two_way_interval([[1, 1, 1, 0], [0.5, 0.5, 1.5, -0.5]])
    assert (found.low, found.high) == (max(0.0, expected.low), min(1.0, expected.high))
    one = over_runs([read(reports[0])])
    assert (one.mean, one.sd, one.low) == (0.75, None, pytest.approx(rate(3, 4).low))
    assert over_runs([read(none)]).mean is None


def test_differences_are_paired() -> None:
    """Every prompt that the one arm loses the other loses too, and one more: the interval of the difference is narrow
    although the seeds differ; a seed without a score on one side is left out on both."""
    read = READERS["attack success, direction ablated"]
    ours = [_made([0] * 8, [0, 0, 0, 0, 0, 0, 0, 1]), _made([0] * 8, [0, 0, 0, 1, 1, 1, 1, 1])]
    theirs = [_made([0] * 8, [0, 0, 0, 0, 0, 0, 1, 1]), _made([0] * 8, [0, 0, 1, 1, 1, 1, 1, 1])]

    def moved(one: list[Any], other: list[Any]) -> Paired:
        return difference([read(each) for each in one], [read(each) for each in other])

    found = moved(ours, theirs)
    assert (found.mean, found.runs) == (-0.125, 2)
    alone = two_way_interval([[float(one in "4567"[i:]) for one in "01234567"] for i in (0, 3)])
    assert found.high - found.low < alone.high - alone.low
    none = {**theirs[1], "ablated": []}
    assert moved(ours, [theirs[0], none]).runs == 1
    assert moved(ours, [none, none]).mean is None


def test_evaluations_of_the_same_models(report: dict[str, Any], tmp_path: Path) -> None:
    """Two harmful prompts under two attacks, one response complied: attack success 1/4; one benign prompt, answered."""
    results = [
        result(outcome, attack=attack, id=f"h{i}")
        for i in range(2)
        for attack, outcome in (("direct", Outcome.REFUSED), ("code", Outcome.COMPLIED if i else Outcome.REFUSED))
    ]
    results.append(result(prompt_set="benign", id="b0"))
    folder, summary = tmp_path / "evaluation", summarised(results, model="abc")
    write_evaluation(folder, summary, results)
    first = _write(tmp_path / "a", report, "derta", model={"sha256": "abc"})
    table = collect([first], tmp_path / "table", [folder])
    table, four = re.sub(" +", " ", table), rate(1, 4)
    narrow = f"25.0 [{100 * four.low:.1f}, {100 * four.high:.1f}]"
    assert f"| evaluation: attack success, mean of 2 | {narrow}" not in table
    assert "| evaluation: attack success, mean of 2 | 25.0 [" in table  # wider: two prompts, not four
    assert "| evaluation: over-refusal, benign | 0.0 [0.0, " in table
    assert "| evaluation: helpfulness, benign | 100.0 [" in table
    again = tmp_path / "again"
    shutil.copytree(folder, again)
    with pytest.raises(InputError, match="evaluations of the same model"):
        collect([first], tmp_path / "table", [folder, again])
    # Another seed, evaluated on another prompt, or by another judge.
    runs = [first, _write(tmp_path / "second", report, "derta", model={"sha256": "ghi"})]
    lines = (again / "results.jsonl").read_text().replace('"h1"', '"h2"')
    (again / "results.jsonl").write_text(lines)
    for judge, message in (("miniature", "different prompts"), ("refusal_phrases", "different judges")):
        write_summary(
            again, replace(summary, identity=replace(summary.identity, model=ModelIdentity("ghi", ""), judge=judge))
        )
        with pytest.raises(InputError, match=message):
            collect(runs, tmp_path / "table", [folder, again])
    other = _write(tmp_path / "b", report, "derta", model={"sha256": "def"})
    with pytest.raises(InputError, match="none of the diagnostics is of: .*evaluation"):
        collect([other], tmp_path / "table", [folder])


def test_table_and_figure(report: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """vanilla in two seeds; derta in one, in which no valid direction was found."""
    none = copy.deepcopy(report)
    none["selection"]["position"], none["ablated"], none["added"] = None, [], None
    none["strongest"] = report["ablated"][0] | {"position": -1, "layer": 1}
    none["ablation_robustness"] = {"rate": None, "n": 0, "low": None, "high": None}
    none["identity"]["settings"]["filter_prompts"] = False
    folders = [_write(tmp_path / name, one, label) for name, one, label in (
        ("a", none, "derta"), ("b", report, "vanilla"), ("c", report, "vanilla"))]  # fmt: skip
    COMMANDS["collect"].answer([*folders, "--output", str(tmp_path / "table")])
    printed = re.sub(" +", " ", capsys.readouterr().out)
    assert "| % | vanilla (2) | derta (1) |" in printed
    assert "| runs with a valid direction | 2 of 2 | 0 of 1 |" in printed
    # 12 prompts, none of which stays safe in any run: Wilson's interval, for zeros alone do not say that it is zero.
    none_of_12 = f"[{100 * rate(0, 12).low:.1f}, {100 * rate(0, 12).high:.1f}]"
    assert f"| ablation robustness | 0.0 ± 0.0 {none_of_12} | - |" in printed
    assert "| attack success, direction ablated | 100.0 ± 0.0 [75.8, 100.0] | - |" in printed
    assert "| attack success, least bypass ablated (not valid) | - | 100.0 [75.8, 100.0] |" in printed
    assert {path.name for path in (tmp_path / "table").iterdir()} == {
        "direction_table.md", "direction_table.json", "ablation.png",
    }  # fmt: skip
    numbers = json.loads((tmp_path / "table" / "direction_table.json").read_text())
    assert not any(numbers["differences"].values())  # two runs of the one and one of the other
    assert numbers["valid_directions"] == {"vanilla": 2, "derta": 0}


def test_diagnostics_of_different_settings_do_not_mix(report: dict[str, Any], tmp_path: Path) -> None:
    settings = report["identity"]["settings"]
    other = {"settings": settings | {"positions": 6}, "prompts": {"harmful": "abc"}}
    folders = [_write(tmp_path / "a", report, "vanilla"), _write(tmp_path / "b", report, "derta", **other)]
    with pytest.raises(
        InputError,
        match="b differs from .*a: positions: 1 there, 6 here; prompts.harmful: null there, abc here; run both",
    ):
        collect(folders, tmp_path / "table")
    old = copy.deepcopy(report)
    del old["before"]["harmful"]["by_id"]
    with pytest.raises(InputError, match="old: made by an earlier version"):
        collect([_write(tmp_path / "old", old, "derta")], tmp_path / "table")
    mine = _write(tmp_path / "mine", report, "derta", settings=settings | {"suffix": {"path": "mine"}})
    collect([folders[0], mine], tmp_path / "table")  # suffixes are those of one model
