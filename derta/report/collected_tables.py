"""The tables of a sweep as files. Arms are rows, because there may be many of them.

ROOT/**/evaluation/*/  results.jsonl, summary.json, sweep.json (arm, seed)
                                      |
OUTPUT/table.md   table.json   table.csv   differences.csv
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from derta.evaluation.measures import SUCCESS, SummaryMeasure
from derta.report.collected import Collected, Difference, Member, collect, load_members
from derta.statistics.table import Estimate, markdown
from derta.storage.atomic import write_atomically, write_errors_named, write_json_atomically
from derta.storage.csv_files import csv_text


def write_tables(root: Path, output: Path) -> str:
    """Collect every finished evaluation of the sweep below `root`, write the four files, and return the Markdown.
    Raises InputError: no finished evaluation; evaluations that do not belong into one table; an unwritable output."""
    collected = collect(load_members(root))
    text, content = render(collected), _content(collected)
    long = [
        {"arm": arm, "measure": name, **asdict(found)}
        for arm in collected.arms
        for name, cells in collected.numbers.items()
        if (found := cells[arm])
    ]
    with write_errors_named(str(output)):
        output.mkdir(parents=True, exist_ok=True)
        write_json_atomically(output / "table.json", content)
        write_atomically(output / "table.csv", csv_text(long))
        write_atomically(output / "differences.csv", csv_text(content["differences"]))
        write_atomically(output / "table.md", text)
    return f"{text}\nwritten to {output}: table.md, table.json, table.csv, differences.csv"


def _content(collected: Collected) -> dict[str, Any]:
    """table.json: shares, not per cent."""
    first = next(iter(collected.arms.values()))[0].summary.identity
    return {
        "judge": first.judge,
        "prompts": {name: prompts.rows for name, prompts in first.sets.items()},
        "prompts_sha256": {name: prompts.sha256 for name, prompts in first.sets.items()},
        "arms": {
            arm: {
                "seeds": [member.seed for member in members],
                "measures": {
                    name: None if (found := cells[arm]) is None else asdict(found)
                    for name, cells in collected.numbers.items()
                },
                "made_by": [_made_by(member) for member in members],
            }
            for arm, members in collected.arms.items()
        },
        "differences": [
            {"measure": d.measure, "before": d.before, "after": d.after, **asdict(d.moved), "apart": d.apart}
            for d in collected.differences
        ],
    }


def _made_by(member: Member) -> dict[str, Any]:
    made = member.summary.run
    return {
        "seed": member.seed,
        "model": made.model,
        "model_sha256": member.summary.identity.model.sha256,
        "command": made.command,
        "versions": made.versions,
    }


def render(collected: Collected) -> str:
    """Attack success per attack; its mean, cost and form; paired differences of the mean between all arms."""
    attacks = [line for line in collected.lines if line.group == SUCCESS]
    whole = next((line for line in attacks if not line.attack), attacks[0] if attacks else None)
    places = [line for line in collected.lines if "positions" in line.path]
    others = [line for line in collected.lines if line not in attacks and line not in places]
    blocks = []
    if attacks:
        blocks.append(f"Attack success:\n\n{_table(collected, attacks, f'{SUCCESS}, ', interval=False)}")
    columns = [*([whole] if whole else []), *others]
    blocks.append(f"Mean and 95% interval:\n\n{_table(collected, columns, spread=False)}")
    if places:
        table = _table(collected, places, "refusals ", interval=False)
        blocks.append(f"Where refusals start (share of an arm's refusals):\n\n{table}")
    if whole and len(collected.arms) > 1:
        blocks.append(_differences(collected.differences, whole.name, list(collected.arms)))
    blocks.append("\n".join(_notes(collected)))
    return "\n\n".join(blocks) + "\n"


def _table(collected: Collected, lines: Sequence[SummaryMeasure], drop: str = "", **shown: Any) -> str:
    """A row per arm. drop: what all titles begin with. shown: as for `Estimate.text`."""
    cells = {arm: [collected.numbers[line.name][arm] or Estimate() for line in lines] for arm in collected.arms}
    rows = [[arm, *(cell.text(**shown) for cell in found)] for arm, found in cells.items()]
    return markdown([["%", *(line.name.removeprefix(drop) for line in lines)], *rows])


def _differences(differences: Sequence[Difference], measure: str, arms: Sequence[str]) -> str:
    found = {(each.before, each.after): each for each in differences if each.measure == measure}

    def cell(before: str, after: str) -> str:
        if (difference := found.get((before, after))) is None:
            return ""
        text = difference.moved.text(spread=False, sign="+")
        return f"**{text}**" if difference.apart else text

    rows = [[after, *(cell(before, after) for before in arms[:-1])] for after in arms[1:]]
    title = f"Paired differences, {measure}: row minus column, in points (bold: the 95% interval excludes 0):"
    return f"{title}\n\n{markdown([['', *arms[:-1]], *rows])}"


def _notes(collected: Collected) -> Iterator[str]:
    seeds: dict[str, list[str]] = {}
    for arm, members in collected.arms.items():
        seeds.setdefault(", ".join(str(member.seed) for member in members), []).append(arm)
    identity = next(iter(collected.arms.values()))[0].summary.identity
    prompts = ", ".join(f"{each.rows} {name}" for name, each in identity.sets.items())
    yield f"- Prompts per cell and seed: {prompts}; judge: {identity.judge}."
    for which, arms in seeds.items():
        yield f"- Seeds {which}: {', '.join(arms)}."
    yield (
        "- ± is the standard deviation between seeds; intervals are for further seeds *and* further prompts (two-way "
        "random effects, t with Satterthwaite's degrees of freedom; form and place of refusals and AUROC: seeds alone)."
    )
    yield (
        "- Differences are paired by seed and prompt; intervals are not corrected for the number of comparisons. Of a "
        "single seed all intervals are for further prompts only, and no difference is bold."
    )
    if identity.knows_answers:
        yield "- Malformed refusals: share of all responses to harmful prompts. Well-formed: share of the refusals."
