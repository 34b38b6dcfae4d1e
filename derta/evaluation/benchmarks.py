"""Helpfulness by public benchmarks (GSM8K, MMLU, ...), run by lm-eval (EleutherAI's evaluation harness).

    pip install "derta[eval]"        eval.lm_eval.tasks=[gsm8k,mmlu]

lm-eval brings the tasks, the prompts and the scoring; ours is only the model, already loaded, and the ranks. Tasks read
their data from the hub, or from local files that a task file of your own names (eval.lm_eval.include_path).
"""

import logging
from functools import cache
from typing import Any

from derta.config.evaluation import LmEvalConfig
from derta.errors import InputError
from derta.evaluation.ranks import Ranks
from derta.evaluation.summary import Benchmark
from derta.models.target import TargetModel


def check_tasks(config: LmEvalConfig) -> None:
    """Raises InputError if lm-eval is not installed, or does not know a task."""
    found = _tasks(config)
    unknown = [task for task in config.tasks if not found.match_tasks([task])]
    if unknown:
        raise InputError(
            f"eval.lm_eval.tasks: lm-eval has no {', '.join(unknown)}; `lm-eval ls tasks` lists what it has, and "
            "eval.lm_eval.include_path names a directory with task files of your own"
        )


def run_benchmarks(config: LmEvalConfig, target: TargetModel, ranks: Ranks) -> dict[str, dict[str, Benchmark]] | None:
    """Run the tasks on the loaded model, each rank with its share of the questions.
    Returns on rank 0: task (or group of tasks) -> metric -> its numbers. A metric is named as lm-eval names it, for
    example "exact_match, strict-match". None on other ranks.
    Raises InputError: a task's data cannot be loaded."""
    from lm_eval import simple_evaluate

    template = config.chat_template and target.tokenizer.chat_template is not None
    try:
        outcome = simple_evaluate(
            _model(target, ranks, config.batch_size),
            tasks=list(config.tasks),
            num_fewshot=config.num_fewshot,
            limit=config.limit,
            task_manager=_tasks(config),
            apply_chat_template=template,
            log_samples=False,
        )
    except (OSError, ConnectionError, ValueError) as error:
        raise InputError(
            f"eval.lm_eval.tasks={list(config.tasks)} cannot be run ({type(error).__name__}): are the tasks' data "
            "within reach (the hub, or the files that your task file names)?"
        ) from error
    return None if outcome is None else _numbers(outcome)


def _numbers(outcome: dict[str, Any]) -> dict[str, dict[str, Benchmark]]:
    found: dict[str, dict[str, Benchmark]] = {}
    for task, values in outcome["results"].items():
        n = outcome.get("n-samples", {}).get(task, {}).get("effective")
        directions = outcome.get("higher_is_better", {}).get(task, {})
        for name, value in values.items():
            metric, _, condition = name.partition(",")
            if metric.endswith("_stderr") or not isinstance(value, int | float) or not condition:
                continue
            stderr = values.get(f"{metric}_stderr,{condition}")
            known = isinstance(stderr, float)
            low, high = (value - 1.96 * stderr, value + 1.96 * stderr) if known else (None, None)
            better = {True: "higher", False: "lower"}.get(directions.get(metric), "")
            version = str(outcome.get("versions", {}).get(task, ""))
            named = metric if condition == "none" else f"{metric}, {condition}"
            found.setdefault(task, {})[named] = Benchmark(float(value), low, high, n, better, version)
    return found


def _tasks(config: LmEvalConfig) -> Any:
    try:
        return _task_manager(config.include_path)
    except ImportError as error:
        raise InputError(
            f'eval.lm_eval.tasks={list(config.tasks)} needs lm-eval: pip install "derta[eval]" '
            f"(missing: {error.name or 'lm_eval'})"
        ) from error


@cache
def _task_manager(include_path: str | None) -> Any:
    """Once: it reads thousands of files."""
    from lm_eval.tasks import TaskManager

    logging.getLogger("lm_eval").setLevel(logging.WARNING)
    return TaskManager(include_path=include_path)


def _model(target: TargetModel, ranks: Ranks, batch_size: int) -> Any:
    """The target as lm-eval's model. Its own way to several ranks is accelerate's; ours are connected already."""
    import torch
    from lm_eval.models.huggingface import HFLM

    class Target(HFLM):
        def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
            if add_generation_prompt:
                return target.cutter.prompt_text(chat_history)
            *before, begun = chat_history
            return target.cutter.prompt_text(before) + begun["content"]

        def all_gather(self, tensor: torch.Tensor) -> torch.Tensor:
            return torch.stack(ranks.gather(tensor))

        def gather_object(self, obj: Any, dst: int = 0) -> list[Any] | None:
            gathered = ranks.gather(obj)
            return gathered if self.rank == dst else None

        def barrier(self) -> None:
            ranks.barrier()

    model = Target(pretrained=target.model, tokenizer=target.tokenizer, batch_size=batch_size)
    if not ranks.together:
        model._rank, model._world_size = ranks.rank, ranks.world
    return model
