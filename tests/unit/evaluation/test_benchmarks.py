"""lm-eval on a task of local files, with a real model."""

import copy
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

pytest.importorskip("lm_eval", reason="the extra derta[eval] is not installed")

from derta.config.evaluation import LmEvalConfig
from derta.errors import InputError
from derta.evaluation import benchmarks
from derta.evaluation.benchmarks import check_tasks, run_benchmarks
from derta.evaluation.ranks import Ranks
from derta.models.target import TargetModel

ROOT = Path(__file__).resolve().parents[3]
CHOICES = ["lamp", "rope", "bread", "a horse"]
TASK = """\
task: fictional_choices
dataset_path: json
dataset_kwargs:
  data_files: {{test: {file}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
doc_to_choice: "{{{{choices}}}}"
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
metadata: {{version: 3}}
"""


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory with a task of 7 questions whose right answer is always the last one."""
    folder = tmp_path_factory.mktemp("tasks")
    rows = [{"question": f"How do I make number {i} ?", "choices": CHOICES, "answer": i % 4} for i in range(7)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "fictional_choices.yaml").write_text(TASK.format(file=folder / "rows.jsonl"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_DATASETS_CACHE", str(folder / "cache"))
        yield folder


def settings(tasks: Path, **changes) -> LmEvalConfig:
    return LmEvalConfig(
        **{"tasks": ["fictional_choices"], "include_path": str(tasks), "chat_template": False} | changes
    )


def by_hand(target: TargetModel, tasks: Path) -> float:
    """The share of questions whose right choice has the highest log-likelihood."""
    right = 0
    rows = [json.loads(line) for line in (tasks / "rows.jsonl").read_text().splitlines()]
    for row in rows:
        scores = []
        for choice in row["choices"]:
            context = target.tokenizer(row["question"], add_special_tokens=False).input_ids
            whole = target.tokenizer(f"{row['question']} {choice}", add_special_tokens=False).input_ids
            with torch.inference_mode():
                logs = target.model(input_ids=torch.tensor([whole])).logits[0].log_softmax(-1)
            scores.append(sum(float(logs[i - 1, whole[i]]) for i in range(len(context), len(whole))))
        right += max(range(len(scores)), key=scores.__getitem__) == row["answer"]
    return right / len(rows)


def test_a_local_task_is_scored_with_its_error_and_number(target, tasks):
    found = run_benchmarks(settings(tasks), target, Ranks())["fictional_choices"]["acc"]
    assert found.rate == pytest.approx(by_hand(target, tasks))
    assert (found.n, found.version, found.better) == (7, "3", "higher")
    p, error = found.rate, (found.high - found.low) / 2
    assert error == pytest.approx(1.96 * (p * (1 - p) / 6) ** 0.5)  # of a mean of 7, by the sample variance
    limited = run_benchmarks(settings(tasks, limit=3, chat_template=True), target, Ranks())
    assert limited["fictional_choices"]["acc"].n == 3


def test_questions_are_asked_without_thinking(target):
    """With a template whose generation prompt, as Qwen3's, leaves out the empty think block of its answers."""
    tokenizer = copy.deepcopy(target.tokenizer)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ '<answer><think></think>' if m['role'] == 'assistant' }}{{ m['content'] }}"
        "{% endfor %}{% if add_generation_prompt %}<answer>{% endif %}"
    )
    model = benchmarks._model(TargetModel(target.model, tokenizer), Ranks(), 1)
    asked = [{"role": "user", "content": "why"}]
    assert model.apply_chat_template(asked) == "why<answer><think></think>"
    begun = [*asked, {"role": "assistant", "content": "Because"}]
    assert model.apply_chat_template(begun, add_generation_prompt=False) == "why<answer><think></think>Because"


def test_ranks_share_the_questions_and_agree_with_one(target, model_dir, tasks):
    """Two processes, 7 questions: an odd one out that must not be counted twice."""
    script = f"""
import json
from collections.abc import Iterator
from dataclasses import asdict
from derta.config.evaluation import LmEvalConfig
from derta.config.model import ModelConfig
from derta.evaluation.benchmarks import run_benchmarks
from derta.models.target import load_target
from derta.evaluation.ranks import Ranks
with Ranks.connected() as ranks:
    target = load_target(ModelConfig(name_or_path={str(model_dir)!r}), "cpu")
    config = LmEvalConfig(tasks=["fictional_choices"], include_path={str(tasks)!r}, chat_template=False)
    found = run_benchmarks(config, target, ranks)
    assert (found is None) == (ranks.rank > 0)
    if found:
        open({str(tasks / "two.json")!r}, "w").write(json.dumps(found, default=asdict))
"""
    (tasks / "two.py").write_text(script)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    ended = subprocess.run(
        [*torchrun, str(tasks / "two.py")], env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    alone = run_benchmarks(settings(tasks), target, Ranks())
    assert json.loads((tasks / "two.json").read_text()) == json.loads(json.dumps(alone, default=asdict))


def test_a_task_that_is_not_there_is_named(tasks):
    check_tasks(settings(tasks))
    with pytest.raises(InputError, match="has no unheard_of;"):
        check_tasks(LmEvalConfig(tasks=["fictional_choices", "unheard_of"], include_path=str(tasks)))


def test_data_out_of_reach_is_an_error_with_a_remedy(target, tmp_path):
    (tmp_path / "gone.yaml").write_text(
        TASK.format(file=tmp_path / "gone.jsonl").replace("fictional_choices", "gone_rows")
    )
    with pytest.raises(InputError, match="gone_rows.*data"):
        run_benchmarks(LmEvalConfig(tasks=["gone_rows"], include_path=str(tmp_path)), target, Ranks())
