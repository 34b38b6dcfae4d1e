"""The collected table of a sweep, from results files written here, with the arithmetic in the test."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
from report_cases import result, summarised, write_evaluation

from derta.errors import InputError
from derta.evaluation.records import Outcome
from derta.report.collected import MEMBER_FILE, aligned
from derta.report.collected_tables import write_tables
from derta.statistics.two_way import t_quantile

COMPLIED, REFUSED, MALFORMED = Outcome.COMPLIED, Outcome.REFUSED, Outcome.MALFORMED_REFUSAL
LETTERS = {"x": COMPLIED, ".": REFUSED, "m": MALFORMED, "?": Outcome.UNSCORED}


def evaluation(root: Path, arm: str, seed: int, sha: str = "a" * 64, **outcomes: str) -> Path:
    """A finished evaluation: attack -> a letter per harmful prompt (see LETTERS)."""
    results = [
        result(LETTERS[letter], attack=attack, id=str(i), refusal_token=0 if letter in ".m" else None)
        for attack, letters in outcomes.items()
        for i, letter in enumerate(letters)
    ]
    folder = root / f"seed-{seed}" / "evaluation" / arm
    write_evaluation(folder, summarised(results, arm, data=sha), results)
    (folder / MEMBER_FILE).write_text(json.dumps({"arm": arm, "seed": seed}))
    return folder


def test_means_spread_and_paired_differences_by_hand(tmp_path):
    evaluation(tmp_path, "vanilla", 1, direct="xx.x")
    evaluation(tmp_path, "vanilla", 2, direct="xxxx")
    evaluation(tmp_path, "derta", 1, direct="x..m")
    evaluation(tmp_path, "derta", 2, direct=".x..")
    text = write_tables(tmp_path, tmp_path / "table")
    found = json.loads((tmp_path / "table" / "table.json").read_text())
    assert list(found["arms"]) == ["vanilla", "derta"]  # in the order of the reports
    direct = found["arms"]["vanilla"]["measures"]["attack success, direct"]
    assert direct["mean"] == 7 / 8 and direct["sd"] == pytest.approx(math.sqrt(2) / 8)  # 3/4 and 4/4
    assert found["arms"]["derta"]["measures"]["malformed refusals"]["mean"] == 1 / 8
    assert found["arms"]["derta"]["measures"]["refusals well-formed"]["mean"] == pytest.approx((2 / 3 + 1) / 2)

    # derta - vanilla, seed by seed and prompt by prompt: 0 -1 0 -1 and -1 0 -1 -1, mean -5/8.
    [moved] = [d for d in found["differences"] if d["measure"] == "attack success, direct"]
    assert (moved["before"], moved["after"], moved["mean"]) == ("vanilla", "derta", -5 / 8)
    # Seed means -1/2 and -3/4: variance 1/32, MS 4/32. Prompt means -1/2 -1/2 -1/2 -1: variance 1/16, MS 2/16.
    # Sum of squares about the mean 5 - 8 (5/8)^2 = 15/8, rest 15/8 - 1/8 - 3/8 = 11/8, MS 11/24.
    # MS_seed + MS_prompt - MS_rest is below zero, so the larger of the two counts, with the fewer degrees.
    half = t_quantile(1) * math.sqrt((1 / 8) / 8)
    assert -5 / 8 - half < -1 == moved["low"] and moved["high"] == pytest.approx(-5 / 8 + half)
    assert moved["apart"] is False
    assert "| derta   |" in text and "**" not in text.split("Paired differences")[1].split("- Prompts")[0]


def test_a_clear_difference_is_bold_and_a_csv_line(tmp_path):
    for seed in (1, 2, 3):
        evaluation(tmp_path, "vanilla", seed, direct="x" * 20)
        evaluation(tmp_path, "derta", seed, direct="." * 19 + ("x" if seed == 1 else "."))
    text = write_tables(tmp_path, tmp_path / "table")
    with (tmp_path / "table" / "differences.csv").open() as stream:
        rows = [row for row in csv.DictReader(stream) if row["measure"] == "attack success, direct"]
    assert [(row["before"], row["after"], row["apart"], row["seeds"], row["prompts"]) for row in rows] == [
        ("vanilla", "derta", "True", "3", "20")
    ]
    assert f"**{100 * float(rows[0]['mean']):+.1f} [" in text
    with (tmp_path / "table" / "table.csv").open() as stream:
        assert {row["arm"] for row in csv.DictReader(stream)} == {"vanilla", "derta"}


def test_only_seeds_that_both_arms_have_are_paired(tmp_path):
    for seed in (1, 2):
        evaluation(tmp_path, "vanilla", seed, direct="xx")
    evaluation(tmp_path, "rto", 2, direct="..")
    write_tables(tmp_path, tmp_path / "table")
    found = json.loads((tmp_path / "table" / "table.json").read_text())
    [difference] = [d for d in found["differences"] if d["measure"].startswith("attack")]
    assert difference["seeds"] == 1 and difference["apart"] is False


def test_the_mean_weighs_attacks_alike_and_leaves_unscored_prompts_out():
    """Attack a: 1 of 2 scored prompts, attack b: 3 of 4; the mean of the rates is 5/8, though 4 of 6 count."""
    cells = {"a": {"1": True, "2": False}, "b": {"1": True, "2": True, "3": True, "4": False}}
    [table] = aligned([[cells]])
    assert table.shape == (1, 4) and table.mean() == pytest.approx((1 / 2 + 3 / 4) / 2)
    one, other = aligned([[cells], [{"a": {"1": True}, "b": {"1": True, "2": False}}]])
    assert np.array_equal(one.shape, other.shape) and one.mean() == 1.0 and other.mean() == pytest.approx(3 / 4)
    assert aligned([[{"a": {"1": True}}, {"a": {"2": True}}]]) is None


def test_evaluations_that_do_not_belong_together_are_named(tmp_path):
    with pytest.raises(InputError, match="holds no finished evaluation"):
        write_tables(tmp_path, tmp_path / "table")
    evaluation(tmp_path, "vanilla", 1, direct="x")
    evaluation(tmp_path, "derta", 1, sha="c" * 64, direct="x")
    with pytest.raises(InputError, match="seed-1/evaluation/vanilla has other prompts than .*derta"):
        write_tables(tmp_path, tmp_path / "table")
    twice = evaluation(tmp_path / "more", "vanilla", 1, direct="x")
    evaluation(tmp_path, "derta", 1, direct="x")
    with pytest.raises(InputError, match="arm vanilla with seed 1 is there several times"):
        write_tables(tmp_path, tmp_path / "table")
    assert twice.is_dir()
