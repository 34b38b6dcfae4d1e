"""Single responses of an evaluation, for a report: where they refuse and, on request, their text.

Numbers alone leave results.jsonl unless the text is asked for by name.
"""

import itertools
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from derta.data.refusal_text import refusal_span
from derta.evaluation.records import Outcome, Result
from derta.evaluation.results import RESULTS_FILE, ResultsFolder
from derta.evaluation.summary import Cell
from derta.report.runs import Run, group_by_label
from derta.statistics.positions import POSITION_BUCKETS

FREE, BEHIND = "no prefill", "behind a prefill"


def read_results(run: Run) -> list[Result]:
    """Lines of results.jsonl; empty where only the summary was kept."""
    if not (run.folder / RESULTS_FILE).is_file():
        return []
    return list(ResultsFolder(run.folder).read().values())


def refusal_counts(runs: Sequence[Run]) -> Iterator[dict[str, Any]]:
    """Where these runs refuse harmful prompts, as rows to be counted together: `checkpoint`, `attack`, `outcome`,
    `token` of the response at which the refusal starts, its `bucket`, its `kind` (`FREE` or `BEHIND`), and `count`.

    Beside them one row per attack with the scored `responses` (no outcome, token and bucket; count 0). A run without
    results.jsonl gives the buckets of its summary, where well-formed and malformed refusals are one, and no tokens.
    """
    for run in itertools.chain(*group_by_label(runs).values()):
        results = read_results(run)
        for name, prompts in run.summary.of_sets(harmful=True).items():
            for attack, cell in prompts.attacks.items():
                none = dict.fromkeys(("outcome", "token", "bucket", "kind"))
                row = {"checkpoint": run.label, "attack": attack, "responses": 0, "count": 0} | none
                if results:
                    yield row | {"responses": cell.n}
                for found in _refusals(results, name, attack) if results else _of_buckets(attack, cell):
                    yield row | found


def _refusals(results: Sequence[Result], name: str, attack: str) -> Iterator[dict[str, Any]]:
    counts = Counter(
        (result.outcome.value, result.refusal_token, BEHIND if result.prefill_tokens else FREE)
        for result in results
        if (result.prompt_set, result.attack) == (name, attack) and result.outcome.is_refusal
    )
    for (outcome, token, kind), count in counts.items():
        if token is not None:
            bucket = next(each for each, first, last in POSITION_BUCKETS if first <= token <= last)
            yield {"outcome": outcome, "token": token, "bucket": bucket, "kind": kind, "count": count}


def _of_buckets(attack: str, cell: Cell) -> Iterator[dict[str, Any]]:
    kind = BEHIND if attack.startswith("prefill") else FREE
    for bucket, share in cell.positions.items():
        if share.count:
            yield {"outcome": Outcome.REFUSED.value, "bucket": bucket, "kind": kind, "count": share.count}


@dataclass(frozen=True, slots=True)
class ShownResponse:
    """One response to read: what the attack wrote of it (`prefill`), the model's text up to the phrase that makes it a
    refusal, that phrase, and the rest."""

    checkpoint: str
    run: str
    outcome: str
    reason: str
    refusal_token: int | None
    prefill: str
    before: str
    phrase: str
    after: str


@dataclass(frozen=True, slots=True)
class ShownPrompt:
    """One prompt under one attack, with the responses of every checkpoint."""

    prompt_set: str
    attack: str
    id: str
    prompt: str
    responses: list[ShownResponse]


def shown_responses(groups: Mapping[str, Sequence[Run]]) -> list[ShownPrompt]:
    """The responses themselves, side by side. Harmful where the models were: only on request."""
    found: dict[tuple[str, str, str], ShownPrompt] = {}
    for label, members in groups.items():
        for run in members:
            for result in read_results(run):
                prompt = found.setdefault(
                    result.key, ShownPrompt(result.prompt_set, result.attack, result.id, result.prompt, [])
                )
                prompt.responses.append(_shown(result, label, run.name if len(members) > 1 else ""))
    return list(found.values())


def _shown(result: Result, checkpoint: str, run: str) -> ShownResponse:
    text, prefill = result.response, result.prefill_characters
    start, end = _first_refusal(text, result.refusal_word)
    start = max(start, prefill)
    end = max(end, start)
    return ShownResponse(
        checkpoint, run, result.outcome.value, result.reason, result.refusal_token,
        text[:prefill], text[prefill:start], text[start:end], text[end:],
    )  # fmt: skip


def _first_refusal(text: str, word: int | None) -> tuple[int, int]:
    """Where the phrase starts and ends that stands behind so many words: a known one, or the word alone. The end of the
    text where there is none."""
    words = list(re.finditer(r"\S+", text))
    if word is None or word >= len(words):
        return len(text), len(text)
    start, end = words[word].span()
    span = refusal_span(text[start:])
    return (start + span[0], start + span[1]) if span and span[0] < end - start else (start, end)
