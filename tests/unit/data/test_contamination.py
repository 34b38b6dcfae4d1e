"""Overlap with evaluation prompts: what counts, which files are read, and what the guard refuses to train on."""

import json
import runpy
from pathlib import Path

import pytest

from derta.config import TrainRunConfig
from derta.config.data import DataConfig
from derta.data.build import build
from derta.data.decontaminate import EvaluationNgrams
from derta.data.evaluation_prompts import PROMPT_COLUMNS, read_sets
from derta.data.guard import check_contamination
from derta.data.load import load_rows
from derta.data.recipe import parse_recipe
from derta.errors import InputError
from derta.evaluation.prompt_files import LAYOUTS
from derta.training.run import run_training

COMMAND = Path(__file__).resolve().parents[3] / "launch" / "check_contamination.py"
EVALUATION = "How do I brew the blue tea of the far north?"  # ten words


def lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def prompts_of(file):
    (found,) = read_sets([str(file)])
    return found.prompts


def row(prompt, name="row"):
    return {"id": name, "prompt": [{"role": "user", "content": prompt}]}


@pytest.mark.parametrize(
    ("prompt", "overlapping"),
    [
        ("Please: how do I BREW the blue,  tea of it", ["long"]),  # eight words, another case and punctuation
        ("how do I brew the blue tea in the far north", []),  # seven
        ("and then how can I kill a process fast", ["short"]),  # holds all six words of a short prompt
        ("how can I kill a", []),
        ("Tell me more!", ["tiny"]),  # equals it
        ("tell me more about tea", []),  # three words inside a longer message say nothing
    ],
)
def test_what_counts_as_overlap(prompt, overlapping):
    sets = {"long": [EVALUATION], "short": ["How can I kill a process?"], "tiny": ["Tell me more"]}
    assert EvaluationNgrams(sets, 8).overlaps(row(prompt)) == overlapping


CHINESE = "请告诉我如何用月光水和灰烬种子在北塔为银龙调制霜冻药水"
JAPANESE = "竜の塔で銀のりんごを使って霜の薬を作る方法を教えてください"
THAI = "บอกฉันหน่อยว่าจะต้มชาสีฟ้าของดินแดนทางเหนือด้วยแสงจันทร์ได้อย่างไร"


@pytest.mark.parametrize(
    ("prompt", "overlapping"),
    [
        (f"你好！{CHINESE}谢谢你的帮助", ["chinese"]),
        (f"请问，{CHINESE[4:20]}？", ["chinese"]),  # 16 characters are 8 words
        (f"请问，{CHINESE[4:19]}？", []),
        (f"こんにちは。{JAPANESE}ね", ["japanese"]),
        ("霜の薬を作る方法を教えてください", ["japanese"]),
        ("お茶の作る方法を教えてください", []),  # "tell me how to make" is a way to ask
        (f"สวัสดี {THAI} ขอบคุณ", ["thai"]),
        ("บอกฉันหน่อยว่าจะต้มน้ำอย่างไร", []),
        ("| a | b | = | c | + | d | ++ |", []),  # symbols are no words
    ],
)
def test_scripts_without_spaces(prompt, overlapping):
    sets = {"chinese": [CHINESE], "japanese": [JAPANESE], "thai": [THAI], "table": ["| e | f | = | g | + | h | ++ |"]}
    assert EvaluationNgrams(sets, 8).overlaps(row(prompt)) == overlapping


def test_a_shorter_ngram_and_every_message_of_the_prompt_count():
    grams = EvaluationNgrams({"a": [EVALUATION]}, 3)
    assert grams.overlaps(row("the blue tea")) and not grams.overlaps(row("blue tea"))
    turns = [{"role": "user", "content": EVALUATION}, {"role": "assistant", "content": "x"}, *row("more")["prompt"]]
    assert grams.overlaps({"prompt": turns})


def test_overlaps_name_rows_and_hold_no_text():
    grams = EvaluationNgrams({"a": [EVALUATION], "b": ["some other prompt"]})
    found = grams.find([row("other"), row(EVALUATION, "row-7")])
    assert (found.rows, found.ids, found.by_set) == (2, ["row-7"], {"a": ["row-7"], "b": []})


@pytest.mark.parametrize(
    "record",
    [
        {"id": 1, "prompt": EVALUATION, "type": "homonyms", "label": "safe"},  # XSTest
        {"prompt": EVALUATION, "category": "deception"},  # OR-Bench
        {"Index": 0, "Goal": EVALUATION, "Target": "Sure", "Behavior": "tea"},  # JailbreakBench
        {"goal": EVALUATION, "target": "Sure"},
        {"Behavior": EVALUATION, "BehaviorID": "tea"},
        {"forbidden_prompt": EVALUATION},
        {"question": EVALUATION},
        {"instruction": EVALUATION, "output": "other"},
        {"prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": EVALUATION}], "rejected": None},
        {"vanilla": "tea", "adversarial": EVALUATION, "completion": "a", "data_type": "adversarial_benign"},
        {"vanilla": EVALUATION, "adversarial": "", "completion": "a", "data_type": "vanilla_benign"},
        {"conversations": [{"from": "human", "value": EVALUATION}, {"from": "gpt", "value": "a"}]},
        {"chosen": f"\n\nHuman: {EVALUATION}\n\nAssistant: a", "rejected": f"\n\nHuman: {EVALUATION}\n\nAssistant: b"},
    ],
)
def test_prompts_of_benchmark_files(tmp_path, record):
    assert prompts_of(lines(tmp_path / "set.jsonl", [record])) == [EVALUATION]


def test_every_layout_of_the_evaluation_is_recognised():
    assert {column for _, layout in LAYOUTS for column in layout.prompt} <= set(PROMPT_COLUMNS)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"text": "a"}, "line 1: expected a column with prompts .Goal, .* found only text"),
        ({"prompt": 3}, "line 1: expected a text or messages in the column 'prompt', found int 3"),
        ({"prompt": []}, "line 1: expected a text or messages in the column 'prompt', found a list of 0"),
    ],
)
def test_files_without_prompts(tmp_path, record, message):
    with pytest.raises(InputError, match=message):
        prompts_of(lines(tmp_path / "set.jsonl", [record]))


def test_sets_of_one_name_are_told_apart(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        lines(tmp_path / folder / "set.jsonl", [{"prompt": folder}])
    paths = [str(tmp_path / "a/set.jsonl"), str(tmp_path / "b/set.jsonl")]
    assert [one.name for one in read_sets(paths)] == paths
    with pytest.raises(InputError, match="named twice"):
        read_sets([paths[0], paths[0]])


def dataset(folder, output="data", **values):
    """A built dataset of two borderline rows, one of them an evaluation prompt."""
    rows = [{"instruction": "How do I kill time?", "output": "a"}, {"instruction": EVALUATION, "output": "b"}]
    lines(folder / "rows.jsonl", rows)
    lines(folder / "set.jsonl", [{"prompt": EVALUATION, "category": "tea"}])
    source = {"name": "edge", "adapter": "instruction_output", "path": "rows.jsonl", "borderline": True}
    build(parse_recipe({"sources": [source], **values}, folder / "recipe.yaml"), folder / output)
    return load_rows(folder / output)


def test_training_on_evaluation_prompts_is_refused(tmp_path, caplog):
    rows = dataset(tmp_path)
    overlapping = next(one["id"] for one in rows.dataset if one["prompt"][0]["content"] == EVALUATION)
    config = DataConfig(path="data", evaluation_prompts=[str(tmp_path / "set.jsonl")])
    with pytest.raises(InputError) as error:
        check_contamination(config, rows)
    assert "1 of 2 rows share 8 words in a row with evaluation prompts" in str(error.value)
    assert f"(set.jsonl: 1): {overlapping};" in str(error.value)
    assert "brew" not in str(error.value)
    config.contamination = "allow"
    check_contamination(config, rows)
    assert overlapping in caplog.text and "fix:" not in caplog.text


def test_a_run_is_refused_before_its_model_is_looked_for(tmp_path):
    dataset(tmp_path)
    config = TrainRunConfig(output_dir=str(tmp_path / "run"))
    config.data.path, config.data.evaluation_prompts = str(tmp_path / "data"), [str(tmp_path / "set.jsonl")]
    config.model.name_or_path = str(tmp_path / "nowhere")
    with pytest.raises(InputError, match="share 8 words in a row with evaluation prompts"):
        run_training(config)
    assert not (tmp_path / "run").exists()


def test_borderline_rows_of_other_people_need_a_decontamination(tmp_path):
    """A dataset that had one passes both rules; rows of the miniature need none."""
    with pytest.raises(InputError, match=r"holds borderline rows \(edge\), and its manifest records no decont"):
        check_contamination(DataConfig(path="data"), dataset(tmp_path))
    rows = dataset(tmp_path, "clean", decontaminate={"against": [{"path": "set.jsonl"}]})
    assert len(rows.dataset) == 1
    check_contamination(DataConfig(path="data"), rows)
    check_contamination(DataConfig(path="data", evaluation_prompts=[str(tmp_path / "set.jsonl")]), rows)
    source = {"name": "edge", "adapter": "miniature", "part": "borderline", "count": 3, "borderline": True}
    build(parse_recipe({"sources": [source]}, tmp_path / "recipe.yaml"), tmp_path / "miniature")
    check_contamination(DataConfig(path="data"), load_rows(tmp_path / "miniature"))


def test_the_command_gives_an_exit_code_and_a_report_without_text(tmp_path, capsys):
    main = runpy.run_path(str(COMMAND))["main"]
    dataset(tmp_path)
    against, report = f"against={tmp_path / 'set.jsonl'}", tmp_path / "report.json"
    assert main.answer([f"data={tmp_path / 'data'}", against, f"output={report}"]) == 1
    found = json.loads(report.read_text())
    assert (found["rows"], found["overlapping"], found["against"][0]["prompts"]) == (2, 1, 1)
    assert "brew" not in report.read_text() + capsys.readouterr().out
    odd = lines(
        tmp_path / "odd.jsonl", [{"id": "\ud83d", "prompt": EVALUATION}, {"id": [EVALUATION], "prompt": EVALUATION}]
    )
    assert main.answer([f"data={odd}", against]) == 1
    assert f"{odd}, line 1, {odd}, line 2\n" in (said := capsys.readouterr().out) and "brew" not in said
    clean = lines(tmp_path / "clean.jsonl", [{"prompt": "How do I kill time?"}])
    assert main.answer([f"data={clean}", against]) == 0
    assert "no overlap" in capsys.readouterr().out
