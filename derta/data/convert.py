"""Records to rows: adapt, normalise, validate, filter. Works on chunks of a fixed size, in one process or several.

Chunks do not depend on the number of workers and results keep the order of the records, so neither do the rows.
"""

from __future__ import annotations

import hashlib
import multiprocessing
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

from derta.data.filters import length_reason, refusal_reason
from derta.data.normalise import normalise_messages, prompt_key
from derta.data.recipe import Filters, Source
from derta.data.schema import Row, row_id, row_problems
from derta.data.sources import ADAPTERS
from derta.data.sources.record import Skip, View
from derta.storage.places import Place, Problem, Record, describe

CHUNK_SIZE = 1000


@dataclass(frozen=True)
class Kept:
    """A row that passed, where it came from, and a digest of its normalised prompt (equal prompts, equal digests)."""

    row: Row
    place: Place
    prompt_digest: str
    has_own_id: bool


@dataclass(frozen=True)
class Dropped:
    """A row that was dropped at `step` for `reason`."""

    step: str
    reason: str


@dataclass(frozen=True)
class Invalid:
    """A record that cannot be a row."""

    problems: list[str]
    reason: str


Outcome = Kept | Dropped | Invalid


def convert_record(
    record: Record, adapter: str, columns: Mapping[str, str | None], source: str, filters: Filters
) -> Outcome:
    """One record to a row of source `source`, or why not."""
    view = View(record.values, columns)
    draft = ADAPTERS[adapter].convert(view)
    own_id = _own_id(view) if "id" in ADAPTERS[adapter].optional else None
    if view.problems:
        return _invalid(view.problems, record.place)
    if isinstance(draft, Skip):
        return Dropped("adapter", draft.reason)
    prompt, chosen, rejected = (normalise_messages(draft[key]) for key in ("prompt", "chosen", "rejected"))
    row: Row = {
        "id": own_id or row_id(source, prompt, chosen, rejected),
        "source": source,
        "kind": draft["kind"],
        "prompt": prompt,
        "chosen": chosen,
        "rejected": rejected,
    }
    problems = row_problems(row)
    if problems:
        return _invalid(problems, record.place)
    for step, reason in (("length", length_reason(row, filters)), ("refusal", refusal_reason(row, filters))):
        if reason is not None:
            return Dropped(step, reason)
    digest = hashlib.sha256(prompt_key(prompt).encode("utf-8", "surrogatepass")).hexdigest()
    return Kept(row, record.place, digest, own_id is not None)


def _own_id(view: View) -> str | None:
    """The record's id of its own, if it has one. Whole numbers are written out."""
    value = view.get("id")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (str, int)) or not str(value).strip():
        view.note(
            "id",
            "bad_id",
            "a non-empty string or a whole number",
            describe(value),
            "or ignore it: columns: {id: null}",
        )
        return None
    return str(value)


def _invalid(problems: list[Problem], place: Place) -> Invalid:
    return Invalid([problem.at(place) for problem in problems], problems[0].reason)


def _convert_chunk(job: tuple[list[Record], str, Mapping[str, Any], str, Filters]) -> list[Outcome]:
    records, adapter, columns, name, filters = job
    return [convert_record(record, adapter, columns, name, filters) for record in records]


@contextmanager
def worker_pool(workers: int) -> Iterator[Executor | None]:
    """Processes for `convert`, or None for one worker, which needs none."""
    if workers <= 1:
        yield None
        return
    # spawn, not fork: the reading libraries run threads of their own, which a forked child would inherit half-way
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


def convert(records: Iterable[Record], source: Source, pool: Executor | None = None) -> Iterator[Outcome]:
    """The outcome of every record, in order, computed in this process or in the processes of `pool`."""
    iterator = iter(records)
    chunks = iter(lambda: list(islice(iterator, CHUNK_SIZE)), [])
    jobs = ((chunk, source.adapter, source.columns, source.name, source.filters) for chunk in chunks)
    for outcomes in (pool.map if pool else map)(_convert_chunk, jobs):
        yield from outcomes
