"""One evaluation from start to end: rows -> attacks -> responses -> verdicts -> numbers.

Every rank does the same planning, takes every n-th batch, and writes to its own partial file; rank 0 puts the files
together. Whatever is on disk already is not done again.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from derta.config.evaluation import EvaluateRunConfig, EvaluationConfig, Placement
from derta.evaluation.attacks.attack import Attack, build_attacks
from derta.evaluation.attacks.decoding import respond
from derta.evaluation.attacks.search import Workspace
from derta.evaluation.benchmarks import check_tasks, run_benchmarks
from derta.evaluation.judges.judge import Judge, build_judge, judge_identity, position_in_tokens, position_in_words
from derta.evaluation.metrics import summarise_set
from derta.evaluation.prompts import load_prompt_set, make_inputs
from derta.evaluation.provenance import describe_run, shown_path
from derta.evaluation.ranks import Ranks
from derta.evaluation.records import AttackInputs, PromptSet, Response, Result, Row
from derta.evaluation.results import PROBABILITY_FILE, SUMMARY_FILE, ResultsFolder
from derta.models.fingerprint import fingerprint
from derta.models.generation import Batch, check_logits, plan_batches
from derta.models.inputs import Generation, Key, ModelInput
from derta.models.precision import resolve_dtype
from derta.models.target import TargetModel, load_target
from derta.objective.refusal_probability import curve_by_position, row_curves, separation
from derta.objective.refusal_token import resolve_refusal_token
from derta.statistics.recall import false_positives_by_depth


def evaluate(config: EvaluateRunConfig, ranks: Ranks) -> dict[str, Any]:
    """Run what is missing of an evaluation and return its summary (the content of summary.json).

    Raises:
        InputError: anything the user can mend: configuration, model, rows, output directory.
    """
    if config.eval.lm_eval.tasks:
        check_tasks(config.eval.lm_eval)  # a task that is not there shows now, not after hours
    if config.eval.placement is Placement.tensor_parallel:
        ranks = replace(ranks, together=True)
    sets = [load_prompt_set(name, prompts, config.eval.path) for name, prompts in config.eval.sets.items()]
    judge = build_judge(config.eval.judge, config.eval.judging)
    model = describe_model(config)
    workspace = Workspace(Path(config.output_dir) / "attacks", ranks, model, judge)
    names = [name for prompts in sets for name in prompts.attacks]
    attacks = build_attacks(names, config.eval.attack, workspace)
    label = config.label or Path(config.model.name_or_path).name
    identity, run = describe_identity(config, sets, attacks, model), describe_run(config)

    folder = ResultsFolder(config.output_dir)
    if folder.holds(identity) and folder.complete:
        if ranks.rank == 0:
            print(f"{shown_path(config.output_dir)} is complete: nothing to do")
        summary = folder.read_json(SUMMARY_FILE)
        if summary["label"] != label and ranks.rank == 0:
            folder.write_json(SUMMARY_FILE, summary | {"label": label})
    else:
        target = load_target(config.model, ranks.device(), config.eval.placement, config.eval.server)
        made = make_inputs(sets, attacks, target, config.eval.max_new_tokens)
        inputs = [item for found in made.values() for item in found.inputs]
        rows = {(prompts.name, row["id"]): (row, prompts.harmful) for prompts in sets for row in prompts.rows}
        batches = plan_batches(inputs, config.eval.batch_size)
        # The probability first: it takes seconds, and it finds a refusal text that the tokenizer cannot use.
        probability = measure_probability(sets, target, ranks, config.eval) if config.eval.probability else None
        if ranks.rank == 0:
            folder.claim(identity, run)
        ranks.barrier()
        run_batches(batches, rows, target, judge, folder, ranks, config.eval)
        benchmarks = run_benchmarks(config.eval.lm_eval, target, ranks) if config.eval.lm_eval.tasks else None
        ranks.barrier()
        if ranks.rank == 0:
            results = folder.merge([item.key for item in inputs])
            if probability:
                folder.write_json(PROBABILITY_FILE, probability)
            summary = {
                "label": label,
                "identity": identity,
                "run": run,
                "sets": summarise_sets(sets, results, made),
                "helpfulness": benchmarks,
                "separation": probability["separation"] if probability else None,
                "false_positives_at_95_recall": probability["false_positives_at_95_recall"] if probability else None,
            }
            folder.write_json(SUMMARY_FILE, summary)
    ranks.barrier()
    return folder.read_json(SUMMARY_FILE)


def summarise_sets(
    sets: Sequence[PromptSet], results: Sequence[Result], made: Mapping[tuple[str, str], AttackInputs]
) -> dict[str, Any]:
    """The numbers of every prompt set."""
    return {
        prompts.name: summarise_set(
            [result for result in results if result.prompt_set == prompts.name],
            prompts.attacks,
            {name: made[prompts.name, name].skipped for name in prompts.attacks},
            harmful=prompts.harmful,
        )
        for prompts in sets
    }


def describe_model(config: EvaluateRunConfig) -> dict[str, Any]:
    """What the model is recognised by."""
    return {
        "sha256": fingerprint(config.model.name_or_path, config.model.revision),
        "dtype": resolve_dtype(config.model),
    }


def describe_identity(
    config: EvaluateRunConfig, sets: Sequence[PromptSet], attacks: Mapping[str, Attack], model: dict[str, Any]
) -> dict[str, Any]:
    """Everything that decides the results. Batch sizes and the number of ranks do not belong here."""
    return {
        "model": model,
        "sets": {
            prompts.name: {
                "sha256": prompts.sha256,
                "source": config.eval.sets[prompts.name].source,
                "rows": len(prompts.rows),
                "harmful": prompts.harmful,
                "attacks": list(prompts.attacks),
            }
            for prompts in sets
        },
        "judge": judge_identity(config.eval.judge, config.eval.judging),
        "max_new_tokens": config.eval.max_new_tokens,
        "refusal_text": config.eval.refusal_text if config.eval.probability else None,
        "attack": {name: attack.settings for name, attack in attacks.items() if attack.settings},
    } | describe_generation(config.eval)


def describe_generation(config: EvaluationConfig) -> dict[str, Any]:
    """Who generates, where it is not this process with a copy of the model, and which benchmarks are run. Settings
    that nobody touched are left out, so that older results stay what they are."""
    benchmarks, server = config.lm_eval, config.server
    asked = {key: getattr(benchmarks, key) for key in ("tasks", "num_fewshot", "limit", "chat_template")}
    return ({"server": server.model} if server.url else {}) | ({"lm_eval": asked} if benchmarks.tasks else {})


def run_batches(
    batches: Sequence[Batch],
    rows: Mapping[tuple[str, str], tuple[Row, bool]],
    target: TargetModel,
    judge: Judge,
    folder: ResultsFolder,
    ranks: Ranks,
    config: EvaluationConfig,
) -> None:
    """Generate and judge this rank's share of the batches that are not on disk yet, each written as it is done.

    Args:
        rows: (prompt set, row id) -> the row, and whether its prompt is harmful.
    """
    done: set[Key] = set(folder.read())
    ranks.barrier()  # nobody writes before everybody has read: all ranks must deal out the same batches
    missing = [batch for batch in batches if not all(item.key in done for item in batch)]
    if missing and target.server is None:
        check_logits(target, missing[0])
    share = ranks.share(missing)
    with tqdm(total=sum(map(len, share)), desc="responses", unit="", disable=ranks.rank != 0 or None) as progress:
        for batch in share:
            results = respond(
                target,
                batch,
                partial(judge_batch, rows=rows, target=target, judge=judge),
                harmful=lambda item: rows[item.prompt_set, item.row_id][1],
                max_new_tokens=config.max_new_tokens,
            )
            if ranks.records:
                folder.append(ranks.rank, results)
            progress.update(len(batch))


def judge_batch(
    batch: Sequence[ModelInput],
    generations: Sequence[Generation],
    rows: Mapping[tuple[str, str], tuple[Row, bool]],
    target: TargetModel,
    judge: Judge,
) -> list[Result]:
    """Responses of a batch -> lines of results.jsonl."""
    responses = []
    for item, generation in zip(batch, generations, strict=True):
        row, harmful = rows[item.prompt_set, item.row_id]
        text, prefill = (
            target.decode(ids) for ids in (generation.token_ids, generation.token_ids[: item.prefill_tokens])
        )
        # A prefill may end inside a character, which then decodes differently.
        prefill = os.path.commonprefix([text, prefill])
        responses.append(Response(row, item.attack, text, prefill, harmful, generation.finished))
    results = []
    for item, generation, response, verdict in zip(batch, generations, responses, judge(responses), strict=True):
        start, text = verdict.refusal_start, response.text
        results.append(
            Result(
                prompt_set=item.prompt_set,
                attack=item.attack,
                id=item.row_id,
                response=text,
                response_tokens=len(generation.token_ids),
                prefill_tokens=item.prefill_tokens,
                finished=generation.finished,
                outcome=verdict.outcome,
                refusal_token=(
                    None if start is None else position_in_tokens(target.decode, generation.token_ids, start)
                ),
                refusal_word=None if start is None else position_in_words(text, start),
                reason=verdict.reason,
                fully_safe=verdict.fully_safe,
                compliance=verdict.compliance,
                score=verdict.score,
            )
        )
    return results


def measure_probability(
    sets: Sequence[PromptSet], target: TargetModel, ranks: Ranks, config: EvaluationConfig
) -> dict[str, Any]:
    """Curves of P(refusal) per prompt set, and how well they tell harmful responses from benign ones.

    The chat prompt is used, whatever the attacks of the set. Every rank does its share of the rows.
    """
    refusal = resolve_refusal_token(target.tokenizer, config.refusal_text)
    curves: dict[str, list[list[float]]] = {}
    for prompts in sets:
        share = ranks.share(prompts.rows)
        own = row_curves(target, share, refusal, harmful=prompts.harmful, batch_size=config.probability_batch_size)
        together = {row_id: curve for part in ranks.gather(own) for row_id, curve in part.items()}
        curves[prompts.name] = [together[row["id"]] for row in prompts.rows if row["id"] in together]

    def side(harmful: bool) -> list[list[float]]:
        return [curve for prompts in sets if prompts.harmful is harmful for curve in curves[prompts.name]]

    return {
        "refusal_token": refusal.to_dict(),
        "sets": {
            prompts.name: {"harmful": prompts.harmful, "rows": len(curves[prompts.name])}
            | curve_by_position(curves[prompts.name])
            for prompts in sets
        },
        "separation": separation(side(True), side(False)),
        "false_positives_at_95_recall": false_positives_by_depth(side(True), side(False)),
    }
