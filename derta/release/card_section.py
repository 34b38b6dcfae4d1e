"""The evaluation in a model card: the table of one evaluation, if there is one of exactly this model."""

from pathlib import Path

from derta.errors import InputError
from derta.evaluation.summary import SUMMARY_FILE
from derta.models.fingerprint import fingerprint
from derta.report.runs import Run, load_runs
from derta.report.table import render_rates
from derta.storage.atomic import write_atomically

_TITLE, _NEXT = "## Evaluation", "## Known limits"


def find_evaluation(model: Path) -> Run | None:
    """The evaluation beside a model: in its folder `evaluation`, or where a sweep puts it. None where there is none, or
    only that of other weights."""
    for folder in (model / "evaluation", model.parent / "evaluation" / model.name):
        if (folder / SUMMARY_FILE).is_file():
            [run] = load_runs([str(folder)])
            if _is_of(run, model):
                return run
    return None


def named_evaluation(folder: str, model: Path) -> Run:
    """Raises InputError for a folder without a finished evaluation, or with that of another model."""
    [run] = load_runs([folder])
    if not _is_of(run, model):
        raise InputError(
            f"evaluation={folder} is of another model than {model.name}: evaluate this one, or leave it out"
        )
    return run


def _is_of(run: Run, model: Path) -> bool:
    return run.summary.identity.model.sha256 == fingerprint(str(model))


def write_evaluation(card: Path, run: Run) -> None:
    """Put the table into a model card, in the place of an earlier one. Rates and hashes only: no text, no path."""
    identity, made = run.summary.identity, run.summary.run
    sets = ", ".join(
        f"{prompts.rows} {name} (sha256 `{prompts.sha256[:12]}`)" for name, prompts in identity.sets.items()
    )
    section = [
        _TITLE,
        "",
        render_rates([run]),
        f"Prompts: {sets}. Judge: `{identity.judge}`, at most {identity.max_new_tokens} new tokens. Model sha256 "
        f"`{identity.model.sha256[:12]}`; derta {made.versions['derta']}, eval={made.eval}.",
    ]
    before, _, after = card.read_text(encoding="utf-8").partition(f"{_NEXT}\n")
    head = before.partition(f"{_TITLE}\n")[0].rstrip()
    write_atomically(card, "\n".join([head, "", *section, "", _NEXT, after]))
