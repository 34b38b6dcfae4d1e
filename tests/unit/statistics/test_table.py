"""The engine of all tables."""

import ast
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

import derta
from derta.statistics.table import Estimate, markdown, tabulate


class Measure(NamedTuple):
    of: Callable[[float], float]


def test_measures_of_runs_by_arm():
    arms = {"a": [1.0, 3.0], "b": [5.0]}
    whole, half = Measure(lambda run: run), Measure(lambda run: run / 2)
    table = tabulate(arms, [whole, half], sum)
    assert table == {whole: {"a": 4.0, "b": 5.0}, half: {"a": 2.0, "b": 2.5}}


@pytest.mark.parametrize(
    ("number", "how", "text"),
    [
        (Estimate(0.25, 0.1, 0.2, 0.3), {}, "25.0 ± 10.0 [20.0, 30.0]"),
        (Estimate(0.25, 0.1, 0.2, 0.3), {"interval": False}, "25.0 ± 10.0"),
        (Estimate(-0.25, 0.1, -0.3, 0.1), {"spread": False, "sign": "+"}, "-25.0 [-30.0, +10.0]"),
        (Estimate(1.0), {}, "100.0"),
        (Estimate(), {}, "-"),
    ],
)
def test_a_number_in_per_cent(number, how, text):
    assert number.text(**how) == text


def test_markdown_is_aligned_and_its_cells_stay_cells():
    table = markdown([["%", "rto|95", "n"], ["attack\nsuccess", "25.0", "a\\|b"]])
    assert table.splitlines() == [
        r"| %              | rto\|95 |      n |",
        r"| -------------- | ------: | -----: |",
        r"| attack success |    25.0 | a\\\|b |",
    ]


def test_no_other_module_writes_rows_of_markdown():
    """Cells are escaped in one place only if all tables are made there."""
    package = Path(derta.__file__).parent
    writers = {
        file.relative_to(package).as_posix()
        for file in package.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and re.match(r"\| |.*\|--|.* \|$", node.value)
        and "\n" not in node.value
    }
    assert writers == {"statistics/table.py"}
