"""What a result says of a response that the model has taken back in part."""

from derta.evaluation.judges.judge import RefusalPhraseJudge
from derta.evaluation.verdicts import judge_batch
from derta.models.inputs import Generation, ModelInput


def test_the_refusal_stands_where_the_reset_token_stood(target, harmful_rows):
    row = harmful_rows[0]
    refusal = target.cutter.cut(row["prompt"], row["chosen"]).response
    prompt = target.cutter.prompt_ids(row["prompt"])
    harmful = target.cutter.cut(row["prompt"], row["rejected"]).response[:3]
    item = ModelInput("harmful", "prefill_3", row["id"], (*prompt, *harmful), prefill_tokens=3)
    taken_back = Generation.cut(item, [harmful[0], 2, *refusal], target.end_token_ids, reset_id=2)
    kept = Generation.cut(item, [harmful[0], *refusal], target.end_token_ids, reset_id=2)
    rows, judge = {("harmful", row["id"]): (row, True)}, RefusalPhraseJudge()
    cut, whole = judge_batch([item, item], [taken_back, kept], rows, target, judge)
    assert cut.response == row["chosen"][0]["content"] and cut.prefill_characters == 0 < whole.prefill_characters
    assert (cut.outcome.value, cut.refusal_token, cut.refusal_word, cut.taken_back) == ("refused", 4, 0, 5)
    assert cut.response_tokens == 5 + len(refusal) and whole.response_tokens == 4 + len(refusal)
    assert (whole.refusal_token, whole.taken_back) == (4, 0)
    assert cut.prefill_tokens == whole.prefill_tokens == 3
