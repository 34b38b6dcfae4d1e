"""A report: report.html, report.md (table and where it came from) and the figures, from results files only."""

from collections.abc import Sequence
from pathlib import Path

from derta.charts import write_png
from derta.direction.collect import load_reports
from derta.report.depth import depth_curves
from derta.report.directions import Reports, with_scores
from derta.report.figures import refusal_positions, refusal_probability, trade_off
from derta.report.html import render_page
from derta.report.later import Axis, later_curves
from derta.report.page_content import page_content
from derta.report.runs import Run, load_runs
from derta.report.table import render_table
from derta.storage.atomic import write_atomically, write_errors_named

PAGE_FILE = "report.html"


def write_report(
    folders: Sequence[str], output: str, *, responses: bool = False, command: str = "", directions: Sequence[str] = ()
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
    found = load_reports(directions)
    runs = with_scores(load_runs(folders), found)
    table = render_table(runs)
    write_page(runs, output, responses=responses, command=command, directions=found)
    drawn = {
        "trade_off": trade_off(runs),
        "depth": depth_curves(runs),
        "refusal_positions": refusal_positions(runs),
        "refusal_probability": refusal_probability(runs),
        **{f"later_{axis}": later_curves(runs, axis) for axis in Axis},
    }
    figures = {name: figure for name, figure in drawn.items() if figure is not None}
    images = [f"![{name.replace('_', ' ')}]({name}.png)" for name in figures]
    with write_errors_named(f"output={output}", f"{PAGE_FILE} is there"):
        for name, figure in figures.items():
            write_png(figure, Path(output) / f"{name}.png")
        write_atomically(Path(output) / "report.md", "\n".join(["# Evaluation", "", table, *images, ""]))
    return table


def write_page(
    runs: Sequence[Run], output: str, *, responses: bool = False, command: str = "", directions: Reports | None = None
) -> Path:
    """Write report.html alone, and say where it is. Raises InputError: an output that cannot be written; texts asked
    for from a run without results.jsonl."""
    page = render_page(page_content(runs, command=command, responses=responses, directions=directions))
    file = Path(output) / PAGE_FILE
    with write_errors_named(f"output={output}"):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, page)
    return file
