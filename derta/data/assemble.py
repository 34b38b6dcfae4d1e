"""All steps of a recipe in memory: sources to train and hold-out rows, with a count for every step and reason."""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from derta.data.convert import Kept, convert, invalid, worker_pool
from derta.data.decontaminate import EvaluationNgrams, Overlaps
from derta.data.evaluation_prompts import prompt_texts
from derta.data.extended_refusal import extend_refusals, overviews_file
from derta.data.filters import ValueWatch, read_responses, value_reason
from derta.data.mix import drop_duplicates, give_unique_ids, select, shuffle_and_split
from derta.data.read_hub import read_hub, resolve_revision
from derta.data.recipe import EvaluationPrompts, ExtendedRefusals, Filters, Recipe, Source, public_path
from derta.data.schema import Row
from derta.data.sources import ADAPTERS
from derta.data.sources.miniature import generate, generator_files
from derta.data.sources.record import Skip, missing_column
from derta.errors import InputError
from derta.models.messages import is_raw_text
from derta.storage.places import Problem, Record
from derta.storage.read_files import find_files, read_file, sha256_of

logger = logging.getLogger(__name__)

# The order in which rows pass; "read" has no input, every other step takes the rows the step before it let through.
STEPS = ("values", "adapter", "invalid", "length", "refusal", "duplicates", "contamination", "count")

_NOT_BENIGN = Problem(
    "rejected",
    "borderline_with_rejected",
    "a benign prompt with a helpful response alone (the source is marked borderline)",
    "a harmful response beside it",
    "remove the row, or give triples as a source of their own without borderline: true",
)


@dataclass
class Origin:
    """Where a source's records really came from: files with their digests, or a hub commit."""

    files: list[Path] = field(default_factory=list)
    inputs: list[dict[str, str]] = field(default_factory=list)
    revision: str | None = None


class Origins(NamedTuple):
    """The origins of a recipe's sources and of its evaluation prompts, in the order of the recipe."""

    sources: list[Origin]
    evaluation: list[Origin]


@dataclass
class SourceReport:
    """What happened to the records of one source; `dropped` counts (step, reason).

    contamination: the rows that overlapped evaluation prompts and were dropped, where the recipe looks for them.
    """

    source: Source
    origin: Origin
    seed: int
    read: int = 0
    records_sha256: str = ""
    dropped: Counter[tuple[str, str]] = field(default_factory=Counter)
    extended_refusals: Counter[str] | None = None
    contamination: Overlaps | None = None

    def steps(self) -> list[dict[str, Any]]:
        """One entry per step: rows in, rows out and why the others went."""
        rows = self.read
        steps = []
        for step in STEPS:
            reasons = {reason: n for (name, reason), n in sorted(self.dropped.items()) if name == step}
            steps.append({"step": step, "rows_in": rows, "rows_out": rows - sum(reasons.values()), "dropped": reasons})
            rows -= sum(reasons.values())
        return steps


@dataclass
class Assembled:
    """evaluation_prompts: evaluation set -> how many prompts of it the rows were compared with, in recipe order."""

    train: list[Row]
    holdout: list[Row]
    reports: list[SourceReport]
    evaluation_prompts: dict[str, int] = field(default_factory=dict)


def find_origin(source: Source | EvaluationPrompts, recipe: Recipe) -> Origin:
    """The input files with their sha256, or the hub commit, of one source. Reads no rows."""
    part, extended = (source.part, source.extended_refusal) if isinstance(source, Source) else (None, None)
    origin = Origin()
    if part is not None:
        files = generator_files(part, extended=extended is not None)
        origin.inputs = [{"file": f"derta/miniature/{path.name}", "sha256": sha256_of(path)} for path in files]
    elif source.hub is not None:
        origin.revision = resolve_revision(source.hub, source.revision or "")
    else:
        origin.files = find_files(source.path or "", [recipe.file.parent, Path(".")])
        base = public_path(source.path or "")
        names = [base if len(origin.files) == 1 else f"{base}: {file.name}" for file in origin.files]
        origin.inputs = [
            {"file": name, "sha256": sha256_of(file)} for name, file in zip(names, origin.files, strict=True)
        ]
    if extended is not None and extended.endpoint is None:
        origin.inputs += _overviews_input(extended, recipe)
    return origin


def _overviews_input(settings: ExtendedRefusals, recipe: Recipe) -> list[dict[str, str]]:
    """The file that a source's refusals are extended from, if there is one."""
    path = overviews_file(settings, recipe)
    return [] if path is None else [{"file": public_path(str(settings.file)), "sha256": sha256_of(path)}]


def find_origins(recipe: Recipe) -> Origins:
    """Where everything the recipe names will come from. Reads no rows."""
    return Origins(*([find_origin(one, recipe) for one in given] for given in (recipe.sources, recipe.against)))


def read_origin(source: Source | EvaluationPrompts, origin: Origin, count: int | None, seed: int) -> Iterator[Record]:
    """The records of one source in order."""
    if isinstance(source, Source) and source.part is not None:
        yield from generate(source.part, count or 0, seed)
    elif source.hub is not None:
        yield from read_hub(source.hub, source.config, origin.revision or "", source.split or "")
    else:
        for file in origin.files:
            yield from read_file(file)


def assemble(recipe: Recipe, origins: Origins, workers: int = 1, limit: int | None = None) -> Assembled:
    """Run every step of the recipe. `limit` caps the rows of each source.
    Raises InputError: unusable rows (all listed), fewer rows than asked for, or nothing left."""
    evaluation = _evaluation_prompts(recipe, origins.evaluation)
    ngrams = EvaluationNgrams(evaluation, recipe.decontaminate.ngram) if recipe.decontaminate is not None else None
    used_ids: dict[str, Kept] = {}
    taken_prompts: set[str] = set()
    used_filters: set[str] = set()
    chosen: list[Kept] = []
    reports = []
    with worker_pool(workers) as pool:
        for source, origin in zip(recipe.sources, origins.sources, strict=True):
            report = SourceReport(source, origin, recipe.seed if source.seed is None else source.seed)
            count = source.count if limit is None else min(limit, source.count or limit)
            rows = give_unique_ids(_rows_of(report, count, pool), used_ids)
            used_filters |= _used_filters(report, rows)
            warn_of_raw_text(source.path or source.hub, _count_raw(rows, source), len(rows))
            selected = _choose(report, rows, count, taken_prompts, ngrams, may_fall_short=limit is not None)
            if source.extended_refusal is not None:
                selected, report.extended_refusals = extend_refusals(selected, source, recipe)
                if source.extended_refusal.endpoint is not None:  # filled only now
                    origin.inputs += _overviews_input(source.extended_refusal, recipe)
            taken_prompts |= {kept.prompt_digest for kept in selected}
            chosen += selected
            reports.append(report)
    _warn_of_idle_settings(reports, used_filters)
    train, holdout = shuffle_and_split(chosen, recipe.holdout, recipe.seed, recipe.shuffle)
    return Assembled(train, holdout, reports, {name: len(prompts) for name, prompts in evaluation.items()})


def warn_of_raw_text(where: object, raw: int, rows: int) -> None:
    """Say that plain strings are raw text, where there are any."""
    if raw:
        logger.warning(
            "%s: %d of %d rows are plain strings, so they are raw text and no chat template is applied to them (TRL's "
            "rule); to have it applied, build them with adapter: strings (data_recipes/README.md), or write messages, "
            "[{'role': ..., 'content': ...}]",
            *(where, raw, rows),
        )


def _count_raw(rows: list[Kept], source: Source) -> int:
    """Plain strings among preference rows; the other adapters that give raw text do so by design."""
    return sum(is_raw_text(kept.row["prompt"]) for kept in rows) if source.adapter == "preference" else 0


def _refusal_filters(source: Source) -> set[str]:
    """Those that are on."""
    return {name for name in Filters.model_fields if name.endswith("_refuse") and getattr(source.filters, name)}


def _used_filters(report: SourceReport, rows: list[Kept]) -> set[str]:
    """The refusal filters of a source that had a response to read (all of them where one has dropped a row)."""
    on = _refusal_filters(report.source)
    if any(step == "refusal" for step, _ in report.dropped):
        return on
    return on.intersection(name for kept in rows for name in read_responses(kept.row))


def _warn_of_idle_settings(reports: list[SourceReport], used_filters: set[str]) -> None:
    """Say what was asked for and had no effect. A filter may stand for all sources, so one that is used is enough."""
    asked = {name for report in reports for name in _refusal_filters(report.source)}
    for name in sorted(asked - used_filters):
        logger.warning("filters.%s had no response to read in any source: it dropped nothing and kept nothing", name)
    for report in reports:
        if report.extended_refusals is not None and not report.extended_refusals["extended"]:
            why = ", ".join(f"{count} {reason}" for reason, count in sorted(report.extended_refusals.items()))
            logger.warning("source '%s': extended_refusal extended no row (%s)", report.source.name, why)


def _choose(
    report: SourceReport,
    rows: list[Kept],
    count: int | None,
    taken_prompts: set[str],
    ngrams: EvaluationNgrams | None,
    may_fall_short: bool,
) -> list[Kept]:
    """The rows of one source that go into the mix, after duplicates and evaluation prompts; counted in the report."""
    source = report.source
    rows, duplicates = drop_duplicates(rows, source.filters.duplicates, taken_prompts)
    report.dropped.update((one.step, one.reason) for one in duplicates)
    if ngrams is not None:
        report.contamination = ngrams.find(kept.row for kept in rows)
        overlapping = set(report.contamination.ids)
        rows = [kept for kept in rows if kept.row["id"] not in overlapping]
        report.dropped["contamination", "overlaps_evaluation_prompt"] += len(overlapping)
    short = count is not None and len(rows) < count and not source.allow_fewer and not may_fall_short
    if not rows or short:
        raise _too_few(report, len(rows), count)
    selected = select(rows, count, source.select, report.seed)
    report.dropped["count", "not_selected"] += len(rows) - len(selected)
    report.dropped = +report.dropped  # without the reasons that came to nothing
    return selected


def read_source(source: Source) -> list[Row]:
    """All rows of one local source in file order, normalised and validated, without a recipe around it."""
    recipe = Recipe(sources=[source])
    report = SourceReport(source, find_origin(source, recipe), recipe.seed)
    rows = give_unique_ids(_rows_of(report, None, pool=None), {})
    warn_of_raw_text(source.path, _count_raw(rows, source), len(rows))
    return [kept.row for kept in rows]


def _rows_of(report: SourceReport, count: int | None, pool: Executor | None) -> Iterator[Kept]:
    """The valid, filtered rows of one source.

    What is dropped is counted in the report, what is invalid is raised at the end.
    """
    source = report.source
    problems: list[str] = []
    records = _gathered(report, _read(report, count))
    for outcome in convert(records, source, pool):
        if isinstance(outcome, Kept) and source.borderline and outcome.row["kind"] != "helpful":
            outcome = invalid([_NOT_BENIGN], outcome.place)
        if isinstance(outcome, Kept):
            yield outcome
        elif outcome.problems and source.on_invalid == "error":
            problems += outcome.problems
        else:
            report.dropped[outcome.step, outcome.reason] += 1
    if problems:
        raise InputError.listing(f"source '{source.name}' has rows that cannot be used:", problems)


def _read(report: SourceReport, count: int | None) -> Iterator[Record]:
    """The records that pass the value filters, counted and hashed as they are read."""
    source = report.source
    digest = hashlib.sha256()
    mapped = {name: source.columns.get(name, name) for name in (*ADAPTERS[source.adapter].somewhere, *source.columns)}
    absent = {column for column in mapped.values() if column is not None}
    watch = ValueWatch(source.filters)
    records = read_origin(source, report.origin, count, report.seed)
    for record in tqdm(records, desc=source.name, unit=" rows", disable=None):
        if report.read == 0:
            _check_columns(source, record)
        report.read += 1
        absent -= record.values.keys()
        watch.see(record.values)
        digest.update(json.dumps(record.values, sort_keys=True, default=str).encode())
        reason = value_reason(record.values, source.filters)
        if reason is None:
            yield record
        else:
            report.dropped["values", reason] += 1
    if absent and report.read:
        columns = ", ".join(f"'{column}'" for column in sorted(absent))
        raise InputError(
            f"source '{source.name}': expected the column {columns} of the adapter '{source.adapter}' in at least one "
            f"of {report.read} records, found it in none; fix: correct the file, or name the column that holds it in "
            "the recipe: columns: {...: YOUR_COLUMN}"
        )
    impossible, unseen = watch.verdicts() if report.read else ([], [])
    if impossible:
        raise InputError.listing(f"source '{source.name}' has filters that can never match:", impossible)
    for warning in unseen:
        logger.warning("source '%s': %s", source.name, warning)
    report.records_sha256 = digest.hexdigest()


def _check_columns(source: Source, record: Record) -> None:
    """A column that the first record lacks is one error, not one per row."""
    adapter = ADAPTERS[source.adapter]
    named = [name for name in source.columns if name not in adapter.somewhere]
    names = [] if source.on_invalid == "drop" else [*adapter.columns, *named]
    needed = {name: source.columns.get(name) or name for name in names}
    needed.update({column: column for column in (*source.filters.keep_values, *source.filters.drop_values)})
    missing = [
        missing_column(name, column, record.values).at(record.place)
        for name, column in needed.items()
        if column not in record.values and source.columns.get(name, name) is not None
    ]
    if missing:
        here = record.values.keys()
        if not source.columns and not here & set(adapter.columns):  # else another reading may be a wrong one
            fitting = [name for name, one in ADAPTERS.items() if here >= set(one.columns)]
            missing += [f"or the columns are those of another adapter; fix: adapter: {name}" for name in fitting]
        raise InputError.listing(f"source '{source.name}' lacks columns of the adapter '{source.adapter}':", missing)


def _gathered(report: SourceReport, records: Iterator[Record]) -> Iterator[Record]:
    """Records after the adapter's own gathering, with what it left out counted."""
    adapter = ADAPTERS[report.source.adapter]
    if adapter.gather is None:
        yield from records
        return
    came_out = 0
    for one in adapter.gather(records, report.source.columns):
        came_out += 1
        if isinstance(one, Skip):
            report.dropped["adapter", one.reason] += 1
        else:
            yield one
    went_in = report.read - sum(count for (step, _), count in report.dropped.items() if step == "values")
    report.dropped["adapter", "joined_with_partner"] += went_in - came_out


def _evaluation_prompts(recipe: Recipe, origins: list[Origin]) -> dict[str, list[str]]:
    """Evaluation set -> its prompts."""
    found: dict[str, list[str]] = {}
    for evaluation, origin in zip(recipe.against, origins, strict=True):
        try:
            found[evaluation.name] = prompt_texts(read_origin(evaluation, origin, None, 0), evaluation.column)
        except InputError as error:
            raise InputError(f"decontaminate: {error}") from None
    return found


def _too_few(report: SourceReport, left: int, count: int | None) -> InputError:
    reasons = ", ".join(f"{n} {step}: {reason}" for (step, reason), n in report.dropped.most_common(5))
    asked = f"{count} rows" if count is not None else "at least one row"
    found = f"expected {asked}, found {left} after reading {report.read} ({reasons or 'none dropped'})"
    fix = "lower count:, loosen the filters, or set allow_fewer: true"
    return InputError(
        f"source '{report.source.name}': {found}; fix: {fix if left else 'loosen the filters or give other data'}"
    )
