"""The guard at the door of training: no run on rows that overlap the prompts it will be judged by.

Two rules, both switched off by data.contamination=allow:

1. Rows that overlap a prompt of `data.evaluation_prompts` are refused, whatever file or dataset they come from.
2. Without evaluation prompts to compare with, a built dataset that holds borderline rows from a file or the hub must
   have been decontaminated when it was built: they are made to look like XSTest and OR-Bench, and leak most easily.
"""

import logging

from derta.config.data import DataConfig
from derta.data.decontaminate import EvaluationNgrams
from derta.data.evaluation_prompts import read_sets
from derta.data.load import LoadedRows
from derta.errors import InputError

logger = logging.getLogger(__name__)


def check_contamination(config: DataConfig, rows: LoadedRows) -> None:
    """Refuse to train on rows that overlap evaluation prompts.
    Raises InputError: see the rules above; rows are named by id."""
    problem = _overlap_problem(config, rows) if config.evaluation_prompts else _unguarded_problem(config, rows)
    if problem is None:
        return
    if config.contamination == "refuse":
        raise InputError(problem)
    logger.warning("%s (data.contamination=allow: training all the same)", problem.partition("; fix:")[0])


def _overlap_problem(config: DataConfig, rows: LoadedRows) -> str | None:
    sets = read_sets(config.evaluation_prompts)
    grams = EvaluationNgrams({one.name: one.prompts for one in sets}, config.contamination_ngram)
    found = grams.find(rows.dataset.select_columns(["id", "prompt"]))
    prompts = sum(len(one.prompts) for one in sets)
    if not found.ids:
        logger.info("contamination: none of %d rows overlaps the %d evaluation prompts", found.rows, prompts)
        return None
    return (
        f"data.path={config.path}: {found}; a model trained on them would be judged by what it has "
        "seen; fix: build the data with decontaminate: against these files (data_recipes/README.md), or set "
        "data.contamination=allow"
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
