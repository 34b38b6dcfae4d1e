"""The guard at the door of training: no run on rows that overlap the prompts it will be judged by.

Two rules, both switched off by data.contamination=allow:

1. Rows that overlap a prompt of `data.evaluation_prompts` are refused, whatever file or dataset they come from.
2. Without evaluation prompts to compare with, a built dataset that holds borderline rows from a file or the hub must
   have been decontaminated when it was built: they are made to look like XSTest and OR-Bench, and leak most easily.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from derta.config.data import DataConfig
from derta.data.decontaminate import Overlaps, find_overlaps
from derta.data.evaluation_prompts import EvaluationSet, read_evaluation_set
from derta.data.load import LoadedRows
from derta.errors import InputError, first_of

logger = logging.getLogger(__name__)


def read_sets(paths: Sequence[str | Path], column: str | None = None) -> list[EvaluationSet]:
    """The evaluation sets at these paths; sets of the same file name are told apart by their whole path.

    Raises:
        InputError: see `read_evaluation_set`; a path given twice.
    """
    sets = [read_evaluation_set(path, column) for path in paths]
    if len(set(map(str, paths))) < len(paths):
        raise InputError("an evaluation set is named twice; fix: name each once")
    names = [one.name for one in sets]
    return [
        one if names.count(one.name) == 1 else EvaluationSet(str(path), one.prompts, one.sha256)
        for path, one in zip(paths, sets, strict=True)
    ]


def check_contamination(config: DataConfig, rows: LoadedRows) -> None:
    """Refuse to train on rows that overlap evaluation prompts.

    Raises:
        InputError: see the rules above; rows are named by id.
    """
    problem = _overlap_problem(config, rows) if config.evaluation_prompts else _unguarded_problem(config, rows)
    if problem is None:
        return
    if config.contamination == "refuse":
        raise InputError(problem)
    logger.warning("%s (data.contamination=allow: training all the same)", problem.partition("; fix:")[0])


def _overlap_problem(config: DataConfig, rows: LoadedRows) -> str | None:
    sets = read_sets(config.evaluation_prompts)
    prompts_by_set = {one.name: one.prompts for one in sets}
    found = find_overlaps(rows.dataset.select_columns(["id", "prompt"]), prompts_by_set, config.contamination_ngram)
    prompts = sum(len(one.prompts) for one in sets)
    if not found.ids:
        logger.info("contamination: none of %d rows overlaps the %d evaluation prompts", found.rows, prompts)
        return None
    return (
        f"data.path={config.path}: {describe_overlaps(found)}; a model trained on them would be judged by what it has "
        "seen; fix: build the data with decontaminate: against these files (data_recipes/README.md), or set "
        "data.contamination=allow"
    )


def describe_overlaps(found: Overlaps) -> str:
    """How many rows overlap which set, and the ids of the first ones."""
    by_set = ", ".join(f"{name}: {len(ids)}" for name, ids in found.by_set.items() if ids)
    return (
        f"{len(found.ids)} of {found.rows} rows share {found.ngram} words in a row with evaluation prompts, or hold a "
        f"shorter one ({by_set}): {first_of(found.ids)}"
    )


def _unguarded_problem(config: DataConfig, rows: LoadedRows) -> str | None:
    manifest = rows.manifest or {}
    if manifest.get("decontaminated_against"):
        return None
    sources = [entry for entry in manifest.get("sources", []) if entry.get("borderline") and entry.get("part") is None]
    if not sources:
        return None
    names = ", ".join(entry["name"] for entry in sources)
    return (
        f"data.path={config.path}: holds borderline rows ({names}), and its manifest records no decontamination: rows "
        "that look like over-refusal benchmarks may be these benchmarks; fix: add decontaminate: to the recipe and "
        "build it again, name what you evaluate on in data.evaluation_prompts=[FILE,...], or set "
        "data.contamination=allow"
    )
