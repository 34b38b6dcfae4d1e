"""Responses that are on disk already, in the layouts that public repositories use.

    a list of objects, in any file that derta reads (JSON, also inside an object, JSON Lines, CSV, TSV, parquet, Arrow)
        what was asked      one or several of `REQUEST_FIELDS`; the judge is asked about the first that is filled, so
                            about the goal where an attack's prompt stands beside it
        what the model said one of `RESPONSE_FIELDS`, or the last message of a conversation
        id, category, context, and labels                                       optional
    bare strings: responses alone (DeRTa's results of completion attack and PAIR)
    results.jsonl of launch/evaluate.py: the prompts come from `prompts`, by row id

Labels are fields named is_jailbreak* (0 or 1) and whatever else `label` names; yes means that the response complies
with a harmful prompt. Lines are named by file and number; their text is never printed.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from derta.config.prompts import PromptFormat
from derta.errors import InputError
from derta.evaluation.prompt_files import own_id
from derta.evaluation.prompts import read_prompts
from derta.evaluation.records import Outcome, Response, Row, context_of, request_of
from derta.evaluation.results import IDENTITY_FILE
from derta.models.messages import Message, as_messages
from derta.storage.places import Place, Problem, column_names, describe, string_problem
from derta.storage.read_files import read_values, sha256_of

REQUEST_FIELDS = ("goal", "forbidden_prompt", "vanilla", "question", "instruction", "behavior", "prompt", "adversarial")
RESPONSE_FIELDS = ("response", "completion", "generation", "output")
CONVERSATION_FIELDS = ("messages", "conversations")
LABEL_PREFIX = "is_jailbreak"
_YES, _NO = ("1", "true", "yes", "unsafe", "harmful", "jailbroken"), ("0", "false", "no", "safe", "unharmful")
_REMOVE = "remove the entry"

Entry = tuple[Place, Any]


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """One response with what is known of it. request: what the judge holds it against (derta.evaluation.records), None
    where it is not known. `group`: what the summary puts together (set and attack, or category).
    labels: name -> yes, no or None (this response has none)."""

    id: str
    request: Sequence[Message] | None
    text: str
    group: str = ""
    harmful: bool = True
    prefill_tokens: int = 0
    labels: Mapping[str, bool | None] = field(default_factory=dict)
    context: str = ""

    def as_response(self) -> Response:
        """What a judge sees. The prefill of stored responses is not known in characters: they are judged whole."""
        row: Row = {"id": self.id, "source": "stored", "prompt": list(self.request or []), "context": self.context}
        return Response(row | {"chosen": None, "rejected": None}, self.text, "", self.harmful)


@dataclass(frozen=True, slots=True)
class ResponseFile:
    """asked_about: the fields that hold the requests, for the record."""

    responses: list[StoredResponse]
    label_names: tuple[str, ...]
    sha256: str
    asked_about: tuple[str, ...] = ()


def read_responses(path: str, *, prompts: Sequence[str] = (), label: str = "", harmful: bool = True) -> ResponseFile:
    """The responses of a file.
    prompts: for files without prompts: a file with one per response, in their order, or, for results.jsonl of an
    evaluation, what was evaluated (directories or files), by row id.
    label: a further field to compare with.
    harmful: whether the prompts are harmful (results.jsonl says so itself, through the evaluation's summary).
    Raises InputError: no such file, not readable, empty, a layout that is not known, duplicate ids, labels that are
    neither yes nor no, prompts that do not match. Every problem is listed."""
    file = Path(path).expanduser()
    entries = list(read_values(file))
    problems: list[str] = []
    fields: dict[str, None] = {}
    if all(_is_result(value) for _, value in entries):
        responses = _results(file, entries, prompts, problems)
        names: tuple[str, ...] = ("outcome",)
    else:
        names = _label_names(entries, label, file)
        given = _prompt_list(prompts, len(entries)) if prompts else [None] * len(entries)
        responses = []
        for (place, value), request in zip(entries, given, strict=True):
            stored, bad = _stored(value, len(responses), request, names, harmful, fields)
            problems += [problem.at(place) for problem in bad]
            responses.append(stored)
    if problems := problems or list(_twins(entries, responses)):
        raise InputError.listing(f"{file}: these responses cannot be used:", problems)
    return ResponseFile(responses, names, sha256_of(file), tuple(fields))


def _twins(entries: Sequence[Entry], responses: Sequence[StoredResponse]) -> Iterator[str]:
    """Entries with the id of one before them; entries without an id are called by their place."""
    seen: dict[tuple[str, str], Place] = {}
    for (place, value), stored in zip(entries, responses, strict=True):
        if not isinstance(value, Mapping) or own_id("id", value)[0] is None:
            continue
        key = (stored.group if _is_result(value) else "", stored.id)
        if key in seen:
            yield f"{place}: an entry before it ({seen[key]}) has the same id; fix: correct one of the two"
        seen.setdefault(key, place)


def _stored(
    value: Any,
    number: int,
    request: Sequence[Message] | None,
    label_names: Sequence[str],
    harmful: bool,
    fields: dict[str, None],
) -> tuple[StoredResponse, list[Problem]]:
    """One entry, and what is wrong with it. `fields` collects where requests were found."""
    if isinstance(value, str):
        problem = string_problem("(the string)", value, _REMOVE)
        return StoredResponse(str(number), request, value, harmful=harmful), [problem] if problem else []
    if not isinstance(value, Mapping):
        wrong = Problem("(entry)", "not_an_object", "an object or a string", describe(value), _REMOVE)
        return StoredResponse(str(number), request, ""), [wrong]
    problems: list[Problem] = []
    said, conversation = _response(value, problems)
    if request is None and conversation:
        request, field_name = conversation, _first(value, CONVERSATION_FIELDS)
        fields[str(field_name)] = None
    elif request is None and (name := _first(value, REQUEST_FIELDS)) is not None:
        request = _request(name, value[name], problems)
        fields[name] = None
    labels = {}
    for name in label_names:
        try:
            labels[name] = _as_label(value.get(name))
        except ValueError:
            expected = "yes (1, true, unsafe) or no (0, false, safe)"
            problems.append(Problem(name, "bad_label", expected, describe(value[name]), "correct the label"))
    context, category = value.get("context"), value.get("category")
    if isinstance(context, str) and (problem := string_problem("context", context, _REMOVE)):
        problems.append(problem)
    own, bad = own_id("id", value)
    problems += bad
    stored = StoredResponse(
        str(number if own is None else own),
        request,
        said,
        category if isinstance(category, str) else "",
        harmful,
        labels=labels,
        context=context.strip() if isinstance(context, str) else "",
    )
    return stored, problems


def _response(value: Mapping[str, Any], problems: list[Problem]) -> tuple[str, list[Message]]:
    """The response, and the conversation before it where it stands in one. A response that is null is empty: nothing
    was said, which judges count as unscored."""
    name = next((name for name in RESPONSE_FIELDS if name in value), None)
    if name is not None:
        if value[name] is not None and (problem := string_problem(name, value[name], _REMOVE)):
            problems.append(problem)
            return "", []
        return value[name] or "", []
    field_name = _first(value, CONVERSATION_FIELDS)
    turns = as_messages(value[field_name]) if field_name else None
    if turns is not None and len(turns) > 1 and turns[-1]["role"] == "assistant":
        for i, message in enumerate(turns):
            if problem := string_problem(f"{field_name}[{i}]", message["content"], _REMOVE):
                problems.append(problem)
        return str(turns[-1]["content"]), turns[:-1]
    fields = ", ".join(RESPONSE_FIELDS)
    problems.append(
        Problem(
            "response",
            "no_response",
            f"a text in a field named {fields}, or a conversation in {' or '.join(CONVERSATION_FIELDS)} that ends with "
            "the assistant",
            f"only the fields {column_names(value)}",
            "call the field of the responses response",
        )
    )
    return "", []


def _first(value: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """The first of these fields that holds something."""
    return next((name for name in names if value.get(name) not in (None, "", [])), None)


def _request(name: str, value: Any, problems: list[Problem]) -> list[Message]:
    """A text as the user's message; a conversation as it is, up to the message that asks."""
    messages = as_messages(value)
    if messages is None:
        messages = [{"role": "user", "content": value}]
    elif len(messages) > 1 and messages[-1]["role"] == "assistant":
        messages = messages[:-1]
    problems += [p for message in messages if (p := string_problem(name, message["content"], _REMOVE))]
    return messages


def _label_names(entries: Sequence[Entry], label: str, file: Path) -> tuple[str, ...]:
    fields = {name for _, value in entries if isinstance(value, Mapping) for name in value if isinstance(name, str)}
    if label and label not in fields:
        raise InputError(f"label={label}: no entry of {file} has this field (there are {column_names(fields)})")
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


def _prompt_list(paths: Sequence[str], count: int) -> list[Sequence[Message]]:
    """One request per response, from a file of strings or of objects with a field of prompts."""
    if len(paths) > 1:
        raise InputError(f"prompts={', '.join(paths)}: these responses are matched in order, so give one file")
    found: list[Sequence[Message]] = []
    problems = []
    for place, value in read_values(Path(paths[0]).expanduser()):
        bad: list[Problem] = []
        name = _first(value, REQUEST_FIELDS) if isinstance(value, Mapping) else None
        if isinstance(value, str):
            found.append(_request("(the string)", value, bad))
        elif name is not None:
            found.append(_request(name, value[name], bad))
        else:
            there = f"only the fields {column_names(value)}" if isinstance(value, Mapping) else describe(value)
            expected = f"a string, or an object with {', '.join(REQUEST_FIELDS)}"
            bad = [Problem("prompt", "no_prompt", expected, there, "call the field of the prompts prompt")]
        problems += [problem.at(place) for problem in bad]
    if not problems and len(found) != count:
        problems.append(f"{len(found)} prompts for {count} responses: they are matched in order")
    if problems:
        raise InputError.listing(f"prompts={paths[0]}: these prompts cannot be used:", problems)
    return found


def _is_result(value: Any) -> bool:
    return isinstance(value, Mapping) and {"prompt_set", "attack", "id", "response", "outcome"} <= value.keys()


def _results(file: Path, entries: Sequence[Entry], prompts: Sequence[str], problems: list[str]) -> list[StoredResponse]:
    """Lines of results.jsonl. The verdict they already have is a label."""
    sets = _evaluated_sets(file)
    rows: dict[str, Row] = {}
    for path in prompts:
        for row in read_prompts(path, PromptFormat.prompts, harmful=True).rows:
            known = rows.setdefault(row["id"], row)
            if (request_of(known), context_of(known)) != (request_of(row), context_of(row)):
                raise InputError(
                    f"prompts={', '.join(prompts)}: row {row['id']} is in two of these files with different texts, so "
                    "the responses' prompts cannot be told apart: give the rows of the files ids of their own, or "
                    "score the prompt sets one at a time"
                )
    found = []
    for place, line in entries:
        try:
            row_id, name, outcome = str(line["id"]), str(line["prompt_set"]), Outcome(line["outcome"])
            prefill = int(line.get("prefill_tokens", 0))
            if problem := string_problem("response", line["response"], _REMOVE):
                problems.append(problem.at(place))
                continue
        except (ValueError, TypeError):
            problems.append(f"{place}: not a line that launch/evaluate.py wrote; fix: {_REMOVE}")
            continue
        if prompts and row_id not in rows:
            problems.append(f"{place}: row {row_id} is not in prompts={', '.join(prompts)}")
        if name not in sets:
            problems.append(f"{place}: prompt set {name!r} is not in the evaluation.json beside the file")
            continue
        stored_row = rows.get(row_id, {})
        found.append(
            StoredResponse(
                row_id,
                request_of(stored_row) or None,
                line["response"],
                f"{name}, {line['attack']}",
                sets[name],
                prefill,
                {"outcome": None if outcome is Outcome.UNSCORED else outcome is Outcome.COMPLIED},
                context_of(stored_row),
            )
        )
    return found


def _evaluated_sets(file: Path) -> dict[str, bool]:
    """Prompt set -> whether it is harmful."""
    try:
        sets = json.loads((file.parent / IDENTITY_FILE).read_text(encoding="utf-8"))["identity"]["sets"]
        return {name: bool(settings["harmful"]) for name, settings in sets.items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        raise InputError(
            f"{file}: no readable {IDENTITY_FILE} beside it, which says what sets are harmful: keep them together"
        ) from None
