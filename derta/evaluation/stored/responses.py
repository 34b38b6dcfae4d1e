"""Responses that are on disk already, in the layouts that public repositories use.

    a list of objects, as one JSON file, as JSON Lines (also under the name .json), or as CSV
        question | instruction | prompt | goal | behavior | forbidden_prompt     what was asked
        response | completion | generation | output                             what the model said
        id, category, and labels                                                optional
    bare strings: responses alone (DeRTa's results of completion attack and PAIR)
    {"completions": [...], ...}: such a list inside an object (refusal_direction's *_evaluations.json)
    results.jsonl of launch/evaluate.py: the prompts come from `prompts`, by row id

Labels are fields named is_jailbreak* (0 or 1) and whatever else `label` names; yes means that the response complies
with a harmful prompt. Lines are named by file and number; their text is never printed.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from derta.config.prompts import PromptFormat
from derta.errors import InputError
from derta.evaluation.prompt_files import read_prompt_file
from derta.evaluation.records import Outcome, Response, Row

PROMPT_FIELDS = ("question", "instruction", "prompt", "goal", "behavior", "forbidden_prompt")
RESPONSE_FIELDS = ("response", "completion", "generation", "output")
LIST_FIELDS = ("completions", "responses", "results")
LABEL_PREFIX = "is_jailbreak"
_YES, _NO = ("1", "true", "yes", "unsafe", "harmful", "jailbroken"), ("0", "false", "no", "safe", "unharmful")


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """One response with what is known of it. `group`: what the summary puts together (set and attack, or category).
    labels: name -> yes, no or None (this response has none)."""

    id: str
    prompt: str | None
    text: str
    group: str = ""
    harmful: bool = True
    prefill_tokens: int = 0
    finished: bool = True
    labels: Mapping[str, bool | None] = field(default_factory=dict)

    def as_response(self) -> Response:
        """What a judge sees. The prefill of stored responses is not known in characters: they are judged whole."""
        prompt = [] if self.prompt is None else [{"role": "user", "content": self.prompt}]
        row: Row = {"id": self.id, "source": "stored", "prompt": prompt, "chosen": None, "rejected": None}
        return Response(row, self.group, self.text, "", self.harmful, self.finished)


@dataclass(frozen=True, slots=True)
class ResponseFile:
    responses: list[StoredResponse]
    label_names: tuple[str, ...]
    sha256: str


def read_responses(path: str, *, prompts: Sequence[str] = (), label: str = "", harmful: bool = True) -> ResponseFile:
    """The responses of a file.

    Args:
        prompts: for files without prompts: a file with one per response, in their order, or, for results.jsonl of an
            evaluation, what was evaluated (directories or files), by row id.
        label: a further field to compare with.
        harmful: whether the prompts are harmful (results.jsonl says so itself, through the evaluation's summary).

    Raises:
        InputError: no such file, not JSON or CSV, empty, a layout that is not known, duplicate ids, labels that are
            neither yes nor no, prompts that do not match. Every problem is listed.
    """
    file = Path(path)
    content = _read(file)
    records = _records(file, content)
    problems: list[str] = []
    if records and all(_is_result(record) for record in records):
        responses = _results(file, records, prompts, problems)
        names: tuple[str, ...] = ("outcome",)
    else:
        names = _label_names(records, label, file)
        given = _prompt_list(prompts, len(records)) if prompts else None
        responses = [
            stored
            for number, record in enumerate(records)
            if (stored := _stored(record, number, names, given, harmful, problems)) is not None
        ]
    seen: set[tuple[str, str]] = set()
    for number, stored in enumerate(responses, start=1):
        key = (stored.group if names == ("outcome",) else "", stored.id)
        if key in seen:
            problems.append(f"entry {number}: an entry before it has the same id")
        seen.add(key)
    if problems:
        raise InputError.listing(f"{file}: these responses cannot be used:", problems)
    return ResponseFile(responses, names, hashlib.sha256(content).hexdigest())


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise InputError(f"responses={file} cannot be read ({error.strerror}): give a file") from None


def _records(file: Path, content: bytes) -> list[Any]:
    """The entries: objects or strings."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{file}: not UTF-8; convert it") from None
    if not text.strip():
        raise InputError(f"{file}: empty; give a file that holds responses")
    if file.suffix.lower() == ".csv":
        return list(csv.DictReader(io.StringIO(text, newline="")))
    try:
        whole = json.loads(text)
    except ValueError:
        return _json_lines(file, text)
    if isinstance(whole, dict):
        lists = [whole[name] for name in LIST_FIELDS if isinstance(whole.get(name), list)]
        whole = lists[0] if lists else [whole]
    if not isinstance(whole, list) or not whole:
        raise InputError(f"{file}: expected a list of responses, or an object with {' or '.join(LIST_FIELDS)}")
    return whole


def _json_lines(file: Path, text: str) -> list[Any]:
    records, problems = [], []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                records.append(json.loads(line))
            except ValueError:
                problems.append(f"line {number}: not JSON")
    if problems:
        raise InputError.listing(f"{file}: expected one JSON value, or one per line:", problems)
    return records


def _first(record: Mapping[str, Any], names: Sequence[str]) -> str | None:
    return next((name for name in names if isinstance(record.get(name), str)), None)


def _stored(
    record: Any,
    number: int,
    label_names: Sequence[str],
    prompts: Sequence[str] | None,
    harmful: bool,
    problems: list[str],
) -> StoredResponse | None:
    prompt = prompts[number] if prompts is not None else None
    if isinstance(record, str):
        return StoredResponse(str(number), prompt, record, harmful=harmful)
    if not isinstance(record, Mapping):
        problems.append(f"entry {number + 1}: expected an object or a string, found {type(record).__name__}")
        return None
    response = _first(record, RESPONSE_FIELDS)
    if response is None:
        problems.append(f"entry {number + 1}: no text field named {', '.join(RESPONSE_FIELDS)}")
        return None
    if prompt is None and (named := _first(record, PROMPT_FIELDS)) is not None:
        prompt = record[named]
    labels = {}
    for name in label_names:
        try:
            labels[name] = _as_label(record.get(name))
        except ValueError:
            problems.append(f"entry {number + 1}: {name} is neither yes (1, true, unsafe) nor no (0, false, safe)")
    category = record.get("category")
    return StoredResponse(
        str(record.get("id", number)),
        prompt,
        record[response],
        category if isinstance(category, str) else "",
        harmful,
        labels=labels,
    )


def _label_names(records: Sequence[Any], label: str, file: Path) -> tuple[str, ...]:
    fields = {name for record in records if isinstance(record, Mapping) for name in record if isinstance(name, str)}
    if label and label not in fields:
        raise InputError(f"label={label}: no entry of {file} has this field")
    found = sorted(name for name in fields if name.startswith(LABEL_PREFIX))
    return tuple(dict.fromkeys([*found, *([label] if label else [])]))


def _as_label(value: Any) -> bool | None:
    """Raises: ValueError: neither yes, no nor nothing."""
    if value is None or value == "":
        return None
    word = str(int(value) if isinstance(value, float) and value.is_integer() else value).strip().lower()
    if word in _YES or word in _NO:
        return word in _YES
    raise ValueError


def _prompt_list(paths: Sequence[str], count: int) -> list[str]:
    """One prompt per response, from a file of strings or of objects with a prompt field."""
    if len(paths) > 1:
        raise InputError(f"prompts={', '.join(paths)}: these responses are matched in order, so give one file")
    file = Path(paths[0])
    found, problems = [], []
    for number, record in enumerate(_records(file, _read(file)), start=1):
        name = _first(record, PROMPT_FIELDS) if isinstance(record, Mapping) else None
        if isinstance(record, str):
            found.append(record)
        elif name is not None:
            found.append(record[name])
        else:
            problems.append(f"entry {number}: no text field named {', '.join(PROMPT_FIELDS)}")
    if not problems and len(found) != count:
        problems.append(f"{len(found)} prompts for {count} responses: they are matched in order")
    if problems:
        raise InputError.listing(f"prompts={file}: these prompts cannot be used:", problems)
    return found


def _is_result(record: Any) -> bool:
    return isinstance(record, Mapping) and {"prompt_set", "attack", "id", "response", "outcome"} <= record.keys()


def _results(file: Path, records: Sequence[Any], prompts: Sequence[str], problems: list[str]) -> list[StoredResponse]:
    """Lines of results.jsonl. The verdict they already have is a label."""
    sets = _evaluated_sets(file)
    texts: dict[str, str] = {}
    for path in prompts:
        for row_id, text in _prompts_by_id(path).items():
            if texts.setdefault(row_id, text) != text:
                raise InputError(
                    f"prompts={', '.join(prompts)}: row {row_id} is in two of these files with different texts, so the "
                    "responses' prompts cannot be told apart: give the rows of the files ids of their own, or score "
                    "the prompt sets one at a time"
                )
    found = []
    for number, record in enumerate(records, start=1):
        row_id, name = str(record["id"]), record["prompt_set"]
        if prompts and row_id not in texts:
            problems.append(f"line {number}: row {row_id} is not in prompts={', '.join(prompts)}")
        if name not in sets:
            problems.append(f"line {number}: prompt set {name!r} is not in the evaluation.json beside the file")
            continue
        outcome = Outcome(record["outcome"])
        found.append(
            StoredResponse(
                row_id,
                texts.get(row_id),
                record["response"],
                f"{name}, {record['attack']}",
                sets[name]["harmful"],
                record.get("prefill_tokens", 0),
                record.get("finished", True),
                {"outcome": None if outcome is Outcome.UNSCORED else outcome is Outcome.COMPLIED},
            )
        )
    return found


def _evaluated_sets(file: Path) -> dict[str, Any]:
    from derta.evaluation.results import IDENTITY_FILE

    try:
        return json.loads((file.parent / IDENTITY_FILE).read_text(encoding="utf-8"))["identity"]["sets"]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(
            f"{file}: no readable {IDENTITY_FILE} beside it, which says what sets are harmful: keep them together"
        ) from None


def _prompts_by_id(path: str) -> dict[str, str]:
    """From what an evaluation may have read: a dataset, a file of preference rows, or one of prompts alone."""
    from derta.data.load import load_rows

    try:
        rows = load_rows(path, format="derta" if Path(path).is_dir() else "preference").dataset.to_list()
    except InputError as error:
        if not Path(path).is_file():
            raise
        try:
            rows = read_prompt_file(path, PromptFormat.prompts, harmful=True).rows
        except InputError:
            raise error from None
    return {row["id"]: row["prompt"][-1]["content"] for row in rows}
