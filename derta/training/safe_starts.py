"""Whether the safe responses of the data begin as the refusal token says: where they do not, RTO and the rows with a
harmful prefix teach different tokens in one place."""

import logging
from collections import Counter

import pyarrow.compute as pc
from datasets import Dataset

from derta.objective.refusal_token import RefusalToken
from derta.objective.rows import View

logger = logging.getLogger(__name__)

_MANY = 0.2  # share of safe responses that begin otherwise, above which the message is a warning


def report_safe_starts(table: Dataset, refusal: RefusalToken, token_ids: list[int] | None) -> None:
    """Count the triples whose safe response begins otherwise, and say so.

    Args:
        table: of `build_row_table`. token_ids: as the user gave them outright.
    """
    rows = table.select_columns(["view", "chosen_ids", "chosen_continued_ids", "rto_first_id"]).with_format("arrow")[:]
    rows = rows.filter(pc.equal(rows["view"], int(View.RTO)))  # one per row with a harmful response
    rows = rows.filter(pc.greater(pc.list_value_length(rows["chosen_continued_ids"]), 0))
    if not len(rows):
        return
    starts, continued = (pc.list_element(rows[name], 0).to_pylist() for name in ("chosen_ids", "chosen_continued_ids"))
    pairs = list(zip(starts, continued, strict=True))
    own = [(first, refusal.continued_id) for first in rows["rto_first_id"].to_pylist()]
    other, total = sum(pair != mine for pair, mine in zip(pairs, own, strict=True)), len(pairs)
    (usual, count), *_ = Counter(pairs).most_common(1)
    if token_ids is not None and usual[1] != refusal.continued_id:
        logger.warning(
            "objective.refusal_token_ids=%s: behind harmful text RTO teaches %d, and safe responses begin there with "
            "another token, so the model learns both in one place; objective.refusal_token_ids=[%d,%d] agrees with %d "
            "of %d of them",
            *(token_ids, refusal.continued_id, *usual, count, total),
        )
    elif other > _MANY * total:
        logger.warning(
            "%d of %d safe responses beside a harmful one do not begin with the refusal token, and behind harmful text "
            "the model is taught both: set objective.%s to what they begin with",
            *(other, total, "refusal_text" if token_ids is None else "refusal_token_ids"),
        )
    elif other:
        logger.info("%d of %d safe responses beside a harmful one begin otherwise than the refusal token", other, total)
