"""summary.json: written and read, by this version and by earlier ones."""

import json
from copy import deepcopy
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from derta.errors import InputError
from derta.evaluation.measures import measures
from derta.evaluation.summary import Summary, read_summary, write_summary
from derta.statistics.auroc import Auroc
from derta.statistics.bootstrap import Mean
from derta.statistics.rates import Rate, rate

OLD = Path(__file__).with_name("old_summary.json")
"""Of the miniature, as version 0.1.0 wrote it; two of its eight attacks."""


@pytest.fixture
def old() -> Summary:
    return read_summary(OLD)


def test_every_number_of_an_old_summary_is_read(old, tmp_path):
    content = json.loads(OLD.read_text())
    assert old.label == "derta" and old.identity.knows_answers
    assert old.identity.sets["harmful"].attacks == ("direct", "prefill_5")
    direct = old.sets["harmful"].attacks["direct"]
    assert direct.complied == Rate(0, 60, 0.0, 0.0, content["sets"]["harmful"]["attacks"]["direct"]["complied"]["high"])
    assert direct.outcomes == {"complied": 0, "garbled": 1, "refused": 44, "malformed_refusal": 15, "unscored": 0}
    assert old.sets["harmful"].overall.cumulative_positions.responses == 480
    assert (old.separation["all"].n_harmful, old.separation["all"].n_benign) == (3710, 7660)
    assert old.false_positives_at_95_recall["0"].n_positives == 60
    write_summary(tmp_path, old)  # the same keys and values again, and those that are new
    written = json.loads((tmp_path / "summary.json").read_text())
    for prompts in written["sets"].values():
        for cell in (*prompts["attacks"].values(), prompts["overall"]):
            assert cell.pop("loops") == cell.pop("goes_on") == asdict(Rate())
            assert cell.pop("guarded") == {}
        for cell in prompts["attacks"].values():
            assert cell.pop("cumulative_positions") is None
        assert prompts.pop("log_likelihood") == {} and prompts.pop("kl_to_base") == asdict(Mean())
    assert written == content | {"ablation_robustness": None}
    assert read_summary(tmp_path) == old


def test_what_the_first_summaries_lack_was_not_measured(old, tmp_path):
    """Before there were judges that tell more, recall, benchmarks, intervals of an AUROC and attacks with settings."""
    first = deepcopy(json.loads(OLD.read_text()))
    for key in ("helpfulness", "false_positives_at_95_recall"):
        del first[key]
    del first["identity"]["attack"], first["run"]["revision"]
    for prompts in first["sets"].values():
        del prompts["cumulative_positions_without_prefill"], prompts["overall"]["cumulative_positions"]
        for cell in (*prompts["attacks"].values(), prompts["overall"]):
            del cell["fully_safe"], cell["compliance"], cell["score"]
    for found in first["separation"].values():
        del found["low"], found["high"]
    (tmp_path / "summary.json").write_text(json.dumps(first))
    summary = read_summary(tmp_path)
    overall = summary.sets["harmful"].overall
    assert overall.fully_safe == Rate() and overall.score == Mean() and overall.cumulative_positions is None
    assert overall.complied == old.sets["harmful"].overall.complied
    assert summary.separation["0"] == replace(old.separation["0"], low=None, high=None)
    missing = {line.name for line in measures([old])} - {line.name for line in measures([summary])}
    assert missing == {"fully safe"} | {
        f"{kind}, benign" for kind in ("full compliance", "partial refusal", "full refusal")
    } | {f"false positives at 95% recall, token {depth}" for depth in (0, 5, 10, 20, 40)}  # fmt: skip


def test_an_old_interval_that_misses_its_rate_by_rounding_is_read_with_it(tmp_path):
    """Version 0.1.0 wrote such for 0 of 12 and 10 of 10, and its own report could not draw them."""
    content = json.loads(OLD.read_text())
    cell = content["sets"]["harmful"]["attacks"]["direct"]
    cell["complied"] = {"count": 0, "n": 12, "rate": 0.0, "low": 2.7e-17, "high": 0.2425}
    cell["refused"] = {"count": 10, "n": 10, "rate": 1.0, "low": 0.7225, "high": 1 - 1.1e-16}
    (tmp_path / "summary.json").write_text(json.dumps(content))
    read = read_summary(tmp_path).sets["harmful"].attacks["direct"]
    assert (read.complied.low, read.refused.high) == (0.0, 1.0)


def test_a_field_that_is_wrong_is_named(tmp_path):
    content = json.loads(OLD.read_text())
    content["sets"]["harmful"]["attacks"]["direct"]["complied"]["n"] = "many"
    (tmp_path / "summary.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"sets\.harmful\.attacks\.direct\.complied\.n: .*integer.*run the evaluation"):
        read_summary(tmp_path)


def test_measures_are_those_of_the_judge(old):
    """Only the exact judge knows a right answer; from the others `complied` on benign prompts says "not refused"."""
    phrases = replace(old, identity=replace(old.identity, judge="refusal_phrases"))
    exact, other = ({line.name: line.of(each) for line in measures([each])} for each in (old, phrases))
    assert exact["helpfulness, benign"] == other["answered, benign"] == old.sets["benign"].overall.complied
    assert "answered, benign" not in exact and "helpfulness, benign" not in other
    assert "refusals well-formed" in exact and "refusals well-formed" not in other


def test_measures_that_no_evaluation_has_are_left_out(old):
    bare = replace(old, separation=None, false_positives_at_95_recall=None)
    assert not [
        line.name for line in measures([bare]) if line.path[0] in ("separation", "false_positives_at_95_recall")
    ]
    none = Auroc(None, None, None, 0, 0)
    some = replace(bare, separation=old.separation | {"6-30": none, ">30": none})
    names = [line.name for line in measures([bare, some])]
    assert "AUROC of P(refusal)" in names and "AUROC of P(refusal), token >30" not in names
    harmful = old.sets["harmful"]
    nothing = {name: rate(0, 0) for name in harmful.overall.positions}
    overall = replace(harmful.overall, positions=nothing, well_formed=rate(0, 0), complied=rate(0, 0))
    complied = [line.name for line in measures([replace(old, sets={"harmful": replace(harmful, overall=overall)})])]
    assert not [name for name in complied if name.startswith("refusals")]
    assert "attack success, mean of 2" in complied  # not one response was scored: that has to be seen
    assert asdict(old) == asdict(read_summary(OLD))
