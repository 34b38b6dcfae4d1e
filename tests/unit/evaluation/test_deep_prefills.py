"""Deep prefills share the forward of their row: the same results.jsonl as without, and after an interruption."""

from dataclasses import replace
from pathlib import Path

import pytest

from derta.evaluation import suite
from derta.evaluation.ranks import Ranks
from derta.evaluation.results import RESULTS_FILE
from derta.evaluation.suite import evaluate
from derta.models import prefixes

ATTACKS = ["direct", "prefill_5", "prefill_100", "prefill_200", "prefill_250"]


@pytest.fixture(scope="module")
def config(model_dir, harmful_rows, benign_rows, evaluation_of, tmp_path_factory):
    """Four rows with long responses, two of them too short for the deepest prefills."""
    longer = []
    for number, row in enumerate(harmful_rows):
        text = " ".join([row["rejected"][0]["content"]] * (8 if number < 4 else 1))
        longer.append(row | {"rejected": [{"role": "assistant", "content": text}]})
    rows = {"harmful": (longer, ATTACKS), "benign": (benign_rows, ["direct"])}
    return evaluation_of(tmp_path_factory.mktemp("deep"), model_dir, rows, batch_size=3, max_new_tokens=6)


def test_results_are_those_of_each_input_by_itself_and_the_same_after_an_interruption(config, tmp_path, monkeypatch):
    summary = evaluate(config, Ranks())
    deepest = summary.sets["harmful"].attacks["prefill_250"]
    assert (deepest.n, sum(deepest.skipped.values())) == (4, 2)
    whole = (Path(config.output_dir) / RESULTS_FILE).read_text()

    stopped = tmp_path / "stopped"
    respond, batches = suite.respond, []

    def interrupted(target, batch, *rest, **named):
        if len(batches) == 1:
            raise KeyboardInterrupt
        batches.append(len(batch))
        return respond(target, batch, *rest, **named)

    monkeypatch.setattr(suite, "respond", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluate(replace(config, output_dir=str(stopped)), Ranks())
    assert batches == [15] and not (stopped / RESULTS_FILE).exists()  # three rows of five
    monkeypatch.setattr(suite, "respond", respond)
    evaluate(replace(config, output_dir=str(stopped)), Ranks())
    assert (stopped / RESULTS_FILE).read_text() == whole

    for module in (suite, prefixes):
        monkeypatch.setattr(module, "shares_prefixes", lambda model: False)
    evaluate(replace(config, output_dir=str(tmp_path / "alone")), Ranks())
    assert (tmp_path / "alone" / RESULTS_FILE).read_text() == whole
