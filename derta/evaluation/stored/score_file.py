"""Score stored responses with a judge: responses file -> scores.jsonl, summary.json.

    OUTPUT/judging.json   which responses and which judge (the identity), and how
    OUTPUT/scores.jsonl   a line per response, in the order of the file, as soon as its batch is judged; no texts
    OUTPUT/summary.json   written last: its presence means that all are judged

The same command continues where it was stopped, and does nothing when all is done.
"""

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from derta.config.evaluation import JudgeRunConfig
from derta.errors import InputError
from derta.evaluation.judges.judge import (
    Judge,
    MiniatureJudge,
    build_judge,
    judge_identity,
    note_of_no_phrases,
    position_in_words,
)
from derta.evaluation.judges.model_judge import ModelJudge
from derta.evaluation.metrics import cumulative_positions, tally
from derta.evaluation.provenance import shown_command, shown_path
from derta.evaluation.records import Outcome, Score, Verdict, with_context
from derta.evaluation.stored.responses import ResponseFile, StoredResponse, read_responses
from derta.evaluation.summary import SUMMARY_FILE, Staircase
from derta.models.messages import written
from derta.models.run_date import settle_dates
from derta.progress import progress
from derta.statistics.agreement import Agreement, agreement
from derta.statistics.bootstrap import Mean
from derta.statistics.positions import shares_of_positions
from derta.statistics.rates import Rate
from derta.storage.atomic import write_json_atomically
from derta.storage.claim import Claim
from derta.storage.json_lines import append_lines, read_lines
from derta.storage.typed import read_typed

IDENTITY_FILE = "judging.json"
SCORES_FILE = "scores.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """Of the responses to harmful or to benign prompts, or of one group: as in `Cell`, positions in words.

    complied: what the judge calls compliance; of benign prompts that is an answer, right or wrong.
    """

    n: int
    outcomes: dict[str, int]
    unscored: dict[str, int]
    complied: Rate
    refused: Rate
    positions_in_words: dict[str, Rate]
    cumulative_positions_in_words: Staircase
    categories: dict[str, int]
    fully_safe: Rate
    compliance: dict[str, Rate]
    score: Mean
    loops: Rate = Rate()
    goes_on: Rate = Rate()


@dataclass(frozen=True, slots=True)
class ScoresSummary:
    """summary.json of a judging. prompts: "harmful" and "benign"; groups where there are several; agreement: label ->
    with it. identity, run: which responses and which judge, and how."""

    prompts: dict[str, Numbers]
    groups: dict[str, Numbers]
    agreement: dict[str, Agreement]
    identity: dict[str, Any] = field(default_factory=dict)
    run: dict[str, str] = field(default_factory=dict)


def score_file(config: JudgeRunConfig) -> ScoresSummary:
    """Judge what is missing and return the summary. Raises InputError: responses, prompts, judge or output directory
    that cannot be used."""
    file = read_responses(config.responses, prompts=config.prompt_files, label=config.label, harmful=config.harmful)
    folder = Path(config.output or f"{config.responses}.{config.judge.value}")
    dates = settle_dates(config, folder / IDENTITY_FILE)
    judge = build_judge(config.judge, config.judging)
    _check_prompts(file, judge, config)
    identity = {
        "judge": judge_identity(config.judge, config.judging),
        "responses": file.sha256,
        "prompts": _hash_of_prompts(file.responses),
        "labels": list(file.label_names),
        "harmful": config.harmful,
    } | dates
    made = {"command": shown_command(sys.argv), "responses": shown_path(config.responses)}
    if file.asked_about:
        made["asked_about"] = ", ".join(file.asked_about)
    claim = Claim(folder / IDENTITY_FILE, identity, work="scoring", named=f"output={folder}", others="*")
    summary_file = folder / SUMMARY_FILE
    if not claim.held():
        claim.take(run=made)
    elif summary_file.is_file():
        return read_typed(ScoresSummary, summary_file, "the summary of a scoring; remove the folder and start again")
    scores = _judge_missing(file.responses, judge, folder, config.judging.batch_size)
    if note := note_of_no_phrases(judge, [score.outcome for score in scores]):
        print(note)
    summary = summarise(scores, file.label_names, identity=identity, run=made)
    write_json_atomically(summary_file, asdict(summary))
    return summary


def _check_prompts(file: ResponseFile, judge: Judge, config: JudgeRunConfig) -> None:
    needed = judge.form.needs_prompt if isinstance(judge, ModelJudge) else isinstance(judge, MiniatureJudge)
    if needed and all(response.request is None for response in file.responses):
        raise InputError(
            f"{config.responses} holds responses without prompts, and judge {config.judge.value} reads both: give "
            "prompts=FILE with one prompt per response in the same order (for results.jsonl of an evaluation, the "
            "dataset that it evaluated, or prompts=[FILE,FILE] with the files of its prompt sets)"
        )


def _hash_of_prompts(responses: Sequence[StoredResponse]) -> str:
    asked = [r.request and written(with_context(r.request, r.context)) for r in responses]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()


def _judge_missing(responses: Sequence[StoredResponse], judge: Judge, folder: Path, batch_size: int) -> list[Score]:
    file = folder / SCORES_FILE
    scores = [Score.from_json(line) for line in read_lines(file)]
    with progress(len(responses), "judged") as bar:
        bar.update(len(scores))
        # Larger than a judge's own batch, so that it can sort by length and an endpoint has requests to run at once.
        size = batch_size * 8
        for start in range(len(scores), len(responses), size):
            batch = responses[start : start + size]
            new = _scores(batch, start, judge)
            append_lines(file, (score.to_json() for score in new))
            scores += new
            bar.update(len(new))
    return scores


def _scores(batch: Sequence[StoredResponse], first: int, judge: Judge) -> list[Score]:
    # The exact judge is not asked where it cannot know which steps an attack gave.
    unknown = [stored.prefill_tokens > 0 and isinstance(judge, MiniatureJudge) for stored in batch]
    asked = [stored.as_response() for stored, left_out in zip(batch, unknown, strict=True) if not left_out]
    answered = iter(judge(asked))
    unscored = Verdict(Outcome.UNSCORED, reason="the file does not say which text the attack gave")
    scores = []
    for index, (stored, left_out) in enumerate(zip(batch, unknown, strict=True), start=first):
        verdict = unscored if left_out else next(answered)
        if stored.prefill_tokens:
            verdict = replace(verdict, fully_safe=None)
        told = asdict(verdict)
        start = told.pop("refusal_start")
        word = None if start is None else position_in_words(stored.text, start)
        known = {"refusal_word": word, "labels": dict(stored.labels), **told}
        scores.append(Score(index, stored.id, stored.group, stored.harmful, **known))
    return scores


def summarise(scores: Sequence[Score], label_names: Iterable[str] = (), **about: Any) -> ScoresSummary:
    """All numbers. about: identity and run."""
    groups = list(dict.fromkeys(score.group for score in scores))
    judged = [None if s.outcome is Outcome.UNSCORED else s.outcome is Outcome.COMPLIED for s in scores]
    sides = {"harmful": True, "benign": False}
    return ScoresSummary(
        {
            name: _numbers(side)
            for name, harmful in sides.items()
            if (side := [score for score in scores if score.harmful_prompt is harmful])
        },
        {name: _numbers([s for s in scores if s.group == name]) for name in groups if len(groups) > 1},
        {name: agreement(judged, [s.labels.get(name) for s in scores]) for name in label_names},
        **about,
    )


def _numbers(scores: Sequence[Score]) -> Numbers:
    counts = tally(scores)
    positions = [s.refusal_word for s in scores if s.outcome.is_refusal and s.refusal_word is not None]
    return Numbers(
        **counts,
        positions_in_words=shares_of_positions(positions),
        cumulative_positions_in_words=cumulative_positions(positions, counts["n"]),
        categories=dict(Counter(name for score in scores for name in score.categories)),
    )


def describe(summary: ScoresSummary) -> str:
    """The numbers in lines for a terminal."""
    lines = [f"judge {summary.identity['judge']} on {summary.run['responses']}"]
    if about := summary.run.get("asked_about"):
        lines.append(f"what was asked is taken from: {about}")
    sides = {f"{side} prompts": found for side, found in summary.prompts.items()}
    for name, numbers in (sides | summary.groups).items():
        unscored = ", ".join(f"{count} {reason}" for reason, count in sorted(numbers.unscored.items()))
        complied = "answered" if name == "benign prompts" else "complied"
        parts = [f"{complied} {numbers.complied}", f"refused {numbers.refused}"]
        if numbers.score.n:
            parts.append("score {mean:.2f} [{low:.2f}, {high:.2f}]".format(**asdict(numbers.score)))
        if numbers.fully_safe.n:
            parts.append(f"fully safe {numbers.fully_safe}")
        marks = {"refused and went on": numbers.goes_on, "with a loop": numbers.loops}
        parts += [f"{what} {found.count} of {found.n}" for what, found in marks.items() if found.count]
        if any(share.n for share in numbers.compliance.values()):
            parts.append(", ".join(f"{key.replace('_', ' ')} {share}" for key, share in numbers.compliance.items()))
        count = numbers.outcomes["unscored"]
        lines.append(f"{name}: n = {numbers.n}; {'; '.join(parts)}; {count} unscored{f' ({unscored})' * bool(count)}")
    for label, found in summary.agreement.items():
        kappa = "undefined" if found.kappa is None else f"{found.kappa:.3f}"
        lines.append(
            f"against {label}: agreement {found.agreement} of n = {found.agreement.n}, Cohen's kappa {kappa}; both yes "
            f"{found.both}, judge only {found.judge_only}, label only {found.label_only}, both no {found.neither}; "
            f"{found.unscored} unscored, {found.unlabelled} unlabelled"
        )
    return "\n".join(lines)
