"""Prompts of evaluation sets, for the decontamination step and the training guard: text alone, from any file.

The column of the prompts is named, or it is the first of PROMPT_COLUMNS that the first record has: JailbreakBench
`Goal`, AdvBench `goal`, HarmBench `Behavior`, StrongREJECT `forbidden_prompt`, XSTest, OR-Bench and preference rows
`prompt` (a text or messages), `question`, `instruction`; WildJailbreak `adversarial`, or `vanilla` where that is empty;
conversations in `messages`, `conversations` or, with the prompt inside, `chosen` (in any way that
derta/models/messages.py reads).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from derta.errors import InputError
from derta.models.messages import as_messages
from derta.storage.places import Record, column_names, describe, string_problem
from derta.storage.read_files import find_files, read_file, sha256_of

PROMPT_COLUMNS = (
    *("Goal", "goal", "Behavior", "forbidden_prompt", "prompt", "question", "instruction", "adversarial", "vanilla"),
    *("messages", "conversations", "chosen"),
)
_FIX = "name the column of the prompts with column:"


@dataclass(frozen=True)
class EvaluationSet:
    """name: of the file or directory, its whole path where another set has the same name. prompts: every message of the
    user, in order. sha256: of its files."""

    name: str
    prompts: list[str]
    sha256: list[str]


def read_sets(paths: Sequence[str]) -> list[EvaluationSet]:
    """The prompts of each file, or of all data files in a directory (of a built dataset, too).
    Raises InputError: nothing there, an unreadable file, records without a prompt, or a path given twice."""
    if len(set(paths)) < len(paths):
        raise InputError("an evaluation set is named twice; fix: name each once")
    names = [Path(path).name for path in paths]
    sets = []
    for path, name in zip(paths, names, strict=True):
        files = find_files(path, [Path(".")])
        prompts = [text for file in files for text in prompt_texts(read_file(file))]
        unique = name if name and names.count(name) == 1 else path
        sets.append(EvaluationSet(unique, prompts, [sha256_of(file) for file in files]))
    return sets


def read_prompt_rows(path: str, column: str | None = None) -> Iterator[dict[str, Any]]:
    """The same prompts as rows {"id", "prompt": messages}; what has no id of its own is called by its place.
    Raises InputError: as `read_sets`."""
    for file in find_files(path, [Path(".")]):
        for record, texts in _with_texts(read_file(file), column):
            name = record.values.get("id")
            own = isinstance(name, (str, int)) and string_problem("id", str(name)) is None
            prompt = [{"role": "user", "content": text} for text in texts]
            yield {"id": str(name if own else record.place), "prompt": prompt}


def prompt_texts(records: Iterable[Record], column: str | None = None) -> list[str]:
    """The prompts of the records; of a conversation, what the user (or a raw text) says.
    Raises InputError: no such column, none of the known ones, or no text in it."""
    return [text for _, texts in _with_texts(records, column) for text in texts]


def _with_texts(records: Iterable[Record], column: str | None) -> Iterator[tuple[Record, list[str]]]:
    for record in records:
        column = column or _recognised(record)
        yield record, _texts_of(record, column)


def _recognised(record: Record) -> str:
    if known := [name for name in PROMPT_COLUMNS if name in record.values]:
        return known[0]
    expected, there = f"a column with prompts ({', '.join(PROMPT_COLUMNS)})", column_names(record.values)
    raise InputError(f"{record.place}: expected {expected}, found only {there}; fix: {_FIX}")


def _texts_of(record: Record, column: str) -> list[str]:
    if column == "adversarial" and not record.values.get(column):
        column = "vanilla"
    value = record.values.get(column)
    messages = as_messages(value)
    found = [value] if messages is None and column != "chosen" else []
    found += [message["content"] for message in messages or [] if message["role"] in ("user", "text")]
    texts = [text for text in found if isinstance(text, str) and text.strip()]
    if not texts:
        there = describe(value) if column in record.values else "no such column"
        raise InputError(
            f"{record.place}: expected a text or messages in the column '{column}', found {there}; fix: {_FIX}"
        )
    return texts
