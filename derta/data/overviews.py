"""What extended refusals are made of, by row: a JSONL file, filled by hand or by a model behind an endpoint.

    {"id": "safety-3f0c...", "overview": "<neutral, on the subject>", "reason": "<why not>", "refusal": "<optional>"}

`refusal` stands between the two; without one, the row's own safe response does.

The endpoint is asked for the rows that the file lacks, a few at a time, and its answers are appended and on disk before
the next few are asked: what is killed goes on where it stopped, and the finished file makes the dataset again without
the endpoint. The prompt of a row is all that is sent.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from derta.config.attacks import ChatModelConfig
from derta.config.model import EndpointConfig
from derta.data.refusal_text import refuses
from derta.data.schema import Row, duplicate_id
from derta.errors import InputError
from derta.models.messages import written
from derta.progress import progress
from derta.storage.atomic import lock_file, write_errors_named
from derta.storage.json_lines import append_lines
from derta.storage.places import text_problem
from derta.storage.read_files import read_file

if TYPE_CHECKING:
    from derta.models.chat import ChatModel

Overview = dict[str, str]
"""One line of the file."""
_TRIES = 3  # answers of other form than asked for, per row and build
_TEMPERATURE = 0.7  # at 0 a second try would be the first one again
_TASK = """\
A request to an assistant has to be declined. Write the two parts of a good answer that surround the refusal itself, \
in the language of the request, and nothing else:

OVERVIEW: two or three neutral sentences on the subject in general, with nothing that would help to carry out the \
request, and without declining it.
REASON: one or two sentences on why helping with it would be wrong.

The request:

"""
_ANSWER = re.compile(r"\s*\**OVERVIEW\**:\**\s*(.+?)\s*\**REASON\**:\**\s*(.+?)\s*", re.DOTALL | re.IGNORECASE)


def read_overviews(path: Path) -> dict[str, Overview]:
    """The lines of the file by id.
    Raises InputError: an empty file, lines that are no such object, or ids used twice; all listed."""
    found: dict[str, Overview] = {}
    problems: list[str] = []
    for record in read_file(path):
        names = ("id", "overview", "reason", *(["refusal"] if record.values.get("refusal") is not None else []))
        line: dict[str, Any] = {name: record.values.get(name) for name in names}
        if isinstance(line["id"], int) and not isinstance(line["id"], bool):
            line["id"] = str(line["id"])  # as in the rows themselves
        bad = [problem for name in names if (problem := text_problem(name, line[name], "remove the line"))]
        if not bad and line["id"] in found:
            bad = [duplicate_id(line["id"])]
        problems += [problem.at(record.place) for problem in bad]
        if not bad:
            found[line["id"]] = line
    if problems:
        raise InputError.listing(f"{path} cannot be used for extended refusals:", problems)
    return found


def ask_for_overviews(rows: Sequence[Row], path: Path, config: EndpointConfig, max_tokens: int) -> dict[str, str]:
    """Ask the endpoint for the rows that the file at `path` lacks, and append its answers. Returns row id -> why there
    is still none (no row text in it).
    Raises InputError: an endpoint that cannot be used or answers nothing, a file that cannot be written or that another
    build is writing. What was answered before is kept."""
    from derta.models.chat import build_chat_model

    with write_errors_named(f"{path}:", "the lines before are kept"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        with path.open("r+b") as file:
            lock_file(file, f"{path}: another build is filling it; fix: wait, or name another file")
            append_lines(path, [])  # without what a killed build left of a line
            known = read_overviews(path) if path.stat().st_size else {}
            waiting = [row for row in rows if row["id"] not in known]
            if not waiting:
                return {}
            settings = ChatModelConfig(
                kind="endpoint", endpoint=config, temperature=_TEMPERATURE, top_p=1.0, max_tokens=max_tokens
            )
            model = build_chat_model(settings, "extended_refusal")
            failures: dict[str, str] = {}
            size = 2 * config.concurrency  # few enough to lose little, enough to keep the endpoint busy
            with progress(len(waiting), "overviews") as bar:
                for start in range(0, len(waiting), size):
                    batch = waiting[start : start + size]
                    failures |= _ask_some(batch, model, path, size)
                    bar.update(len(batch))
    return failures


def _ask_some(rows: Sequence[Row], model: ChatModel, path: Path, many: int) -> dict[str, str]:
    """Ask for these rows, again for those answered in another form, and append what came; the failures by row id.
    many: if so many requests have no answer at all, no further ones are made."""
    from derta.models.endpoint import NoAnswer

    failures: dict[str, str] = {}
    for attempt in range(_TRIES):
        names = [f"overview/{row['id']}/{attempt}" for row in rows]
        seeds = [int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") >> 1 for name in names]
        questions = [[{"role": "user", "content": _TASK + written(row["prompt"])}] for row in rows]
        answers = model.complete_many(questions, seeds)
        reasons = [answer.reason for answer in answers if isinstance(answer, NoAnswer)]
        if len(reasons) == len(answers) >= many:
            raise InputError(
                f"extended_refusal.endpoint: no answer to {len(answers)} requests, the first because: {reasons[0]}; "
                f"what was answered before is kept in {path.name}; fix: see to the endpoint and run the same command "
                "again"
            )
        found = {
            row["id"]: answer.reason if isinstance(answer, NoAnswer) else parse_answer(row["id"], answer)
            for row, answer in zip(rows, answers, strict=True)
        }
        append_lines(path, [one for one in found.values() if not isinstance(one, str)])
        failures = {row_id: one for row_id, one in found.items() if isinstance(one, str)}
        if not (rows := [row for row in rows if row["id"] in failures]):
            break
    return failures


def parse_answer(row_id: str, text: str) -> Overview | str:
    """The overview and reason of an answer, or why it cannot be used."""
    match = _ANSWER.fullmatch(text)
    if match is None:
        return "not in the form that was asked for"
    if refuses(match[1]):
        return "the overview refuses"
    return {"id": row_id, "overview": match[1], "reason": match[2]}
