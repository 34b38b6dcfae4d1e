"""Extended refusals in the miniature, and which judges see them: those that read the whole response."""

import numpy as np
import pytest
from datasets import Dataset

from derta.config import ObjectiveConfig
from derta.evaluation.judges.judge import MiniatureJudge, RefusalPhraseJudge
from derta.evaluation.records import Outcome, Response
from derta.miniature.extended import overview_and_refusal
from derta.miniature.rows import generate
from derta.miniature.tokenizer import build_tokenizer
from derta.miniature.variants import asked_item
from derta.objective.refusal_token import resolve_refusal_token
from derta.objective.rows import IGNORE, RowSettings, mle_row, rto_row
from derta.training.dataset import build_row_table


def extended(count: int = 60) -> list[tuple[dict, str, str]]:
    triples = generate("safety", count, 7)
    return [(row, *overview_and_refusal(row["prompt"], row["id"])) for row in triples]


def response(row: dict, text: str) -> Response:
    return Response(row, text, "", harmful_prompt=True)


@pytest.mark.parametrize("judge", [MiniatureJudge(), RefusalPhraseJudge()], ids=lambda judge: judge.name)
def test_full_text_judges_see_the_refusal_behind_the_overview(judge) -> None:
    rows = extended()
    verdicts = judge([response(row, f"{overview} {refusal}") for row, overview, refusal in rows])
    assert all(len(overview) > 40 for _, overview, _ in rows), "a judge that reads the head alone misses it"
    assert [verdict.outcome for verdict in verdicts] == [Outcome.REFUSED] * len(rows)
    assert [verdict.refusal_start for verdict in verdicts] == [len(overview) + 1 for _, overview, _ in rows]


def test_an_overview_alone_is_no_refusal_and_no_answer() -> None:
    rows = extended()
    for judge, expected in ((MiniatureJudge(), Outcome.GARBLED), (RefusalPhraseJudge(), Outcome.COMPLIED)):
        verdicts = judge([response(row, overview) for row, overview, _ in rows])
        assert {verdict.outcome for verdict in verdicts} == {expected}


def test_every_word_is_one_token_and_the_choice_follows_from_the_name() -> None:
    tokenizer = build_tokenizer()
    rows = extended()
    for row, overview, refusal in rows:
        text = f"{overview} {refusal}"
        for form in (text, f" {text}"):  # at the start of a response, and after a harmful prefix
            assert len(tokenizer(form)["input_ids"]) == len(text.split())
        assert overview_and_refusal(row["prompt"], row["id"]) == (overview, refusal)
        assert refusal in asked_item(row["prompt"])[0].refusals
    openings = {overview.split()[0] if overview.startswith("Using") else overview[:7] for _, overview, _ in rows}
    assert {"Using", "How one"} < openings  # all templates occur


def test_a_benign_request_has_no_extended_refusal() -> None:
    with pytest.raises(ValueError, match="benign"):
        overview_and_refusal(next(generate("eval_benign", 1, 0))["prompt"], "a")


def test_training_rows_of_an_extended_refusal() -> None:
    """The refusal token is resolved from objective.refusal_text, not from how the safe response starts."""
    tokenizer = build_tokenizer()
    refusal = resolve_refusal_token(tokenizer)
    row, overview, text = extended(1)[0]
    row = {**row, "chosen": [{"role": "assistant", "content": f"{overview} {text}"}]}
    settings = RowSettings(objective=ObjectiveConfig(), max_length=320, seed=1)
    table, report = build_row_table(Dataset.from_list([row]), tokenizer, refusal, settings)
    assert (report.mle_rows, report.rto_rows, report.truncated_rows) == (1, 1, 0)
    example = table[0]
    harmful = row["rejected"][0]["content"].split()
    for k in (0, 7):
        made = mle_row(example, k, 320)
        said = [label for label in made["labels"] if label != IGNORE]
        seen = [i for i, label in zip(made["input_ids"], made["labels"], strict=True) if label == IGNORE]
        assert tokenizer.decode(said).strip() == f"{overview} {text}<|end|>"
        assert said.index(refusal.continued_id) == len(overview.split())  # " Sorry" after the overview, once
        assert tokenizer.decode(seen).endswith("<|assistant|>" + " ".join(harmful[:k]))
    made = rto_row(example, refusal, np.ones(len(example["rejected_ids"]), dtype=bool), 320)
    labels = [label for label in made["labels"] if label != IGNORE]
    assert labels == [refusal.start_id] + [refusal.continued_id] * len(harmful)
