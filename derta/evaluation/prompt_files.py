"""Prompts without responses, in the columns that public benchmarks use; any of them can be a prompt set.

    file (JSON, JSONL, CSV, parquet, Arrow) --layout--> rows {"id", "source", "kind", "prompt", chosen, rejected: null}

`rejected` is filled where the file gives the start of a harmful response (JailbreakBench's and AdvBench's target), for
prefilling and optimising attacks. A file with several groups (HarmBench's functional categories, XSTest's safe
and unsafe prompts) names them in `source`, "harmbench/standard", so that `eval.sets.*.source` can choose one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from derta.config.prompts import PromptFormat
from derta.data.schema import duplicate_id
from derta.errors import InputError
from derta.evaluation.records import Row
from derta.storage.places import Place, Problem, Record, describe, text_problem
from derta.storage.read_files import read_file, sha256_of


@dataclass(frozen=True, slots=True)
class Layout:
    """The columns of one benchmark. `marks`: further columns that tell it from others; `group`: splits the file;
    `target`: start of a harmful response; `context`: text that belongs before the prompt."""

    prompt: str
    marks: tuple[str, ...] = ()
    id: str | None = None
    group: str | None = None
    target: str | None = None
    context: str | None = None

    @property
    def needed(self) -> tuple[str, ...]:
        return (self.prompt, *self.marks)

    def __str__(self) -> str:
        return ", ".join(self.needed)


LAYOUTS = {
    PromptFormat.jailbreakbench: Layout("Goal", id="Index", target="Target"),
    PromptFormat.advbench: Layout("goal", target="target"),
    PromptFormat.harmbench: Layout("Behavior", id="BehaviorID", group="FunctionalCategory", context="ContextString"),
    PromptFormat.strongreject: Layout("forbidden_prompt"),
    PromptFormat.xstest: Layout("prompt", ("type", "label"), id="id"),
    PromptFormat.or_bench: Layout("prompt", ("category",)),
    PromptFormat.question: Layout("question", id="id"),
    PromptFormat.instruction: Layout("instruction", id="id"),
}
"""In the order in which an unnamed layout is recognised (JailbreakBench's files have a column `Behavior`, too)."""


@dataclass(frozen=True, slots=True)
class PromptFile:
    """rows: in the order of the file. sha256: of the file."""

    rows: list[Row]
    sha256: str


def read_prompt_file(path: str | Path, format: PromptFormat, *, harmful: bool) -> PromptFile:
    """The rows of one prompt file.

    Args:
        format: a layout of `LAYOUTS`, or `prompts`: whichever layout the first record's columns fit.
        harmful: whether the prompts are, where the file itself does not say so (XSTest's does).

    Raises:
        InputError: no such file, an empty one, columns of no known layout, ids used twice, prompts that are no text;
            every bad record is listed by its line.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        found = "a directory" if path.is_dir() else "nothing"
        raise InputError(f"{path}: expected a prompt file ({format.value}), found {found}; fix: give one file")
    records = list(read_file(path))
    name, layout = _layout(path, format, records[0])
    problems: list[str] = []
    rows: list[Row] = []
    first_use: dict[str, Place] = {}
    repeated: dict[str, int] = {}
    for record in records:
        row, bad = _row(record, name, layout, harmful, repeated)
        problems += [problem.at(record.place) for problem in bad]
        if row is None:
            continue
        if row["id"] in first_use:
            problems.append(f"{duplicate_id(row['id']).at(record.place)} (first used at {first_use[row['id']]})")
        first_use.setdefault(row["id"], record.place)
        rows.append(row)
    if problems:
        raise InputError.listing(f"{path} cannot be used as {name.value} prompts:", problems)
    return PromptFile(rows, sha256_of(path))


def check_labels(set_name: str, rows: Iterable[Row], *, harmful: bool) -> None:
    """Refuse a prompt set that mixes what its file labels as safe and as unsafe.

    Raises:
        InputError: rows whose label contradicts the set's `harmful`.
    """
    wrong = sorted({row["source"] for row in rows if (row["kind"] == "safety") is not harmful})
    if wrong:
        right = "unsafe" if harmful else "safe"
        raise InputError(
            f"{set_name}: harmful={str(harmful).lower()}, but the file labels {', '.join(wrong)} otherwise; "
            f"choose {set_name}.source={wrong[0].partition('/')[0]}/{right}, or set harmful accordingly"
        )


def _layout(path: Path, format: PromptFormat, record: Record) -> tuple[PromptFormat, Layout]:
    there = ", ".join(sorted(map(str, record.values))) or "(none)"
    if format in LAYOUTS:
        layout = LAYOUTS[format]
        missing = [column for column in layout.needed if column not in record.values]
        if missing:
            raise InputError(
                f"{record.place}: format={format.value} needs the column {', '.join(missing)}, found only {there}; "
                "fix: name the layout that the file has, or format=prompts to have it recognised"
            )
        return format, layout
    for name, layout in LAYOUTS.items():
        if all(column in record.values for column in layout.needed):
            return name, layout
    known = "; ".join(f"{name.value}: {layout}" for name, layout in LAYOUTS.items())
    raise InputError(f"{path}: the columns {there} are of no known layout ({known}); fix: rename the prompt's column")


def _row(
    record: Record, name: PromptFormat, layout: Layout, harmful: bool, repeated: dict[str, int]
) -> tuple[Row | None, list[Problem]]:
    """A record as a row, or what is wrong with it. `repeated` counts prompts, for the ids of files without ids."""
    values = record.values
    problem = text_problem(layout.prompt, values.get(layout.prompt))
    if problem is not None:  # on_invalid is a recipe's
        return None, [replace(problem, fix=problem.fix.replace(" (on_invalid: drop)", ""))]
    prompt = str(values[layout.prompt])
    context = values.get(layout.context) if layout.context else None
    if isinstance(context, str) and context.strip():
        prompt = f"{context}\n\n---\n\n{prompt}"  # as HarmBench's contextual behaviours are asked
    source, unsafe = name.value, harmful
    group = values.get(layout.group) if layout.group else None
    if isinstance(group, str) and group.strip():
        source = f"{source}/{group.strip()}"
    if name is PromptFormat.xstest:
        label = str(values["label"]).strip().lower()
        if label not in ("safe", "unsafe"):
            problem = Problem(
                "label", "unknown_label", "safe or unsafe", describe(values["label"]), "correct the label"
            )
            return None, [problem]
        source, unsafe = f"{source}/{label}", label == "unsafe"
    own = values.get(layout.id) if layout.id else None
    if own is None or not str(own).strip():
        digest = hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        repeated[digest] = repeated.get(digest, 0) + 1
        own = digest if repeated[digest] == 1 else f"{digest}-{repeated[digest]}"
    target = values.get(layout.target) if layout.target else None
    begun = isinstance(target, str) and bool(target.strip()) and unsafe
    row = {
        "id": f"{name.value}-{own}",
        "source": source,
        "kind": "safety" if unsafe else "helpful",
        "prompt": [{"role": "user", "content": prompt}],
        "chosen": None,
        "rejected": [{"role": "assistant", "content": str(target)}] if begun else None,
    }
    return row, []
