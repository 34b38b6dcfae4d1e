"""Prompts without responses, in the columns that public benchmarks use; any of them can be a prompt set.

    file (JSON, JSONL, CSV, TSV, parquet, Arrow) --layout--> rows {"id", "source", "kind", "prompt", chosen, rejected}

`rejected` is filled where the file gives the start of a harmful response (JailbreakBench's and AdvBench's target), for
prefilling and optimising attacks. A file with several groups (HarmBench's functional categories, XSTest's safe
and unsafe prompts) names them in `source`, "harmbench/standard", so that `eval.sets.*.source` can choose one. Where the
prompt is an attack's, or stands behind a context, the row has `request` and `context`, too (derta.evaluation.records).
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from derta.config.prompts import PromptFormat
from derta.data.normalise import normalise_messages, normalise_text
from derta.data.schema import CHAT_ROLES, duplicate_id
from derta.errors import InputError
from derta.evaluation.records import Row, with_context
from derta.models.messages import Message, as_messages, written
from derta.storage.places import Place, Problem, Record, column_names, describe, string_problem, text_problem
from derta.storage.read_files import read_file, sha256_of, what_is_at

REMOVE = "remove the row"


@dataclass(frozen=True, slots=True)
class Layout:
    """The columns of one benchmark. prompt: the columns that may hold it, the first that is filled counts. marks:
    further columns that tell the layout from others. group: splits the file; target: start of a harmful response;
    context: text that belongs before the prompt; request: what was wanted, where the prompt is an attack's.
    unsafe: what the file itself says of a row: whether it is harmful, None where it says neither."""

    prompt: tuple[str, ...]
    marks: tuple[str, ...] = ()
    id: str | None = None
    group: str | None = None
    target: str | None = None
    context: str | None = None
    request: str | None = None
    unsafe: tuple[str, Callable[[str], bool | None]] | None = None

    @property
    def needed(self) -> tuple[str, ...]:
        return (self.prompt[0], *self.marks)

    def fits(self, columns: Iterable[str]) -> bool:
        return set(self.needed) <= set(columns)


def _xstest_label(label: str) -> bool | None:
    return {"safe": False, "unsafe": True}.get(label.lower())


def _wildjailbreak_type(data_type: str) -> bool | None:
    return {"harmful": True, "benign": False}.get(data_type.lower().rpartition("_")[2])


LAYOUTS: tuple[tuple[PromptFormat, Layout], ...] = (
    (PromptFormat.attack_prompts, Layout(("prompt",), ("goal",), id="index", request="goal")),
    (PromptFormat.jailbreakbench, Layout(("Goal",), id="Index", target="Target")),
    (PromptFormat.advbench, Layout(("goal",), target="target")),
    (
        PromptFormat.harmbench,
        Layout(("Behavior",), id="BehaviorID", group="FunctionalCategory", context="ContextString"),
    ),
    (PromptFormat.strongreject, Layout(("forbidden_prompt",))),
    (PromptFormat.xstest, Layout(("prompt",), ("type", "label"), id="id", unsafe=("label", _xstest_label))),
    (  # the published file without labels: its contrasts are the unsafe half
        PromptFormat.xstest,
        Layout(("prompt",), ("type", "focus"), id="id_v2", unsafe=("type", lambda t: t.startswith("contrast_"))),
    ),
    (
        PromptFormat.wildjailbreak,
        Layout(
            ("adversarial", "vanilla"),
            ("data_type",),
            group="data_type",
            request="vanilla",
            unsafe=("data_type", _wildjailbreak_type),
        ),  # fmt: skip
    ),
    (PromptFormat.or_bench, Layout(("prompt",), ("category",))),
    (PromptFormat.question, Layout(("question",), id="id")),
    (PromptFormat.instruction, Layout(("instruction",), id="id")),
    (PromptFormat.prompt, Layout(("prompt",), id="id")),
    (PromptFormat.conversation, Layout(("messages",), id="id")),
    (PromptFormat.conversation, Layout(("conversations",), id="id")),
)
"""In the order in which an unnamed layout is recognised (JailbreakBench's files have a column `Behavior`, too)."""


@dataclass(frozen=True, slots=True)
class PromptFile:
    """rows: in the order of the file. sha256: of the file. labelled: their kind is what the file or the set says."""

    rows: list[Row]
    sha256: str
    labelled: bool = True


def read_prompt_file(path: str | Path, format: PromptFormat, *, harmful: bool) -> PromptFile:
    """The rows of one prompt file.
    format: a layout of `LAYOUTS`, or `prompts`: whichever layout the first record's columns fit.
    harmful: whether the prompts are, where the file itself does not say so (XSTest's does).
    Raises InputError: no such file, an empty one, columns of no known layout, ids used twice, prompts that are no text;
    every bad record is listed by its line."""
    path = Path(path).expanduser()
    if (found := what_is_at(path)) != "a file":
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


def recognise_rows(path: Path) -> PromptFormat:
    """The format of a file of rows with responses, by its first record; `prompts` for all others. Raises InputError:
    the file cannot be read, or holds no record."""
    values = next(read_file(path)).values
    if {"prefix", "text", "safe"} <= values.keys():
        return PromptFormat.reference_jsonl
    return PromptFormat.preference if "chosen" in values else PromptFormat.prompts


def check_labels(set_name: str, rows: Iterable[Row], *, harmful: bool) -> None:
    """Refuse a prompt set that mixes what its file labels as safe and as unsafe. Raises InputError: rows whose label
    contradicts the set's `harmful`."""
    sides: dict[bool, set[str]] = {True: set(), False: set()}
    for row in rows:
        sides[(row["kind"] == "safety") is harmful].add(row["source"])
    if wrong := sorted(sides[False]):
        choose = f"choose {set_name}.source={sorted(sides[True])[0]}, or set" if sides[True] else "set"
        raise InputError(
            f"{set_name}: harmful={str(harmful).lower()}, but the file labels {', '.join(wrong)} otherwise; "
            f"{choose} harmful accordingly"
        )


def _layout(path: Path, format: PromptFormat, record: Record) -> tuple[PromptFormat, Layout]:
    there = column_names(record.values)
    known = [(name, layout) for name, layout in LAYOUTS if format in (name, PromptFormat.prompts)]
    for name, layout in known:
        if layout.fits(record.values):
            return name, layout
    if format is not PromptFormat.prompts:
        missing = [column for column in known[0][1].needed if column not in record.values]
        raise InputError(
            f"{record.place}: format={format.value} needs the column {', '.join(missing)}, found only {there}; "
            "fix: name the layout that the file has, or format=prompts to have it recognised"
        )
    if "chosen" in record.values:
        raise InputError(
            f"{record.place}: rows with responses (the columns {there}); fix: format=preference reads them"
        )
    layouts = "; ".join(f"{name.value}: {', '.join(layout.needed)}" for name, layout in LAYOUTS)
    raise InputError(
        f"{record.place}: the columns {there} are of no known layout ({layouts}); fix: call the column of the prompts "
        "prompt"
    )


def _row(
    record: Record, name: PromptFormat, layout: Layout, harmful: bool, repeated: dict[str, int]
) -> tuple[Row | None, list[Problem]]:
    """A record as a row, or what is wrong with it. `repeated` counts prompts, for the ids of files without ids."""
    values = record.values
    column = next((name for name in layout.prompt if _filled(values.get(name))), layout.prompt[0])
    prompt, problems = _prompt(column, values.get(column))
    columns = (layout.context, layout.target, layout.request, layout.group)
    others = {key: values[key] for key in columns if key and _filled(values.get(key))}
    problems += [problem for key, value in others.items() if (problem := string_problem(key, value, REMOVE))]
    unsafe: bool | None = harmful
    if layout.unsafe is not None:
        key, read = layout.unsafe
        unsafe = read(str(values.get(key) or "").strip())
        if unsafe is None:
            expected = "safe or unsafe" if name is PromptFormat.xstest else "a type that ends in _harmful or _benign"
            found = describe(values.get(key), is_name=True)
            problems.append(Problem(key, "unknown_label", expected, found, "correct the label"))
    own, bad = own_id(layout.id, values)
    problems += bad
    if problems:
        return None, problems
    context, target, request, group = (others.get(key or "") for key in columns)
    if own is None:
        text = values[column] if isinstance(values[column], str) else written(prompt)
        text = f"{context}\n\n---\n\n{text}" if context else text
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        repeated[digest] = repeated.get(digest, 0) + 1
        own = digest if repeated[digest] == 1 else f"{digest}-{repeated[digest]}"
    source = name.value
    if name is PromptFormat.xstest:
        source = f"{source}/{'unsafe' if unsafe else 'safe'}"
    elif group:
        source = f"{source}/{group.strip()}"
    row: Row = {
        "id": f"{name.value}-{own}",
        "source": source,
        "kind": "safety" if unsafe else "helpful",
        "prompt": prompt,
        "chosen": None,
        "rejected": [{"role": "assistant", "content": target}] if unsafe and target else None,
    }
    if context:
        context = normalise_text(context)
        row |= {"prompt": with_context(prompt, context), "request": prompt, "context": context}
    if request and layout.request != column:
        row["request"] = [{"role": "user", "content": normalise_text(request)}]
    return row, []


def _filled(value: Any) -> bool:
    return value is not None and not (isinstance(value, str) and not value.strip())


def own_id(column: str | None, values: Mapping[str, Any]) -> tuple[str | None, list[Problem]]:
    """The record's id in the file, and what is wrong with it; null and an empty cell are no id."""
    value = values.get(column) if column else None
    if column is None or not _filled(value):
        return None, []
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        return None, [Problem(column, "bad_id", "a text or a whole number", describe(value), "correct the id")]
    problem = string_problem(column, str(value), REMOVE)
    return str(value), [problem] if problem else []


def _prompt(column: str, value: Any) -> tuple[list[Message], list[Problem]]:
    """The messages that a model is asked with: a text is what the user says; of a conversation, what stands before the
    assistant's last answer."""
    messages = as_messages(value)
    if messages is None:
        problem = text_problem(column, value, REMOVE)
        return [] if problem else [{"role": "user", "content": normalise_text(value)}], [problem] if problem else []
    if messages[-1]["role"] == "assistant":
        messages = messages[:-1]
    problems = [
        problem
        for i, message in enumerate(messages)
        if (problem := text_problem(f"{column}[{i}]", message["content"], REMOVE))
    ]
    if not messages or messages[-1]["role"] != "user" or any(m["role"] not in CHAT_ROLES for m in messages):
        problems.append(
            Problem(
                column,
                "bad_roles",
                f"a conversation of {', '.join(CHAT_ROLES)} that ends with the user, or with an answer to the user",
                f"the roles {', '.join(describe(m['role'], is_name=True) for m in messages) or '(none)'}",
                f"correct the roles or {REMOVE}",
            )
        )
    return normalise_messages(messages), problems
