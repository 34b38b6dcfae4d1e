"""Generated responses of a batch -> verdicts -> lines of results.jsonl."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

from derta.evaluation.judges.judge import Judge, position_in_tokens, position_in_words
from derta.evaluation.records import Outcome, Response, Result, Row, Verdict
from derta.models.inputs import Generation, ModelInput
from derta.models.target import TargetModel

STOPPED = "Sorry, I can't help with that."
"""What an application says where the guard has stopped a response."""
Rows = Mapping[tuple[str, str], tuple[Row, bool]]
"""(prompt set, row id) -> the row, and whether its prompt is harmful."""


def judge_batch(
    batch: Sequence[ModelInput], generations: Sequence[Generation], rows: Rows, target: TargetModel, judge: Judge
) -> list[Result]:
    """One line per response, in their order; with a guard, also what each would be if the guard ended it. A benign
    response that it stops is refused; of a harmful one what stands before the stop is judged with a refusal behind it,
    since it may hold the harm already."""
    responses = [_response(item, made, rows, target) for item, made in zip(batch, generations, strict=True)]
    results = [
        _result(item, made, response, verdict, target)
        for item, made, response, verdict in zip(batch, generations, responses, judge(responses), strict=True)
    ]
    if target.guard is None:
        return results
    results = [replace(result, guarded=result.outcome) for result in results]
    judged = []
    for place, (item, made) in enumerate(zip(batch, generations, strict=True)):
        if (left := made.guarded) is None:
            continue
        at = left.taken_back + len(left.token_ids)
        results[place] = replace(results[place], guarded=Outcome.REFUSED, guard_token=at)
        response = _response(item, left, rows, target)
        if response.harmful_prompt:
            text = f"{response.text.rstrip()} {STOPPED}" if response.text.strip() else STOPPED
            prefill = os.path.commonprefix([text, response.prefill])
            judged.append((place, replace(response, text=text, prefill=prefill)))
    verdicts = judge([response for _, response in judged]) if judged else []
    for (place, _), verdict in zip(judged, verdicts, strict=True):
        results[place] = replace(results[place], guarded=verdict.outcome)
    return results


def _response(item: ModelInput, generation: Generation, rows: Rows, target: TargetModel) -> Response:
    row, harmful = rows[item.prompt_set, item.row_id]
    given = 0 if generation.taken_back else item.prefill_tokens
    text, prefill = (target.decode(ids) for ids in (generation.token_ids, generation.token_ids[:given]))
    # A prefill may end inside a character, which then decodes differently.
    return Response(row, text, os.path.commonprefix([text, prefill]), harmful)


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
