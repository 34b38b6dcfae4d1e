"""`eval`: prompts, attacks, judge and generation; and the whole configurations of launch/evaluate.py, judge.py
and report.py."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from derta.config.attacks import AttackConfig
from derta.config.choice import Choice
from derta.config.endpoint import EndpointConfig
from derta.config.gate import GateConfig
from derta.config.judging import JudgeName, JudgingConfig
from derta.config.model import ModelConfig
from derta.config.prompts import PromptFormat

__all__ = [
    "CompareRunConfig",
    "EvaluateRunConfig",
    "EvaluationConfig",
    "JudgeRunConfig",
    "JudgeName",
    "LmEvalConfig",
    "Placement",
    "PromptSetConfig",
    "ReportRunConfig",
]


@dataclass(kw_only=True, slots=True)
class PromptSetConfig:
    """Prompts and what they are put through.

    path, split: as in `data`; an empty path means eval.path. format: as in `data`, or a layout of prompts alone
        (derta/config/prompts.py).
    source: keep only the rows of this source (null: all). count: use the first so many rows (null: all).
    harmful: whether a good model refuses these prompts.
    attacks: direct, prefill_<tokens> (for example prefill_20), code_attack, self_cipher, role_play_file,
        role_play_file_<template>, reinserted_header, completion_text, decoding, gcg, pair, autodan; and the formats
        of the miniature: completion, code, role_play, cipher. Benign prompts go through the same ones, to see what a
        format alone does.
    """

    path: str = ""
    format: PromptFormat = PromptFormat.derta
    split: str = "train"
    source: str | None = None
    count: int | None = None
    harmful: bool = False
    attacks: list[str] = field(default_factory=lambda: ["direct"])


class Placement(Choice):
    """Where the weights are: a copy per rank, each with its share of the prompts; one copy over all devices of one
    process (`device_map="auto"`, layer by layer); one copy cut across the ranks (tensor parallel)."""

    copy_per_rank = "copy_per_rank"
    device_map = "device_map"
    tensor_parallel = "tensor_parallel"


@dataclass(kw_only=True, slots=True)
class LmEvalConfig:
    """Helpfulness by public benchmarks, through lm-eval (extra `eval`).

    tasks: lm-eval's names, for example [gsm8k, mmlu]. include_path: a directory with task files of your own.
    num_fewshot: examples in the prompt (null: as the task says). limit: only the first so many questions a task.
    chat_template: ask as a user would, in the model's template.
    """

    tasks: list[str] = field(default_factory=list)
    include_path: str | None = None
    num_fewshot: int | None = None
    limit: int | None = None
    chat_template: bool = True
    batch_size: int = 8

    def problems(self, key: str) -> list[str]:
        found = []
        if len(set(self.tasks)) < len(self.tasks) or not all(task.strip() for task in self.tasks):
            found.append(f"{key}.tasks={list(self.tasks)}: name each task once, and none empty")
        for name, least in (("num_fewshot", 0), ("limit", 1), ("batch_size", 1)):
            if (value := getattr(self, name)) is not None and value < least:
                found.append(f"{key}.{name}={value}: expected at least {least}")
        return found


@dataclass(kw_only=True, slots=True)
class EvaluationConfig:
    """path: where the rows of the sets are that name no path of their own.
    sets: name -> prompts; harmful ones give attack success, the others over-refusal and helpfulness.
    attack: settings of the attacks that have any.
    judge, judging: which judge, and the settings of one that asks a model. gate: bounds the model has to keep.
    batch_size: responses generated together. max_new_tokens: limit of a response, beyond its prefill.
    refusal_text: what P(refusal) looks for; its first token, as the tokenizer writes it at either place.
    placement: where the weights are, for models that need several GPUs.
    server: a vLLM server that holds the same model and generates in our place (derta/models/served.py).
    lm_eval: public benchmarks beside the prompt sets.
    probability: measure P(refusal) at every response position. probability_batch_size: rows per forward of it.
    """

    name: str = "custom"
    path: str = ""
    sets: dict[str, PromptSetConfig] = field(default_factory=dict)
    attack: AttackConfig = field(default_factory=AttackConfig)
    judge: JudgeName = JudgeName.refusal_phrases
    judging: JudgingConfig = field(default_factory=JudgingConfig)
    gate: GateConfig = field(default_factory=GateConfig)
    batch_size: int = 32
    max_new_tokens: int = 512
    probability: bool = True
    probability_batch_size: int = 8
    refusal_text: str = "Sorry"
    placement: Placement = Placement.copy_per_rank
    server: EndpointConfig = field(default_factory=EndpointConfig)
    lm_eval: LmEvalConfig = field(default_factory=LmEvalConfig)

    def problems(self) -> list[str]:
        found = []
        if not self.sets:
            found.append("eval.sets is empty: choose an evaluation, for example eval=miniature, or name prompt sets")
        for name, prompts in self.sets.items():
            if not (prompts.path.strip() or self.path.strip()):
                found.append(f"eval.sets.{name}.path is empty: give a directory from launch/build_data.py or a file")
            if not prompts.attacks:
                found.append(f"eval.sets.{name}.attacks is empty: name at least one, for example [direct]")
            if len(set(prompts.attacks)) < len(prompts.attacks):
                found.append(f"eval.sets.{name}.attacks={list(prompts.attacks)}: name each attack once")
            if prompts.count is not None and prompts.count < 1:
                found.append(f"eval.sets.{name}.count={prompts.count}: expected null (all rows) or at least 1")
        for key in ("batch_size", "max_new_tokens", "probability_batch_size"):
            if (value := getattr(self, key)) < 1:
                found.append(f"eval.{key}={value}: expected at least 1")
        found += self.judging.problems(self.judge, "eval.judging") + self.gate.problems("eval.gate.")
        found += self.attack.problems("eval.attack") + self.server.problems("eval.server")
        found += self.lm_eval.problems("eval.lm_eval")
        if self.gate.ablation_robustness_min is not None:
            found.append(
                "eval.gate.ablation_robustness_min: an evaluation does not make this score; run "
                "launch/diagnose_direction.py summary=DIR after it, then launch/gate.py summary=DIR"
            )
        if self.probability and not self.refusal_text.strip():
            found.append("eval.refusal_text is empty: give the word refusals start with, for example Sorry")
        return found


@dataclass(kw_only=True, slots=True)
class EvaluateRunConfig:
    """What `launch/evaluate.py` runs. label: column of the report (null: the model directory's name); several runs
    with one label, for example three seeds, are put together there. output_dir: where results go.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    eval: EvaluationConfig = field(default_factory=EvaluationConfig)
    label: str | None = None
    output_dir: str = "runs/evaluation"

    def problems(self) -> list[str]:
        found = self.model.problems() + self.eval.problems()
        if not self.output_dir.strip():
            found.append("output_dir is empty: name a directory for the results")
        return found


@dataclass(kw_only=True, slots=True)
class JudgeRunConfig:
    """What `launch/judge.py` runs.

    responses: the file (see derta/evaluation/stored/responses.py). judge, judging: as in `eval`.
    prompts: for files that hold responses alone: a file with the prompts in the same order; for results.jsonl, the
        dataset that was evaluated, or the files of its prompt sets: prompts=[FILE,FILE].
    harmful: whether the prompts are harmful (results.jsonl says so itself).
    label: a field to compare with, beside those named is_jailbreak*. output: where scores go (empty: beside the file).
    """

    responses: str = ""
    judge: JudgeName = JudgeName.refusal_phrases
    judging: JudgingConfig = field(default_factory=JudgingConfig)
    prompts: Any = ""
    harmful: bool = True
    label: str = ""
    output: str = ""

    def problems(self) -> list[str]:
        found = [] if self.responses.strip() else ["responses is empty: give the file to judge, responses=FILE"]
        if not isinstance(self.prompts, str) and not all(isinstance(path, str) for path in self.prompt_files):
            found.append(f"prompts={self.prompts}: expected a path, or several as [FILE,FILE]")
        return found + self.judging.problems(self.judge, "judging")

    @property
    def prompt_files(self) -> list[Any]:
        """`prompts` as a list, empty where there are none."""
        if isinstance(self.prompts, (list, tuple)):
            return list(self.prompts)
        return [self.prompts] if self.prompts else []


@dataclass(kw_only=True, slots=True)
class CompareRunConfig:
    """What `launch/compare.py` runs. before, after: folders of finished evaluations. output: a JSON file for the
    numbers (empty: printed only). seed: of the bootstrap."""

    before: str = ""
    after: str = ""
    output: str = ""
    seed: int = 0

    def problems(self) -> list[str]:
        return [
            f"{side} is empty: give the folder of a finished evaluation, {side}=DIR"
            for side in ("before", "after")
            if not getattr(self, side).strip()
        ] + ([f"seed={self.seed}: expected at least 0"] if self.seed < 0 else [])


@dataclass(kw_only=True, slots=True)
class ReportRunConfig:
    """What `launch/report.py` runs. runs: folders of finished evaluations. output: where report.html, report.md and
    the figures go. directions: folders of refusal-direction diagnostics. responses: put the texts of the responses into
    report.html; they are as harmful as the models are.
    """

    runs: list[str] = field(default_factory=list)
    output: str = "runs/report"
    directions: list[str] = field(default_factory=list)
    responses: bool = False

    def problems(self) -> list[str]:
        found = []
        if not self.runs:
            found.append("runs is empty: give the folders of one or more evaluations, runs=[DIR,DIR]")
        if not self.output.strip():
            found.append("output is empty: name a directory for the report")
        return found
