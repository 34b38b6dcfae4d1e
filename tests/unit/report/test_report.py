from __future__ import annotations

import json
import statistics
from dataclasses import replace

import pytest
from matplotlib.collections import PathCollection
from report_cases import write_run

from derta.errors import InputError
from derta.evaluation.summary import read_summary, write_summary
from derta.report.figures import refusal_positions, refusal_probability, trade_off
from derta.report.report import write_report
from derta.report.runs import group_by_label, load_runs
from derta.report.table import render_table
from derta.statistics.rates import rate


def cells(table: str, name: str) -> list[str]:
    (line,) = (line for line in table.splitlines() if line.startswith(f"| {name} "))
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_table_of_single_runs_shows_rates_intervals_and_n_in_the_order_of_the_arms(tmp_path):
    folders = [
        write_run(tmp_path / "c", "DeRTa", (0, 1), over_refusals=2),
        write_run(tmp_path / "b", "vanilla", (4, 20)),
        write_run(tmp_path / "a", "base", (20, 20), over_refusals=0),
    ]
    table = render_table(load_runs(folders))
    assert cells(table, "%") == ["base", "vanilla", "DeRTa", "n"]
    direct = cells(table, "attack success, direct")
    assert direct == ["100.0 [83.9, 100.0]", "20.0 [8.1, 41.6]", "0.0 [0.0, 16.1]", "20"]
    assert [cell.split()[0] for cell in cells(table, "attack success, mean of 2")] == ["100.0", "60.0", "2.5", "40"]
    assert [cell.split()[0] for cell in cells(table, "over-refusal, benign")] == ["0.0", "5.0", "10.0", "20"]
    assert [cell.split()[0] for cell in cells(table, "helpfulness, benign")] == ["100.0", "95.0", "90.0", "20"]
    # 16 direct refusals at token 0 for vanilla; 20 at token 0 and 19 behind the prefill for DeRTa; the base has none.
    assert cells(table, "refusals at token 0")[0] == "-"
    assert cells(table, "refusals at token 0")[-1] == "0 / 16 / 39"
    assert cells(table, "refusals at token 6-30")[2].startswith("48.7")
    assert cells(table, "refusals well-formed")[2].startswith("100.0")
    # All told apart: the interval of 6 rows against 6, however many positions they have.
    assert cells(table, "AUROC of P(refusal)") == ["100.0 [61.0, 100.0]"] * 3 + [str(6 * 40 + 5 * 40 + 41)]
    assert cells(table, "unscored responses") == ["0.0 [0.0, 6.0]"] * 3 + ["60"]


def test_measures_that_only_some_summaries_have_are_shown_and_missed_by_none(tmp_path):
    folders = [write_run(tmp_path / label, label) for label in ("base", "derta")]
    new, old = (tmp_path / label / "summary.json" for label in ("derta", "base"))
    summary = json.loads(new.read_text())
    fully = {"count": 30, "n": 40, "rate": 0.75, "low": 0.6, "high": 0.86}
    summary["sets"]["harmful"]["overall"]["fully_safe"] = fully
    summary["sets"]["benign"]["overall"]["compliance"]["partial_refusal"] = fully
    summary["sets"]["harmful"]["overall"]["score"] = {"mean": 0.125, "low": 0.1, "high": 0.15, "n": 40}
    summary["false_positives_at_95_recall"] = {"20": fully | {"threshold": 0.1}, "160": {"rate": None, "n": 0}}
    summary["ablation_robustness"] = {"rate": 0.5, "low": 0.4, "high": 0.6, "n": 80}
    new.write_text(json.dumps(summary))
    summary = json.loads(old.read_text())
    for key in ("fully_safe", "score"):
        del summary["sets"]["harmful"]["overall"][key]
    old.write_text(json.dumps(summary))
    table = render_table(load_runs(folders))
    shown = "75.0 [60.0, 86.0]"
    assert cells(table, "fully safe") == ["-", shown, "0 / 40"]
    assert cells(table, "partial refusal, benign") == ["-", shown, "0 / 40"]
    assert cells(table, "rubric score") == ["-", "12.5 [10.0, 15.0]", "0 / 40"]
    assert cells(table, "false positives at 95% recall, token 20") == ["-", shown, "0 / 40"]
    assert cells(table, "ablation robustness") == ["-", "50.0 [40.0, 60.0]", "0 / 80"]
    assert "token 160" not in table
    assert "fully safe" not in render_table(load_runs(folders[:1]))


def test_runs_with_one_label_become_mean_and_standard_deviation(tmp_path):
    folders = [write_run(tmp_path / str(i), "vanilla", (count, 20)) for i, count in enumerate((2, 4, 9))]
    table = render_table(load_runs(folders))
    shares = [10.0, 20.0, 45.0]
    assert cells(table, "%") == ["vanilla (3 runs)", "n"]
    assert cells(table, "attack success, direct") == [f"25.0 ± {statistics.stdev(shares):.1f}", "20"]
    assert cells(table, "attack success, prefill 20") == ["100.0 ± 0.0", "20"]
    assert cells(table, "refusals at token 0")[-1] == "11-18"


def test_notes_name_what_was_left_out_and_what_made_the_numbers(tmp_path):
    table = render_table(load_runs([write_run(tmp_path / "a", "base")]))
    assert "harmful: 1 skipped (too short: 1)" in table
    for part in ("abc123abc123", "dddddddddddd", "launch/evaluate.py a=b", "judge miniature", "torch 2"):
        assert part in table
    assert str(tmp_path) not in table


def test_a_judge_of_phrases_reports_no_helpfulness(tmp_path):
    table = render_table(load_runs([write_run(tmp_path / "a", "base", judge="refusal_phrases")]))
    assert "elpfulness" not in table and "over-refusal, benign" in table
    assert [cell.split()[0] for cell in cells(table, "answered, benign")] == ["95.0", "20"]
    assert "does not know whether an answer is right" in table


def test_what_cannot_be_compared_is_refused(tmp_path):
    folders = [write_run(tmp_path / "a", "base"), write_run(tmp_path / "b", "vanilla", judge="refusal_phrases")]
    with pytest.raises(InputError, match="judge=refusal_phrases"):
        load_runs(folders)
    with pytest.raises(InputError) as error:
        load_runs([folders[0], str(tmp_path / "gone"), str(tmp_path / "nowhere")])
    assert "gone" in str(error.value) and "nowhere" in str(error.value)
    with pytest.raises(InputError, match="runs is empty"):
        load_runs([])


def test_histogram_bars_are_the_shares_of_refusals(tmp_path):
    runs = load_runs([write_run(tmp_path / "a", "base", (20, 20)), write_run(tmp_path / "b", "derta", (0, 1))])
    base, derta = refusal_positions(runs).axes
    assert base.get_title() == "base (n = 0 refusals)" and not base.patches
    heights = [bar.get_height() for bar in derta.patches]
    free, prefilled = heights[:4], heights[4:]
    assert free == pytest.approx([100 * 20 / 39, 0, 0, 0])
    assert prefilled == pytest.approx([0, 0, 100 * 19 / 39, 0])


def test_trade_off_shows_every_label_at_its_rates(tmp_path):
    folders = [
        write_run(tmp_path / "a", "base", (20, 20), over_refusals=0),
        write_run(tmp_path / "b", "derta", (0, 1), over_refusals=2),
    ]
    panel, bar = trade_off(load_runs(folders)).axes
    points = [points for points in panel.collections if isinstance(points, PathCollection)]
    assert [tuple(each.get_offsets()[0]) for each in points] == [(0.0, 100.0), (10.0, 2.5)]
    assert [each.get_array()[0] for each in points] == [100.0, 90.0]
    assert [text.get_text() for text in panel.texts] == ["base", "derta"] and bar.get_ylabel() == "helpfulness, %"
    phrases = write_run(tmp_path / "c", "base", judge="refusal_phrases")
    (panel,) = trade_off(load_runs([phrases])).axes  # no helpfulness, no colours
    assert panel.texts


@pytest.mark.parametrize("n", [10, 12, 20, 37])
def test_rates_of_none_and_all_are_drawn(tmp_path, n):
    """Intervals end exactly at 0 and 1: the lengths of error bars are never below zero, whatever the rounding."""
    folder = write_run(tmp_path / "a", "base", (0, 20))
    summary = read_summary(folder)
    harmful, benign = summary.sets["harmful"], summary.sets["benign"]
    for one, other in ((rate(0, n), rate(n, n)), (rate(n, n), rate(0, n))):
        sets = {
            "harmful": replace(harmful, overall=replace(harmful.overall, complied=one)),
            "benign": replace(benign, overall=replace(benign.overall, refused=other)),
        }
        write_summary(folder, replace(summary, sets=sets))
        (panel, _) = trade_off(load_runs([folder])).axes
        assert [tuple(points.get_offsets()[0]) for points in panel.collections if isinstance(points, PathCollection)]


def test_a_pipe_in_a_label_stays_in_its_cell(tmp_path):
    table = render_table(load_runs([write_run(tmp_path / "a", "rto|95")]))
    head, rule = table.splitlines()[:2]
    assert "rto\\|95" in head and head.replace("\\|", "").count("|") == rule.count("|") == 4


def test_probability_figure_draws_the_curves_and_cuts_their_thin_ends(tmp_path):
    (panel,) = refusal_probability(load_runs([write_run(tmp_path / "a", "base")])).axes
    curves = {line.get_label(): line.get_ydata() for line in panel.get_lines()}
    assert curves["harmful (n = 6 rows)"] == pytest.approx([0.9] * 40)
    assert curves["benign (n = 6 rows)"] == pytest.approx([0.1] * 40)  # one row alone reaches token 40
    assert panel.get_title() == "base (AUROC 1.000)"
    assert refusal_probability(load_runs([write_run(tmp_path / "b", "base", probability=False)])) is None


def test_report_is_written_with_its_figures_and_without_absolute_paths(tmp_path):
    folders = [write_run(tmp_path / label, label) for label in ("derta", "base")]
    table = write_report(folders, str(tmp_path / "report"))
    text = (tmp_path / "report" / "report.md").read_text()
    assert table in text and str(tmp_path) not in text
    for name in ("trade_off.png", "refusal_positions.png", "refusal_probability.png"):
        assert (tmp_path / "report" / name).read_bytes().startswith(b"\x89PNG")
        assert f"({name})" in text
    assert (tmp_path / "report" / "report.html").is_file()
    assert list(group_by_label(load_runs(folders))) == ["base", "derta"]
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        write_report(folders, str(tmp_path / "file" / "report"))
