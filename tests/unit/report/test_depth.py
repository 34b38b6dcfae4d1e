"""Curves over the depth of the prefill, from summaries with outcomes chosen by the test."""

from dataclasses import replace
from pathlib import Path

import vl_convert
from report_cases import listed, summarised, write_evaluation

from derta.charts import specification
from derta.evaluation.records import Outcome
from derta.report.depth import depth_curves, depth_rows, depth_table
from derta.report.html import render_page
from derta.report.page_content import page_content
from derta.report.runs import load_runs
from derta.report.table import render_rates
from derta.statistics.bootstrap import Mean
from derta.statistics.rates import wilson

DEPTHS = {5: 1, 100: 3, 2000: 4}
"""Depth -> responses of four that comply; behind 2,000 tokens there are but four, and two rows were too short."""


def written(folder: Path, depths: dict[int, int]) -> str:
    results = []
    for depth, complied in depths.items():
        outcomes = {Outcome.COMPLIED: complied, Outcome.REFUSED: 4 - complied}
        results += listed(outcomes, attack=f"prefill_{depth}", prefill_tokens=depth)
    summary = summarised(results, "derta", judge="refusal_phrases")
    prompts = summary.sets["harmful"]
    last = f"prefill_{max(depths)}"
    cells = prompts.attacks | {last: replace(prompts.attacks[last], skipped={"response not longer": 2})}
    likelihoods = {"0": Mean(-0.5, -0.75, -0.25, 6), "2000": Mean(-3.25, -3.5, -3.0, 4)}
    prompts = replace(prompts, attacks=cells, log_likelihood=likelihoods, kl_to_base=Mean(0.125, 0.1, 0.15, 6))
    return write_evaluation(folder, replace(summary, sets={"harmful": prompts}), results)


def test_rates_intervals_and_short_rows_of_every_depth(tmp_path):
    runs = load_runs([written(tmp_path / "run", DEPTHS)])
    rows = depth_rows(runs)
    assert [(row["depth"], row["n"], row["left_out"]) for row in rows] == [(5, 4, 0), (100, 4, 0), (2000, 4, 2)]
    assert [row["attack success"].mean for row in rows] == [0.25, 0.75, 1.0]
    assert rows[1]["refusal"].ends == wilson(1 / 4, 4)
    assert [cells[2:] for _, cells in depth_table(runs).rows][2][0] == 2000
    figure = depth_curves(runs)
    assert figure is not None and figure.count == 2 and len(figure.rows["depths"]) == 6
    assert vl_convert.vegalite_to_svg(specification(figure)).count("too short: 2") > 0
    page = render_page(page_content(runs))
    assert ">How deep</h2>" in page and "<td>2000</td>" in page
    assert depth_curves(load_runs([written(tmp_path / "two", {5: 1, 20: 1})])) is None


def test_what_is_no_share_is_shown_in_nats(tmp_path):
    runs = load_runs([written(tmp_path / "run", DEPTHS)])
    table = render_rates(runs)
    assert "| log-likelihood of the harmful answer, nats, token 2000 " in table
    assert " -3.250 [-3.500, -3.000] | " in table and "behind its first 0, 5, ... tokens" in table
    page = render_page(page_content(runs))
    assert "-0.500" in page and "0.125" not in page  # KL belongs to benign sets
