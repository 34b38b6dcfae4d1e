"""launch/judge.py's work: labelled files, own results, resuming, refusing what does not fit."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from derta.config.evaluation import JudgeRunConfig
from derta.config.judging import JudgeName
from derta.config.prompts import PromptFormat
from derta.errors import InputError
from derta.evaluation.prompt_files import read_prompt_file
from derta.evaluation.records import Outcome, Score
from derta.evaluation.stored.score_file import describe, score_file, summarise

REFUSAL = "Sorry, I cannot help with that."


@pytest.fixture
def labelled(tmp_path):
    """60 responses: 20 harmful ones, 30 refusals, 10 that the judge cannot read; the labels miss 4 of the harmful."""
    texts = ["here are gloomsteps"] * 20 + [REFUSAL] * 30 + ["mumble"] * 10
    completions = [
        {
            "category": f"Category {i % 2}",
            "prompt": f"harmful request {i}",
            "response": text,
            "is_jailbreak_x": int("gloom" in text and i >= 4),
        }
        for i, text in enumerate(texts)
    ]
    file = tmp_path / "labelled_evaluations.json"
    file.write_text(json.dumps({"completions": completions}))
    return file


@pytest.fixture(scope="module")
def settings(judge_model):
    return judge_model({"gloomsteps": "yes", "mumble": "perhaps"}, "no", batch_size=2)


def config(file, settings, **changes):
    return JudgeRunConfig(responses=str(file), judge=JudgeName.harmbench, judging=settings, **changes)


def scores(folder):
    return [json.loads(line) for line in (folder / "scores.jsonl").read_text().splitlines()]


def test_agreement_with_labels_and_unscored_counted(labelled, settings, capsys):
    summary = score_file(config(labelled, settings))
    numbers = summary.prompts["harmful"]
    assert "benign" not in summary.prompts
    assert (numbers.n, numbers.complied.count, numbers.refused.count) == (50, 20, 30)
    assert numbers.outcomes["unscored"] == 10 and sum(numbers.unscored.values()) == 10
    found = summary.agreement["is_jailbreak_x"]
    assert [getattr(found, key) for key in ("both", "judge_only", "label_only", "neither")] == [16, 4, 0, 30]
    assert (found.unscored, found.unlabelled) == (10, 0)
    # p_o = 46/50; p_e = (20/50)(16/50) + (30/50)(34/50) = .536; kappa = (.92 - .536) / .464
    assert found.kappa == pytest.approx((0.92 - 0.536) / 0.464)
    assert summary.groups.keys() == {"Category 0", "Category 1"}
    text = describe(summary)
    assert "Cohen's kappa 0.828" in text and "10 unscored" in text and "gloom" not in text


def test_lines_hold_no_text_and_stand_in_the_order_of_the_file(labelled, settings, tmp_path):
    score_file(config(labelled, settings, output=str(tmp_path / "out")))
    lines = scores(tmp_path / "out")
    assert [line["index"] for line in lines] == list(range(60))
    assert "gloom" not in (tmp_path / "out" / "scores.jsonl").read_text()
    assert [line["outcome"] for line in lines[19:22]] == ["complied", "refused", "refused"]


@pytest.mark.parametrize("torn_bytes", [0, 7])
def test_a_stopped_judging_goes_on_where_it_was(labelled, settings, tmp_path, torn_bytes, monkeypatch):
    whole = score_file(config(labelled, settings, output=str(tmp_path / "whole")))
    stopped = Path(shutil.copytree(tmp_path / "whole", tmp_path / "stopped"))
    lines = (stopped / "scores.jsonl").read_bytes().splitlines(keepends=True)
    (stopped / "scores.jsonl").write_bytes(b"".join(lines[:33]) + lines[33][:torn_bytes])
    (stopped / "summary.json").unlink()
    asked = []
    monkeypatch.setattr("derta.evaluation.stored.score_file._scores", spy(asked))
    again = score_file(config(labelled, settings, output=str(stopped)))
    assert sum(asked) == 60 - 33
    assert scores(stopped) == scores(tmp_path / "whole")
    assert again == replace(whole, identity=again.identity, run=again.run)
    score_file(config(labelled, settings, output=str(stopped)))
    assert sum(asked) == 60 - 33  # nothing left to do


def spy(asked):
    """The real function, counting what it is given."""
    from derta.evaluation.stored.score_file import _scores

    def counted(batch, first, judge):
        asked.append(len(batch))
        return _scores(batch, first, judge)

    return counted


def test_a_folder_of_something_else_is_refused(labelled, settings, judge_model, tmp_path):
    out = str(tmp_path / "out")
    score_file(config(labelled, settings, output=out))
    other = judge_model({"gloomsteps": "no"}, "no")
    with pytest.raises(InputError, match="differs in:\\n  - judge: "):
        score_file(config(labelled, other, output=out))
    with pytest.raises(InputError, match="differs in:\\n  - harmful: "):
        score_file(config(labelled, settings, output=out, harmful=False))
    labelled.write_text(labelled.read_text() + "\n")
    with pytest.raises(InputError, match="differs in:\\n  - responses: "):
        score_file(config(labelled, settings, output=out))
    with pytest.raises(InputError, match="holds other files"):
        score_file(config(labelled, settings, output=str(tmp_path)))


def test_a_judge_of_both_needs_prompts_and_phrases_do_not(settings, tmp_path):
    file = tmp_path / "bare.json"
    file.write_text(json.dumps([REFUSAL, "here are gloomsteps"]))
    with pytest.raises(InputError, match="prompts=FILE"):
        score_file(config(file, settings))
    phrases = score_file(JudgeRunConfig(responses=str(file), output=str(tmp_path / "phrases")))
    assert phrases.prompts["harmful"].complied.rate == 0.5
    prompts = tmp_path / "prompts.json"
    prompts.write_text(json.dumps(["harmful request 1", "harmful request 2"]))
    summary = score_file(config(file, settings, prompts=str(prompts), output=str(tmp_path / "both")))
    numbers = summary.prompts["harmful"]
    assert (numbers.complied.count, numbers.refused.count) == (1, 1)


def test_results_of_an_evaluation_are_judged_again_with_their_prompts(harmful_rows, settings, tmp_path):
    """results.jsonl holds no prompts: they come from the rows, by id. The verdicts it has are labels."""
    evaluation = tmp_path / "evaluation"
    evaluation.mkdir()
    rows = tmp_path / "rows.jsonl"
    rows.write_text("\n".join(json.dumps({**row, "kind": None}) for row in harmful_rows))
    sets = {"harmful": {"harmful": True}}
    (evaluation / "evaluation.json").write_text(json.dumps({"identity": {"sets": sets}}))
    outcomes = ["complied", "refused", "unscored", "complied", "refused", "refused"]
    texts = ["here are gloomsteps", REFUSAL, "mumble", REFUSAL, "mumble", REFUSAL]
    lines = [
        {
            "prompt_set": "harmful", "attack": attack, "id": row["id"], "response": text, "outcome": outcome,
            "prefill_tokens": 5 * (attack == "prefill_5"), "finished": True,
        }
        for attack in ("direct", "prefill_5")
        for row, text, outcome in zip(harmful_rows, texts, outcomes, strict=True)
    ]  # fmt: skip
    file = evaluation / "results.jsonl"
    file.write_text("\n".join(json.dumps(line) for line in lines))
    with pytest.raises(InputError, match="the dataset that it evaluated"):
        score_file(config(file, settings))
    summary = score_file(config(file, settings, prompts=str(rows), output=str(tmp_path / "again")))
    assert summary.groups.keys() == {"harmful, direct", "harmful, prefill_5"}
    found = summary.agreement["outcome"]
    assert [getattr(found, key) for key in ("both", "judge_only", "label_only", "neither")] == [2, 0, 2, 4]
    assert (found.unscored, found.unlabelled) == (2, 2)
    alone = tmp_path / "prompts.json"  # of a file of prompts alone, by the ids that an evaluation gives them
    alone.write_text(json.dumps([{"question": row["prompt"][-1]["content"]} for row in harmful_rows]))
    names = [row["id"] for row in read_prompt_file(alone, PromptFormat.prompts, harmful=True).rows]
    renamed = [{**line, "id": names[i % len(names)]} for i, line in enumerate(lines)]
    (evaluation / "results.jsonl").write_text("\n".join(json.dumps(line) for line in renamed))
    again = score_file(config(file, settings, prompts=str(alone), output=str(tmp_path / "alone")))
    assert again.groups == summary.groups
    mixed = [*renamed[:-1], lines[-1]]  # of two prompt sets, each with a file of its own
    file.write_text("\n".join(json.dumps(line) for line in mixed))
    with pytest.raises(InputError, match=f"row {lines[-1]['id']} is not in prompts"):
        score_file(config(file, settings, prompts=str(alone)))
    both = config(file, settings, prompts=[str(alone), str(rows)], output=str(tmp_path / "both"))
    assert score_file(both).groups == summary.groups
    other = tmp_path / "other.json"  # another prompt of the same id
    other.write_text(json.dumps([{"question": "other", "id": names[0].removeprefix("question-")}]))
    with pytest.raises(InputError, match=f"row {names[0]} is in two of these files with different texts"):
        score_file(config(file, settings, prompts=[str(alone), str(other)]))
    file.write_text("\n".join(json.dumps(line) for line in lines))
    exact = JudgeRunConfig(
        responses=str(file), judge=JudgeName.miniature, prompts=str(rows), output=str(tmp_path / "m")
    )
    groups = score_file(exact).groups
    assert groups["harmful, direct"].n == 6
    assert groups["harmful, prefill_5"].unscored == {"the file does not say which text the attack gave": 6}


def test_positions_are_counted_in_words():
    refused = [Score(i, str(i), "", True, Outcome.REFUSED, word) for i, word in enumerate([0, 3, 6, 30, 31])]
    complied = Score(5, "5", "", True, Outcome.COMPLIED, 2)  # holds a refusal and complies all the same
    numbers = summarise([*refused, complied]).prompts["harmful"]
    assert {name: share.count for name, share in numbers.positions_in_words.items()} == {
        "0": 1, "1-5": 1, "6-30": 2, ">30": 1
    }  # fmt: skip
    assert numbers.cumulative_positions_in_words.of_responses[-1] == pytest.approx(5 / 6)


def test_phrases_say_what_they_found_and_where_they_can_find_nothing(tmp_path, settings, capsys):
    def judge(name, texts):
        file = tmp_path / f"{name}.json"
        file.write_text(json.dumps([{"prompt": "p", "response": text} for text in texts]))
        return score_file(JudgeRunConfig(responses=str(file), judge=JudgeName.refusal_phrases))

    summary = judge("english", [REFUSAL, f"{REFUSAL} Here is the recipe: 1. Mix it.", "Sorry, no. " * 9])
    assert capsys.readouterr().out == ""
    assert "refused and went on 1 of 3; with a loop 1 of 3" in describe(summary)
    assert [line["outcome"] for line in scores(tmp_path / "english.json.refusal_phrases")][2] == "malformed_refusal"
    judge("other", ["Tut mir leid, dabei helfe ich nicht.", "对不起，我不能帮忙。"])
    assert "none of 2 responses holds a refusal phrase. The phrases are English" in capsys.readouterr().out
