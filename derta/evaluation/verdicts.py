"""Generated responses of a batch -> verdicts -> lines of results.jsonl."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from derta.evaluation.judges.judge import Judge, position_in_tokens, position_in_words
from derta.evaluation.records import Response, Result, Row, Verdict
from derta.models.inputs import Generation, ModelInput
from derta.models.target import TargetModel

Rows = Mapping[tuple[str, str], tuple[Row, bool]]
"""(prompt set, row id) -> the row, and whether its prompt is harmful."""


def judge_batch(
    batch: Sequence[ModelInput], generations: Sequence[Generation], rows: Rows, target: TargetModel, judge: Judge
) -> list[Result]:
    """One line per response, in their order."""
    responses = [_response(item, made, rows, target) for item, made in zip(batch, generations, strict=True)]
    verdicts = judge(responses)
    return [
        _result(item, made, response, verdict, target)
        for item, made, response, verdict in zip(batch, generations, responses, verdicts, strict=True)
    ]


def _response(item: ModelInput, generation: Generation, rows: Rows, target: TargetModel) -> Response:
    row, harmful = rows[item.prompt_set, item.row_id]
    given = 0 if generation.taken_back else item.prefill_tokens
    text, prefill = (target.decode(ids) for ids in (generation.token_ids, generation.token_ids[:given]))
    # A prefill may end inside a character, which then decodes differently.
    return Response(row, item.attack, text, os.path.commonprefix([text, prefill]), harmful, generation.finished)


def _result(
    item: ModelInput, generation: Generation, response: Response, verdict: Verdict, target: TargetModel
) -> Result:
    told, ids, taken_back = asdict(verdict), generation.token_ids, generation.taken_back
    start = told.pop("refusal_start")
    del told["categories"]
    turn = None if start is None else taken_back - 1 if taken_back else position_in_tokens(target.decode, ids, start)
    return Result(
        prompt_set=item.prompt_set,
        attack=item.attack,
        id=item.row_id,
        response=response.text,
        response_tokens=taken_back + len(ids),
        prefill_tokens=item.prefill_tokens,
        finished=generation.finished,
        refusal_token=turn,
        refusal_word=None if start is None else position_in_words(response.text, start),
        prompt=response.row["prompt"][-1]["content"],
        prefill_characters=len(response.prefill),
        taken_back=taken_back,
        **told,
    )
