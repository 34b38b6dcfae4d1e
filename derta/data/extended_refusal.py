"""Recipe step: refusals that say more (arXiv 2505.19056).

    chosen  "Sorry, ..."  ->  neutral overview + explicit refusal + ethical reason

A refusal of this form spreads over many tokens instead of hanging on the first ones. Overview and reason come from
templates (in the miniature) or from a file, which a model behind an endpoint may fill (derta/data/overviews.py); the
row's own `chosen` stays the explicit refusal in the middle, unless the file gives another one. The id of a row stays as
it is: it names the row before and after, in the file and in a comparison.
"""

from collections import Counter
from dataclasses import replace
from pathlib import Path

from derta.data.convert import Kept
from derta.data.overviews import ask_for_overviews, read_overviews
from derta.data.recipe import ExtendedRefusals, Recipe, Source
from derta.data.refusal_text import refuses
from derta.data.schema import Row
from derta.errors import InputError, first_of
from derta.models.messages import is_raw_text


def overviews_file(settings: ExtendedRefusals, recipe: Recipe) -> Path | None:
    """The file that the settings name: beside the recipe or in the working directory, where a new one is made, too.
    Raises InputError: it is not there, and no endpoint is to fill it."""
    if settings.file is None:
        return None
    path = Path(settings.file).expanduser()
    candidates = [recipe.file.parent / path, path]  # the first is `path` itself where that is absolute
    found = next((one for one in candidates if one.is_file()), path)
    if settings.endpoint is None and not found.is_file():
        tried = ", ".join(dict.fromkeys(map(str, candidates)))
        raise InputError(
            f"extended_refusal.file: expected a JSONL file at '{settings.file}', found nothing (looked at {tried}); "
            "fix: correct the path, or name an endpoint that fills it"
        )
    return found


def extend_refusals(rows: list[Kept], source: Source, recipe: Recipe) -> tuple[list[Kept], Counter[str]]:
    """The source's rows with extended refusals, and how many were extended or, for which reason, left as they were.
    Raises InputError: rows for which the file has no line (unless `missing: keep`); see also derta/data/overviews.py.
    """
    reasons = {kept.row["id"]: _unusable(kept.row) for kept in rows}
    refusals = _refusals([kept.row for kept in rows if not reasons[kept.row["id"]]], source, recipe)
    counts: Counter[str] = Counter()
    extended = []
    for kept in rows:
        reason = reasons[kept.row["id"]] or "no_overview"
        if text := refusals.get(kept.row["id"]):
            kept = replace(kept, row={**kept.row, "chosen": [{"role": "assistant", "content": text}]})
            reason = "extended"
        counts[reason] += 1
        extended.append(kept)
    return extended, counts


def _unusable(row: Row) -> str:
    """Why there is no refusal in this row that could be extended; empty where there is one."""
    if row["kind"] != "safety":
        return "helpful"
    if row["chosen"] is None:
        return "no_safe_response"
    if is_raw_text(row["prompt"]):
        return "raw_text"
    return "" if refuses(row["chosen"][-1]["content"]) else "safe_response_does_not_refuse"


def _refusals(rows: list[Row], source: Source, recipe: Recipe) -> dict[str, str]:
    """Row id -> its extended refusal, where there is something to make it of."""
    settings = source.extended_refusal
    assert settings is not None
    path = overviews_file(settings, recipe)
    if path is None:
        from derta.miniature.extended import overview_and_refusal

        return {row["id"]: " ".join(overview_and_refusal(row["prompt"], row["id"])) for row in rows}  # type: ignore[arg-type]
    failures: dict[str, str] = {}
    if settings.endpoint is not None:
        failures = ask_for_overviews(rows, path, settings.endpoint, settings.max_tokens)
    overviews = read_overviews(path)
    missing = [row["id"] for row in rows if row["id"] not in overviews]
    if missing and settings.missing == "error":
        why = ", ".join(f"{count} {reason}" for reason, count in Counter(failures.values()).most_common())
        raise InputError(
            f"source '{source.name}': {path} has no overview for {len(missing)} of {len(rows)} refusals: "
            f"{first_of(missing)}{f' (from the endpoint: {why})' if why else ''}; fix: add the lines, "
            "run again where an endpoint fills the file, or set missing: keep to leave such rows as they are"
        )
    found = {}
    for row in rows:
        if (one := overviews.get(row["id"])) and row["chosen"]:
            refusal = one.get("refusal") or row["chosen"][-1]["content"]
            found[row["id"]] = "\n\n".join([one["overview"].strip(), refusal, one["reason"].strip()])
    return found
