"""The table: Markdown for people, JSON with every sample for machines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from derta.benchmark.measure import Line
from derta.statistics.table import markdown


def as_table(lines: Sequence[Line]) -> str:
    """A Markdown table, a line per measurement."""
    rows = [["", "what", "ours", "peer", "ratio", "goal", "met?"]]
    for line in lines:
        goal = "" if line.goal is None else f"{'>=' if line.at_least else '<='} {line.goal:g}"
        verdict = {None: "", True: "met", False: "missed"}[line.met]
        peer = "" if line.peer is None else f"{_number(line.peer)} ({line.peer_name})"
        what = f"{line.what} ({line.note})" if line.note else line.what
        ratio = "" if line.ratio is None else f"{line.ratio:.2f}"
        rows.append([line.suite, what, f"{_number(line.ours)} {line.unit}", peer, ratio, goal, verdict])
    return markdown(rows, left=2)


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def as_markdown(lines: Sequence[Line], machine: dict[str, Any], command: str) -> str:
    facts = ", ".join(f"{name} {value}" for name, value in machine.items())
    return f"`{command}`\n\n{facts}\n\n{as_table(lines)}\n"


def write(lines: Sequence[Line], machine: dict[str, Any], command: str, output: Path) -> None:
    """benchmark.json and benchmark.md in `output`."""
    output.mkdir(parents=True, exist_ok=True)
    content = {"command": command, "machine": machine, "lines": [{**asdict(line), "met": line.met} for line in lines]}
    (output / "benchmark.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    (output / "benchmark.md").write_text(as_markdown(lines, machine, command), encoding="utf-8")
