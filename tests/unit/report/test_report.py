import json
import re
import statistics

import pytest
import vl_convert
from report_cases import drawn, write_run

from derta.charts import specification
from derta.errors import InputError
from derta.report.figures import attack_outcomes, cumulative_refusals, refusal_positions, refusal_probability, trade_off
from derta.report.report import write_report
from derta.report.runs import group_by_label, load_runs
from derta.report.table import render_table


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
    # A pipe in a label stays in its cell.
    table = render_table(load_runs([write_run(tmp_path / "pipe", "rto|95")]))
    head, rule = table.splitlines()[:2]
    assert "rto\\|95" in head and head.replace("\\|", "").count("|") == rule.count("|") == 4


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
    assert "gone: no summary.json; run" in str(error.value) and "nowhere" in str(error.value)
    with pytest.raises(InputError, match="runs is empty"):
        load_runs([])


def test_histogram_bars_are_the_shares_of_refusals(tmp_path):
    runs = load_runs([write_run(tmp_path / "a", "base", (20, 20)), write_run(tmp_path / "b", "derta", (0, 1))])
    bars = [bar for bar in drawn(refusal_positions(runs), "bar") if "refusals: 0" not in bar]
    assert [bar.split("; ", 1)[1] for bar in bars] == [
        f"share of refusals: {100 * 20 / 39:.6f}%; kind: no prefill; token: 0; refusals: 20",
        f"share of refusals: {100 * 19 / 39:.6f}%; kind: behind a prefill; token: 6-30; refusals: 19",
    ]
    (tmp_path / "b" / "results.jsonl").unlink()  # the summary alone tells as much
    without = load_runs([str(tmp_path / "b")])
    assert [bar for bar in drawn(refusal_positions(without), "bar") if "refusals: 0" not in bar] == bars
    assert cumulative_refusals(without) is None
    assert "base (0 refusals)" in vl_convert.vegalite_to_svg(specification(refusal_positions(runs[:1])))


def test_trade_off_shows_every_label_at_its_rates(tmp_path):
    folders = [
        write_run(tmp_path / "a", "base", (20, 20), over_refusals=0),
        write_run(tmp_path / "b", "derta", (0, 1), over_refusals=2),
    ]
    first, second = drawn(trade_off(load_runs(folders)), "point")
    at = "over-refusal (← better): {}%; attack success (↓ better): {}%; helpfulness: {}%; checkpoint: {}; "
    assert first.startswith(at.format("0.000000", "100.000000", "100.000000", "base"))
    assert second.startswith(at.format("10.000000", "2.500000", "90.000000", "derta"))
    phrases = load_runs([write_run(tmp_path / "c", "base", judge="refusal_phrases")])
    (point,) = drawn(trade_off(phrases), "point")
    assert "elpfulness" not in point  # no number, no colours, no word


@pytest.mark.parametrize("n", [3, 10, 12, 60])
@pytest.mark.parametrize("complied", ["none", "all"])
def test_rates_of_none_and_all_are_drawn_inside_their_axis(tmp_path, monkeypatch, n, complied):
    """Wilson's bounds of 0 of n and n of n are 0 and 1 only up to rounding."""
    monkeypatch.setattr("report_cases.N", n)
    count = n if complied == "all" else 0
    runs = load_runs([write_run(tmp_path / "a", "base", (count, count), over_refusals=n - count)])
    for label in drawn(trade_off(runs), "rule mark"):
        ends = [float(number) for number in re.findall(r"_(?:low|high): ([^;]+)", label)]
        assert len(ends) == 2 and all(0 <= end <= 1 for end in ends)
    assert drawn(attack_outcomes(runs), "bar") and (count == n or drawn(refusal_positions(runs), "bar"))


def test_probability_figure_draws_the_curves_and_cuts_their_thin_ends(tmp_path):
    chart = refusal_probability(load_runs([write_run(tmp_path / "a", "base")]))
    said = [rule.split("text: ")[1] for rule in drawn(chart, "rule mark")]
    assert len(said) == 40  # one row alone reaches token 40
    assert said[7] == "after token 7\nbenign: 0.100 [0.100, 0.100]\nharmful: 0.900 [0.900, 0.900]"
    assert "base, AUROC 100.0%" in json.dumps(specification(chart))
    assert refusal_probability(load_runs([write_run(tmp_path / "b", "base", probability=False)])) is None


def test_names_of_points_that_lie_together_do_not_cover_one_another(tmp_path):
    folders = [write_run(tmp_path / label, label, (0, 1), over_refusals=2) for label in ("rto", "derta", "dpo")]
    chart = specification(trade_off(load_runs(folders)))
    rows = chart["datasets"]["points"]
    places = {(row["checkpoint"], row["dx"], row["dy"]) for row in rows if row["measure"].endswith("direct")}
    assert len({(dx, dy) for _, dx, dy in places}) == len(places) == 3


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
