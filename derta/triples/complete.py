"""Prompts to rows: responses are written in rounds, judged, and kept or dropped with a reason.

    harmful prompt     --sampled, up to `tries` times-->  rejected, kept where the judge says that it answers
                       --template, or told to refuse-->   chosen, kept where it refuses
    helpful prompt     --greedy-->                        chosen, kept where it answers; cut off: up to its last
                                                          whole sentence

    OUTPUT/completion.json   settings and model (the identity), then what was kept and dropped
    OUTPUT/responses.jsonl   a line per response as soon as its batch is judged
    OUTPUT/rows/*.jsonl      safety, helpful and borderline rows, in the order of the prompts; written last

A run that is killed goes on where it was: a round asks for the prompts that the rounds before it have left open, and a
batch that is not whole on disk is written again. So a local model gives the same files, byte for byte, however often it
was stopped. What the model writes may be harmful: the files are readable by their owner only, and no text is printed.
"""

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from derta.config.completion import CompleteRunConfig
from derta.config.prompts import PromptFormat
from derta.config.shipped import shipped_file
from derta.errors import InputError
from derta.evaluation.judges.judge import Judge, build_judge, judge_identity
from derta.evaluation.prompt_files import read_prompt_file
from derta.evaluation.records import Outcome, Response, Row
from derta.models.endpoint import NoAnswer
from derta.models.inputs import Sampling
from derta.models.run_date import settle_dates
from derta.progress import progress
from derta.storage.claim import Claim
from derta.storage.json_lines import append_lines, read_lines, write_lines
from derta.triples.writers import Answer, Request, Writer, build_writer

IDENTITY_FILE, RESPONSES_FILE, ROWS = "completion.json", "responses.jsonl", "rows"
_SENTENCE_END = re.compile(r"[^\W\d]\S*?[.!?][\"')\]*]*(?=\s|$)")  # behind a word: "1." begins an item of a list
Line = dict[str, Any]
"""One response: part, round, id, text, kept (whether the judge lets it pass) and reason."""


def complete(config: CompleteRunConfig) -> dict[str, Any]:
    """Complete all prompts of `config` and return what completion.json holds.
    Raises InputError: settings, prompt files, templates, model or directory that cannot be used."""
    if problems := config.problems():
        raise InputError.listing("these settings cannot run:", problems)
    limits = {"harmful": config.limit} | dict.fromkeys(("helpful", "borderline"), config.helpful_limit or config.limit)
    prompts = {part: _read(getattr(config, part), part, limit) for part, limit in limits.items()}
    templates = _templates(config.safe_templates) if config.safe == "templates" else []
    output = Path(config.output)
    dates = settle_dates(config, output / IDENTITY_FILE)
    judge = build_judge(config.judge, config.judging)
    writer = build_writer(config)
    claim = Claim(
        output / IDENTITY_FILE,
        _identity(config, writer, prompts, templates) | dates,
        work="completion of prompts",
        named=f"output={config.output}",
        others="*.jsonl",
    )
    held = claim.held()
    if held and "counts" in claim.content():
        return claim.content()
    os.umask(0o077)
    if not held:
        claim.take(reproducible=writer.reproducible)
    rounds = _Rounds(config, writer, judge, output / RESPONSES_FILE)
    harmful = rounds.until_kept("harmful", prompts["harmful"], config.tries, config.system)
    if config.safe == "model":
        open_rows = [row for row in prompts["harmful"] if row["id"] in harmful]
        safe = rounds.until_kept("safe", open_rows, config.tries, config.safe_system)
    else:
        safe = {row_id: _drawn(templates, config.seed, row_id) for row_id in harmful}
    helpful = {part: rounds.until_kept(part, prompts[part], 1) for part in ("helpful", "borderline")}
    rounds.write_in_order()
    both = [row for row in prompts["harmful"] if row["id"] in {*safe} & {*harmful}]
    rows = {"safety": [_row(row, "safety", safe, harmful) for row in both]}
    for part, found in helpful.items():
        rows[part] = [_row(row, part, found) for row in prompts[part] if row["id"] in found]
    (output / ROWS).mkdir(exist_ok=True)
    for name, some in rows.items():
        if some:
            write_lines(output / ROWS / f"{name}.jsonl", some, private=True)
    counts = {"rows": {name: len(some) for name, some in rows.items()}, "responses": rounds.counts()}
    claim.take(reproducible=writer.reproducible, counts=counts)
    return claim.content()


def describe(found: Mapping[str, Any], output: str) -> str:
    """The outcome in words, without any text of a row."""
    counts = found["counts"]
    lines = [f"{name}: {number} rows" for name, number in counts["rows"].items()]
    for part, reasons in counts["responses"].items():
        lines.append(f"responses, {part}: " + ", ".join(f"{number} {reason}" for reason, number in reasons.items()))
    if not found["reproducible"]:
        lines.append("an endpoint wrote them: the same command elsewhere may give other responses")
    return "\n".join([*lines, f"rows: {Path(output) / ROWS}"])


class _Rounds:
    """Responses by part and round, on disk as soon as their batch is judged."""

    def __init__(self, config: CompleteRunConfig, writer: Writer, judge: Judge, file: Path):
        self.config, self.writer, self.judge, self.file = config, writer, judge, file
        self.lines: dict[tuple[str, int, str], Line] = {
            (line["part"], line["round"], line["id"]): line for line in read_lines(file)
        }

    def until_kept(self, part: str, rows: Sequence[Row], tries: int, system: str = "") -> dict[str, str]:
        """Row id -> the first response that is kept; up to `tries` rounds over the rows that have none yet."""
        kept: dict[str, str] = {}
        for turn in range(tries):
            left = [row for row in rows if row["id"] not in kept]
            if not left:
                break
            self._round(part, turn, left, system)
            lines = [self.lines[part, turn, row["id"]] for row in left]
            kept |= {line["id"]: line["text"] for line in lines if line["kept"]}
        return kept

    def _round(self, part: str, turn: int, rows: Sequence[Row], system: str) -> None:
        by_id = {row["id"]: row for row in rows}
        begun = self.config.prefill if part == "harmful" else ""
        told = [{"role": "system", "content": system}] if system else []
        requests = [Request(row["id"], [*told, *row["prompt"]], begun) for row in rows]
        helpful = part not in ("harmful", "safe")
        greedy = helpful or self.config.temperature == 0
        limit = (helpful and self.config.helpful_max_new_tokens) or self.config.max_new_tokens
        with progress(len(rows), f"{part}, round {turn + 1}") as bar:
            for batch in self.writer.batches(requests):
                if not all((part, turn, request.id) in self.lines for request in batch):
                    sampling = None if greedy else self._sampling(part, turn, batch[0].id)
                    answers = self.writer.write(batch, limit, sampling)
                    lines = self._judged(part, turn, [by_id[request.id] for request in batch], answers)
                    append_lines(self.file, lines)
                    self.lines |= {(part, turn, line["id"]): line for line in lines}
                bar.update(len(batch))

    def _sampling(self, part: str, turn: int, first: str) -> Sampling:
        """Drawn anew for every batch, from its name alone."""
        digest = hashlib.sha256(f"{self.config.seed}:{part}:{turn}:{first}".encode("utf-8", "surrogatepass")).digest()
        return Sampling(self.config.temperature, self.config.top_p, int.from_bytes(digest[:4], "big") >> 1)

    def _judged(self, part: str, turn: int, rows: Sequence[Row], answers: Sequence[Answer | NoAnswer]) -> list[Line]:
        """Safe responses are kept where they refuse, all others where they answer."""
        begun = self.config.prefill if part == "harmful" else ""
        is_harmful = part in ("harmful", "safe")
        texts = [("", True) if isinstance(answer, NoAnswer) else answer for answer in answers]
        given = zip(rows, texts, strict=True)
        verdicts = self.judge([Response(row, text, begun, is_harmful) for row, (text, _) in given])
        lines = []
        for row, answer, (text, finished), verdict in zip(rows, answers, texts, verdicts, strict=True):
            kept = verdict.outcome.is_refusal if part == "safe" else verdict.outcome is Outcome.COMPLIED
            reason = "kept" if kept else verdict.reason or f"dropped: {verdict.outcome.value}"
            if isinstance(answer, NoAnswer):
                kept, reason = False, f"dropped: {answer.reason}"
            whole = text if finished or is_harmful else whole_sentences(text)
            lines.append(
                {"part": part, "round": turn, "id": row["id"], "kept": kept, "reason": reason}
                | {"finished": finished, "text": whole.strip()}
            )
        return lines

    def write_in_order(self) -> None:
        """All lines in the order of parts, rounds and ids, whatever order they came in."""
        write_lines(self.file, (self.lines[key] for key in sorted(self.lines)), private=True)

    def counts(self) -> dict[str, dict[str, int]]:
        found: dict[str, Counter[str]] = {}
        for (part, _, _), line in sorted(self.lines.items()):
            found.setdefault(part, Counter())[line["reason"]] += 1
        return {part: dict(sorted(reasons.items())) for part, reasons in found.items()}


def whole_sentences(text: str) -> str:
    """Of a text that its limit cut off, what ends with a sentence; all of it where none does. A row that breaks off in
    mid-sentence would teach a model to do so."""
    ends = list(_SENTENCE_END.finditer(text))
    return text[: ends[-1].end()] if ends else text


def _read(files: Sequence[str], part: str, limit: int | None) -> list[Row]:
    """The prompts of several files, at most `limit` of each.
    Raises InputError: a file that cannot be read, or a prompt that stands in two of them."""
    rows = [
        row
        for file in files
        for row in read_prompt_file(shipped_file(file), PromptFormat.prompts, harmful=part == "harmful").rows[:limit]
    ]
    if repeated := [row_id for row_id, count in Counter(row["id"] for row in rows).items() if count > 1]:
        raise InputError(f"{part}: the id {repeated[0]} stands in two files ({len(repeated)} ids do); rename it")
    return rows


def _templates(name: str) -> list[str]:
    path = shipped_file(name)
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError):
        raise InputError(f"safe_templates={name}: expected a UTF-8 text file with one refusal a line") from None
    if not (found := [line for line in lines if line]):
        raise InputError(f"safe_templates={name} holds no refusal: write one a line")
    return found


def _drawn(templates: Sequence[str], seed: int, row_id: str) -> str:
    digest = hashlib.sha256(f"{seed}:safe:{row_id}".encode("utf-8", "surrogatepass")).digest()
    return templates[int.from_bytes(digest[:8], "big") % len(templates)]


def _identity(
    config: CompleteRunConfig, writer: Writer, prompts: Mapping[str, list[Row]], templates: Sequence[str]
) -> dict[str, Any]:
    """Everything that decides the rows; the batch size among it, as it decides rounding."""
    keys = ("tries", "temperature", "top_p", "max_new_tokens", "helpful_max_new_tokens", "batch_size", "seed")
    texts = (config.prefill, config.system, config.safe_system, list(templates))
    return {
        "writer": dict(writer.identity),
        "prompts": {part: {"count": len(rows), "sha256": _sha256(rows)} for part, rows in prompts.items()},
        "safe": config.safe,
        "texts": _sha256(texts),
        "judge": judge_identity(config.judge, config.judging),
        **{key: value for key, value in asdict(config).items() if key in keys},
    }


def _sha256(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _row(row: Row, source: str, chosen: Mapping[str, str], rejected: Mapping[str, str] | None = None) -> Row:
    """A prompt with its responses; without a rejected one it is a helpful row."""

    def response(found: Mapping[str, str]) -> list[dict[str, str]]:
        return [{"role": "assistant", "content": found[row["id"]]}]

    harmful = None if rejected is None else response(rejected)
    return {
        "id": row["id"], "source": source, "kind": "helpful" if harmful is None else "safety", "prompt": row["prompt"],
        "chosen": response(chosen), "rejected": harmful,
    }  # fmt: skip
