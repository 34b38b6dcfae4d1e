"""P(refusal token) at every position of a response, from one teacher-forced forward per row.

    prompt  r1 r2 r3 ... rn        the response is given, nothing is generated
          ^  ^  ^      ^
          p0 p1 p2 ... p(n-1)      p(t) = P(refusal | prompt, r1..rt): would the model turn round here?

P(refusal) is the sum over both forms of the refusal token, the one that starts a response and the one that follows
text: models say the other one, too. For harmful responses a model that can stop anywhere keeps p high all along; for
benign ones it must stay low. The curve of a set is the mean over the rows that are long enough for the position.
Shapes: B rows, L tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from derta.models.conversation import ConversationCutter, Cut
from derta.objective.refusal_token import RefusalToken
from derta.objective.rows import IGNORE
from derta.progress import progress
from derta.statistics.auroc import Auroc, clustered_auroc
from derta.statistics.positions import POSITION_BUCKETS, Curve

if TYPE_CHECKING:
    import torch


def teacher_forced_batch(cuts: Sequence[Cut], token: int, pad_token_id: int) -> dict[str, torch.Tensor]:
    """Rows right-padded: input_ids, attention_mask and labels, all [B, L]. The label at every response position is
    `token`; -100 elsewhere."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    rows = [torch.tensor([*cut.prompt, *cut.response]) for cut in cuts]
    labels = [torch.tensor([IGNORE] * len(cut.prompt) + [token] * len(cut.response)) for cut in cuts]
    return {
        "input_ids": pad_sequence(rows, batch_first=True, padding_value=pad_token_id),
        "attention_mask": pad_sequence([torch.ones_like(row) for row in rows], batch_first=True),
        "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORE),
    }


def response_logits(model: Any, cuts: Sequence[Cut], pad_token_id: int) -> Iterator[torch.Tensor]:
    """Logits [n, V] before each response token of each row: one forward for the whole batch, right-padded."""
    import torch

    batch = teacher_forced_batch(cuts, IGNORE, pad_token_id)
    longest = batch.pop("labels").shape[1]
    # Logits only from the first position on that predicts a response token: prompts are long and V is large.
    first = max(min(len(cut.prompt) for cut in cuts) - 1, 0)
    with torch.inference_mode():
        logits = model(
            **{name: tensor.to(model.device) for name, tensor in batch.items()},
            logits_to_keep=longest - first,
            use_cache=False,
        ).logits  # [B, L - first, V]
    for row, cut in enumerate(cuts):
        start = len(cut.prompt) - 1 - first
        yield logits[row, start : start + len(cut.response)].float()


def read_pass(cut: Cut, logits: torch.Tensor, refusal: RefusalToken | None) -> tuple[list[float], list[float]]:
    """From the logits [n, V] before each of the n tokens of a response: the token's log-probability in nats, and
    P(refusal) in its place (nothing without a refusal token)."""
    import torch

    from derta.models.refusal_stop import probability_of_any

    given = torch.tensor(cut.response, device=logits.device)[:, None]  # [n, 1]
    log_p = logits.gather(1, given)[:, 0] - logits.logsumexp(1)
    return log_p.tolist(), [] if refusal is None else probability_of_any(logits, refusal.ids).tolist()


def response_cuts(
    cutter: ConversationCutter, rows: Iterable[Mapping[str, Any]], *, harmful: bool, limit: int | None
) -> dict[str, Cut]:
    """Row id -> prompt and response ids, for every row that has the response in question: the unsafe one of harmful
    rows, the helpful one of benign rows. Responses end at `limit` tokens of the whole; rows without that response, or
    with an empty prompt, are left out."""
    cuts = {}
    for row in rows:
        response = row["rejected"] if harmful else row["chosen"]
        if response is not None:
            cut = cutter.cut(row["prompt"], response)
            if limit is not None:
                cut = replace(cut, response=cut.response[: max(limit - len(cut.prompt), 0)])
            if cut.prompt and cut.response:
                cuts[row["id"]] = cut
    return cuts


def longest_first(cuts: Mapping[str, Cut]) -> list[str]:
    """Row ids such that rows of similar length stand together: they share a batch with little padding."""
    return sorted(cuts, key=lambda row_id: (-len(cuts[row_id].prompt) - len(cuts[row_id].response), row_id))


def response_passes(
    model: Any, cuts: Mapping[str, Cut], pad_token_id: int, batch_size: int, shown: str = ""
) -> Iterator[tuple[str, torch.Tensor]]:
    """`response_logits` of every row by its id, rows of similar length together, the longest first."""
    order = longest_first(cuts)
    with progress(len(order), shown, shown=bool(shown)) as bar:
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            found = response_logits(model, [cuts[row_id] for row_id in batch], pad_token_id)
            yield from zip(batch, found, strict=True)
            bar.update(len(batch))


def curve_by_position(curves: Iterable[Sequence[float]]) -> Curve:
    """Position 0 is the start of the response."""
    rows = list(curves)
    longest = max((len(curve) for curve in rows), default=0)
    columns = [np.array([curve[position] for curve in rows if len(curve) > position]) for position in range(longest)]
    return Curve(
        mean=[float(column.mean()) for column in columns],
        q25=[float(np.quantile(column, 0.25)) for column in columns],
        q75=[float(np.quantile(column, 0.75)) for column in columns],
        count=[len(column) for column in columns],
    )


def separation(harmful: Iterable[Sequence[float]], benign: Iterable[Sequence[float]]) -> dict[str, Auroc]:
    """How well P(refusal) tells harmful responses from benign ones: AUROC over all positions, and per stretch of the
    response (`POSITION_BUCKETS`); the interval counts rows, n positions."""
    harmful, benign = list(harmful), list(benign)

    def between(first: float, last: float) -> Auroc:
        sides = (
            [[p for t, p in enumerate(curve) if first <= t <= last] for curve in side] for side in (harmful, benign)
        )
        return clustered_auroc(*sides)

    return {"all": between(0, float("inf"))} | {name: between(first, last) for name, first, last in POSITION_BUCKETS}
