"""One evaluation from start to end: rows -> attacks -> responses -> verdicts -> numbers.

    prepare: rows, attacks, judge, identity -> measure: model, inputs, P(refusal), responses, benchmarks -> finish

Every rank does the same planning, takes every n-th batch, and writes to its own partial file; rank 0 puts the files
together. Whatever is on disk already is not done again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from derta.config.evaluation import EvaluateRunConfig, EvaluationConfig
from derta.evaluation.attacks.attack import Attack
from derta.evaluation.attacks.build import build_attacks
from derta.evaluation.attacks.decoding import respond
from derta.evaluation.attacks.search import Workspace
from derta.evaluation.benchmarks import check_tasks, run_benchmarks
from derta.evaluation.judges.judge import Judge, build_judge, judge_identity, note_of_no_phrases
from derta.evaluation.metrics import summarise_set
from derta.evaluation.probability import Given, measure_given, measured_refusal_token, write_probability
from derta.evaluation.prompts import load_prompt_set, make_inputs
from derta.evaluation.provenance import describe_run, shown_path
from derta.evaluation.ranks import Ranks
from derta.evaluation.records import AttackInputs, PromptSet
from derta.evaluation.results import IDENTITY_FILE, ResultsFolder
from derta.evaluation.summary import (
    Benchmark,
    Identity,
    Made,
    ModelIdentity,
    SetIdentity,
    Summary,
    read_summary,
    write_summary,
)
from derta.evaluation.verdicts import Rows, judge_batch
from derta.models.fingerprint import fingerprint
from derta.models.generation import Batch, check_logits, plan_batches
from derta.models.inputs import Key
from derta.models.precision import resolve_dtype
from derta.models.prefixes import shares_prefixes
from derta.models.run_date import settle_dates
from derta.models.target import TargetModel, load_target
from derta.models.taught import StopRule, stored_rule
from derta.objective.refusal_token import RefusalToken
from derta.progress import progress
from derta.statistics.bootstrap import Mean


@dataclass(frozen=True, slots=True)
class Prepared:
    """What is known of an evaluation before its model is loaded."""

    label: str
    sets: Sequence[PromptSet]
    attacks: Mapping[str, Attack]
    judge: Judge
    refusal: RefusalToken | None
    identity: Identity
    run: Made
    folder: ResultsFolder
    guard: StopRule | None = None


def evaluate(config: EvaluateRunConfig, ranks: Ranks) -> Summary:
    """Run what is missing of an evaluation and return its summary. Raises InputError: anything the user can mend:
    configuration, model, rows, output directory."""
    if config.eval.placement == "tensor_parallel":
        ranks = replace(ranks, together=True)
    prepared = prepare(config, ranks)
    if prepared.folder.holds(prepared.identity.to_json()) and prepared.folder.complete:
        if ranks.rank == 0:
            _relabel(prepared)
    else:
        measure(prepared, config, ranks)
    ranks.barrier()
    return read_summary(config.output_dir)


def prepare(config: EvaluateRunConfig, ranks: Ranks) -> Prepared:
    """Read the rows and settle who attacks, who judges and what the results will be of."""
    if config.eval.lm_eval.tasks:
        check_tasks(config.eval.lm_eval)  # a task that is not there shows now, not after hours
    sets = [load_prompt_set(name, prompts, config.eval.path) for name, prompts in config.eval.used_sets.items()]
    dates = settle_dates(config, Path(config.output_dir) / IDENTITY_FILE)
    judge = build_judge(config.eval.judge, config.eval.judging)
    model = ModelIdentity(fingerprint(config.model.name_or_path, config.model.revision), resolve_dtype(config.model))
    workspace = Workspace(Path(config.output_dir) / "attacks", ranks, asdict(model), judge)
    attacks = build_attacks([name for prompts in sets for name in prompts.attacks], config.eval.attack, workspace)
    refusal = measured_refusal_token(config)
    guard = None if config.eval.guard == "none" else stored_rule(config.model)
    benchmarks = config.eval.lm_eval
    asked = {key: getattr(benchmarks, key) for key in ("tasks", "num_fewshot", "limit", "chat_template")}
    identity = Identity(  # everything that decides the results: no batch sizes, not the number of ranks
        model=model,
        sets={
            each.name: SetIdentity(
                each.sha256, config.eval.sets[each.name].source, len(each.rows), each.harmful, tuple(each.attacks)
            )
            for each in sets
        },
        judge=judge_identity(config.eval.judge, config.eval.judging),
        max_new_tokens=config.eval.max_new_tokens,
        refusal_text=None if refusal is None else refusal.text,
        refusal_ids=None if refusal is None else refusal.ids,
        attack={name: attack.settings for name, attack in attacks.items() if attack.settings},
        server=config.eval.server.model if config.eval.server.url else None,
        lm_eval=asked if benchmarks.tasks else None,
        template_date=dates.get("template_date"),
        guard=None if guard is None else asdict(guard),
        base_model=None if config.eval.base_model is None else fingerprint(config.eval.base_model),
    )
    label = config.label or Path(config.model.name_or_path).name
    folder = ResultsFolder(config.output_dir)
    return Prepared(label, sets, attacks, judge, refusal, identity, describe_run(config), folder, guard)


def _relabel(prepared: Prepared) -> None:
    """A finished evaluation keeps its numbers; only what it is called in tables may change."""
    folder = prepared.folder.path
    print(f"{shown_path(str(folder))} is complete: nothing to do")
    summary = read_summary(folder)
    if summary.label != prepared.label:
        write_summary(folder, replace(summary, label=prepared.label))


def measure(prepared: Prepared, config: EvaluateRunConfig, ranks: Ranks) -> None:
    """Load the model, measure what is not on disk yet, and write the files."""
    folder, sets = prepared.folder, prepared.sets
    target = load_target(config.model, ranks.device(), config.eval.placement, config.eval.server)
    target.guard = prepared.guard
    made = make_inputs(sets, prepared.attacks, target, config.eval.max_new_tokens)
    inputs = [item for found in made.values() for item in found.inputs]
    given = measure_given(sets, prepared.attacks, target, ranks, config, prepared.refusal)
    if ranks.rank == 0:
        folder.claim(prepared.identity.to_json(), asdict(prepared.run), config.model.name_or_path)
    ranks.barrier()
    together = target.server is None and shares_prefixes(target.model)
    batches = plan_batches(inputs, config.eval.batch_size, config.eval.batch_tokens, together=together)
    run_batches(batches, prepared, target, ranks, config.eval)
    benchmarks = run_benchmarks(config.eval.lm_eval, target, ranks) if config.eval.lm_eval.tasks else None
    ranks.barrier()
    if ranks.rank == 0:
        finish(prepared, made, given, benchmarks)


def run_batches(
    batches: Sequence[Batch], prepared: Prepared, target: TargetModel, ranks: Ranks, config: EvaluationConfig
) -> None:
    """Generate and judge this rank's share of the batches that are not on disk yet, each written as it is done."""
    rows: Rows = {(each.name, row["id"]): (row, each.harmful) for each in prepared.sets for row in each.rows}
    done: set[Key] = set(prepared.folder.read())
    ranks.barrier()  # nobody writes before everybody has read: all ranks must deal out the same batches
    missing = [batch for batch in batches if not all(item.key in done for item in batch)]
    if missing and target.server is None:
        check_logits(target, missing[0])
    share = ranks.share(missing)
    with progress(sum(map(len, share)), "responses", shown=ranks.rank == 0) as bar:
        for batch in share:
            results = respond(
                target,
                batch,
                partial(judge_batch, rows=rows, target=target, judge=prepared.judge),
                harmful=lambda item: rows[item.prompt_set, item.row_id][1],
                max_new_tokens=config.max_new_tokens,
            )
            if ranks.records:
                prepared.folder.append(ranks.rank, results)
            bar.update(len(batch))


def finish(
    prepared: Prepared,
    made: Mapping[tuple[str, str], AttackInputs],
    given: Given,
    benchmarks: dict[str, dict[str, Benchmark]] | None,
) -> None:
    """Put the results together and write the numbers; summary.json last."""
    folder, probability = prepared.folder, given.probability
    results = folder.merge([item.key for found in made.values() for item in found.inputs])
    if probability:
        write_probability(folder.path, probability)
    if note := note_of_no_phrases(prepared.judge, [result.outcome for result in results]):
        print(note)
    summary = Summary(
        label=prepared.label,
        identity=prepared.identity,
        run=prepared.run,
        sets={
            prompts.name: replace(
                summarise_set(
                    [result for result in results if result.prompt_set == prompts.name],
                    prompts.attacks,
                    {name: made[prompts.name, name].skipped for name in prompts.attacks},
                    harmful=prompts.harmful,
                    knows_form=prepared.identity.knows_answers,
                ),
                log_likelihood=given.log_likelihood.get(prompts.name, {}),
                kl_to_base=given.kl_to_base.get(prompts.name, Mean()),
            )
            for prompts in prepared.sets
        },
        helpfulness=benchmarks,
        separation=probability.separation if probability else None,
        false_positives_at_95_recall=probability.false_positives_at_95_recall if probability else None,
    )
    write_summary(folder.path, summary)
