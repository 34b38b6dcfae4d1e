"""A report: report.html, report.md (table and where it came from) and the figures, from results files only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from derta.charts import write_png
from derta.errors import InputError
from derta.report.directions import Reports, load_directions, with_scores
from derta.report.figures import refusal_positions, refusal_probability, trade_off
from derta.report.html import render_page
from derta.report.page_content import page_content
from derta.report.runs import Run, load_runs
from derta.report.table import render_table
from derta.storage.atomic import write_atomically

PAGE_FILE = "report.html"
TABLE_FILE = "report.md"
TRADE_OFF_FILE = "trade_off.png"
POSITIONS_FILE = "refusal_positions.png"
PROBABILITY_FILE = "refusal_probability.png"


def write_report(
    folders: Sequence[str],
    output: str,
    *,
    responses: bool = False,
    command: str = "",
    directions: Sequence[str] = (),
) -> str:
    """Write the report of these evaluations and return its table.

    Args:
        responses: put the texts of the responses into report.html. They are as harmful as the models are.
        directions: folders of refusal-direction diagnostics, for a section of their own and, where they are of the same
            weights, for the table.
        command: what makes this report, for the record.

    Raises:
        InputError: evaluations that are missing, unfinished or not comparable; an output that cannot be written.
    """
    found = load_directions(directions)
    runs = with_scores(load_runs(folders), found)
    table = render_table(runs)
    figures = {
        TRADE_OFF_FILE: trade_off(runs),
        POSITIONS_FILE: refusal_positions(runs),
        PROBABILITY_FILE: refusal_probability(runs),
    }
    write_page(runs, output, responses=responses, command=command, directions=found)
    directory = Path(output)
    try:
        images = []
        for name, figure in figures.items():
            if figure is not None:
                write_png(figure, directory / name)
                images.append(f"![{Path(name).stem.replace('_', ' ')}]({name})")
        text = "\n".join(["# Evaluation", "", table, *images, ""])
        (directory / TABLE_FILE).write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"output={output} cannot be written: {error.strerror}") from error
    return table


def write_page(
    runs: Sequence[Run],
    output: str,
    *,
    responses: bool = False,
    command: str = "",
    directions: Reports | None = None,
) -> Path:
    """Write report.html alone, and say where it is.

    Raises:
        InputError: an output that cannot be written; texts asked for from a run without results.jsonl.
    """
    page = render_page(page_content(runs, command=command, responses=responses, directions=directions))
    file = Path(output) / PAGE_FILE
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, page)
    except OSError as error:
        raise InputError(f"output={output} cannot be written: {error.strerror}") from error
    return file
