"""Records to rows: adapt, normalise, validate, filter; in one process or several, in the order of the records."""

import hashlib
import multiprocessing
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import repeat

from derta.data.filters import length_reason, refusal_reason
from derta.data.normalise import normalise_messages, prompt_key
from derta.data.recipe import Source
from derta.data.schema import Row, row_id, row_problems
from derta.data.sources import ADAPTERS
from derta.data.sources.record import Skip, View
from derta.storage.places import Place, Problem, Record, describe, string_problem

CHUNK_SIZE = 1000  # records that a process is given at a time


@dataclass(frozen=True)
class Kept:
    """A row that passed, where it came from, and a digest of its normalised prompt (equal prompts, equal digests)."""

    row: Row
    place: Place
    prompt_digest: str
    has_own_id: bool


@dataclass(frozen=True)
class Dropped:
    """A record that gives no row: dropped at `step` for `reason`. problems: of one that cannot be a row."""

    step: str
    reason: str
    problems: tuple[str, ...] = ()


Outcome = Kept | Dropped


def convert_record(record: Record, source: Source) -> Outcome:
    """One record to a row of `source`, or why not."""
    view = View(record.values, source.columns)
    adapter = ADAPTERS[source.adapter]
    draft = adapter.convert(view)
    own_id = _own_id(view) if "id" in adapter.optional else None
    if view.problems:
        return invalid(view.problems, record.place)
    if isinstance(draft, Skip):
        return Dropped("adapter", draft.reason)
    prompt, chosen, rejected = (normalise_messages(draft[key]) for key in ("prompt", "chosen", "rejected"))
    row: Row = {
        "id": own_id or row_id(source.name, prompt, chosen, rejected),
        "source": source.name,
        "kind": draft["kind"],
        "prompt": prompt,
        "chosen": chosen,
        "rejected": rejected,
    }
    if problems := row_problems(row):
        return invalid(problems, record.place)
    for step, reason_of in (("length", length_reason), ("refusal", refusal_reason)):
        if (reason := reason_of(row, source.filters)) is not None:
            return Dropped(step, reason)
    digest = hashlib.sha256(prompt_key(prompt).encode("utf-8", "surrogatepass")).hexdigest()
    return Kept(row, record.place, digest, own_id is not None)


def _own_id(view: View) -> str | None:
    """The record's id of its own, if it has one. Whole numbers are written out."""
    value = view.get("id")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (str, int)) or not str(value).strip():
        fix = "or ignore it: columns: {id: null}"
        view.note("id", "bad_id", "a non-empty string or a whole number", describe(value), fix)
    elif problem := string_problem(view.column("id"), str(value)):
        view.problems.append(problem)
    return str(value)


def invalid(problems: list[Problem], place: Place) -> Dropped:
    """A record that cannot be a row."""
    return Dropped("invalid", problems[0].reason, tuple(problem.at(place) for problem in problems))


def worker_pool(workers: int) -> AbstractContextManager[Executor | None]:
    """Processes for `convert`, or None for one worker, which needs none."""
    if workers <= 1:
        return nullcontext()
    # spawn, not fork: the reading libraries run threads of their own, which a forked child would inherit half-way
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))


def convert(records: Iterable[Record], source: Source, pool: Executor | None = None) -> Iterator[Outcome]:
    """The outcome of every record, in order, computed in this process or in the processes of `pool`."""
    if pool is None:
        return map(convert_record, records, repeat(source))
    return pool.map(convert_record, records, repeat(source), chunksize=CHUNK_SIZE)
