"""The diagnostic from start to end; everything it says of a model is in direction.json.

model + two sides of prompts --> search --> direction | "no valid direction found"
    --> interventions --> responses, numbers --> ablation robustness

OUTPUT/direction.json               written last: its presence means that the diagnostic is complete
OUTPUT/direction.safetensors        the direction, where there is one
OUTPUT/direction_evaluations.json   every candidate, in the published layout
OUTPUT/responses.jsonl              what the model wrote, as in results.jsonl; for its owner's eyes alone
OUTPUT/*.png                        figures
"""

import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from derta.config.direction import DiagnoseRunConfig
from derta.config.settings import plain
from derta.direction.examine import Examined, examine
from derta.direction.figures import write_figures
from derta.direction.find import load_reference
from derta.direction.prompts import draw_sides, read_sides, refusal_start_ids
from derta.direction.score import score_of
from derta.direction.selection import write_table
from derta.direction.suffix import read_suffixes
from derta.errors import InputError
from derta.evaluation.judges.judge import judge_identity
from derta.evaluation.provenance import shown_command, shown_path
from derta.evaluation.summary import read_summary, write_summary
from derta.models.fingerprint import fingerprint
from derta.models.precision import resolve_dtype
from derta.models.run_date import settle_dates
from derta.models.target import load_target, target_tokenizer
from derta.residual.direction_files import Direction, save_direction
from derta.storage.atomic import write_errors_named
from derta.storage.claim import Claim
from derta.storage.json_lines import write_lines
from derta.storage.read_files import sha256_of
from derta.storage.versions import package_versions

DIRECTION_JSON = "direction.json"
DIRECTION_FILE = "direction.safetensors"
TABLE_FILE = "direction_evaluations.json"
RESPONSES_FILE = "responses.jsonl"
_FREE = ("path", "batch_size")  # settings that change no result; the files' hashes say which prompts they were


def diagnose(config: DiagnoseRunConfig) -> dict[str, Any]:
    """Run the diagnostic, or read what an earlier run of it wrote, and return the content of direction.json. Raises
    InputError: anything the user can mend: configuration, model, prompts, files."""
    output, began = Path(config.output_dir), time.monotonic()
    read = read_sides(config.direction)  # before the model is loaded: what is wrong with files shows at once
    if config.direction.suffix.path:
        read_suffixes(config.direction.suffix.path, read["harmful"].rows)
    sha256 = fingerprint(config.model.name_or_path, config.model.revision)
    if config.summary and read_summary(config.summary).identity.model.sha256 != sha256:
        raise InputError(
            f"summary={config.summary} is the evaluation of another model: give the folder that launch/evaluate.py "
            "wrote for this one"
        )
    words = config.direction.refusal_texts, config.direction.refusal_token_ids
    refusal_start_ids(target_tokenizer(config.model), *words)
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    dates = settle_dates(config, output / DIRECTION_JSON)
    target = load_target(config.model, device=device)
    sides = draw_sides(read, config.direction, target)
    identity = {
        "model": {"sha256": sha256, "dtype": resolve_dtype(config.model)},
        "prompts": {side.name: side.sha256 for side in sides},
        "references": {shown_path(name): _sha256(name) for name in config.direction.references},
        "judge": judge_identity(config.direction.judge, config.direction.judging),
        "settings": {k: v for k, v in plain(asdict(config.direction)).items() if k not in (*_FREE, "references")},
    } | dates
    claim = Claim(output / DIRECTION_JSON, identity, work="diagnostic", named=f"output_dir={output}")
    if claim.held():
        report = claim.content()
    else:
        references = {
            shown_path(name): load_reference(name, config.model, target, sides, config.direction)
            for name in config.direction.references
        }
        found = examine(target, *sides, config.direction, references)
        run = {
            "command": shown_command(sys.argv),
            "model": shown_path(config.model.name_or_path),
            "seconds": round(time.monotonic() - began, 1),
            "versions": package_versions(),
        }
        label = config.label or Path(config.model.name_or_path).name
        report = {"identity": claim.identity, "label": label, "run": run} | found.report
        _write(claim, report, found)
    if config.summary:  # for the report and the gate
        write_summary(config.summary, replace(read_summary(config.summary), ablation_robustness=score_of(report)))
    return report


def _sha256(reference: str) -> str:
    """Of a reference's weights, or of its direction file."""
    return sha256_of(Path(reference)) if Path(reference).is_file() else fingerprint(reference)


def _write(claim: Claim, report: dict[str, Any], found: Examined) -> None:
    output = claim.file.parent
    with write_errors_named(claim.named):
        output.mkdir(parents=True, exist_ok=True)
        write_lines(output / RESPONSES_FILE, (result.to_json() for result in found.results), private=True)
        write_table(output / TABLE_FILE, found.search.candidates)
        if chosen := found.search.selection.chosen:
            about = {"model_sha256": report["identity"]["model"]["sha256"], "label": report["label"]}
            vector = found.search.at(chosen)
            save_direction(output / DIRECTION_FILE, Direction(vector, chosen.position, chosen.layer, about))
        write_figures(report, output)
    claim.take(**{key: value for key, value in report.items() if key != "identity"})
