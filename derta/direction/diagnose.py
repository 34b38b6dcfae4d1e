"""The diagnostic from start to end; everything it says of a model is in direction.json.

    model + two sides of prompts --> search --> direction | "no valid direction found"
        --> ablated | several ablated | added | of a reference | adapter scaled --> numbers --> ablation robustness

Activations are changed while they are computed and weights never, so the model is bit for bit what it was before.

    OUTPUT/direction.json               written last: its presence means that the diagnostic is complete
    OUTPUT/direction.safetensors        the direction, where there is one
    OUTPUT/direction_evaluations.json   every candidate, in the published layout
    OUTPUT/*.png                        figures
"""

from __future__ import annotations

import math
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from derta.config.direction import DiagnoseRunConfig, DirectionConfig
from derta.config.plain import plain
from derta.direction.figures import write_figures
from derta.direction.find import Search, find_direction
from derta.direction.outcomes import Tester
from derta.direction.prompts import Side, draw_sides, read_sides, refusal_start_ids
from derta.direction.reference import Reference, apply_reference, load_reference
from derta.direction.scaling import adapter_scales
from derta.direction.score import add_to_summary, check_summary, robustness
from derta.direction.selection import write_table
from derta.direction.subspace import orthogonal_directions
from derta.direction.suffix import analyse_suffixes, read_suffixes
from derta.errors import InputError
from derta.evaluation.judges.judge import build_judge, judge_identity
from derta.evaluation.provenance import shown_command, shown_path
from derta.models.fingerprint import fingerprint
from derta.models.precision import resolve_dtype
from derta.models.run_date import settle_dates
from derta.models.target import TargetModel, load_target
from derta.residual.blocks import locate_blocks
from derta.residual.direction_files import Direction, save_direction
from derta.residual.interventions import activation_addition, directional_ablation, subspace_ablation
from derta.storage.claim import Claim
from derta.storage.versions import package_versions

if TYPE_CHECKING:
    import torch

DIRECTION_JSON = "direction.json"
DIRECTION_FILE = "direction.safetensors"
TABLE_FILE = "direction_evaluations.json"
_FREE = ("path", "batch_size")  # settings that change no result; the files' hashes say which prompts they were


def diagnose(config: DiagnoseRunConfig) -> dict[str, Any]:
    """Run the diagnostic, or read what an earlier run of it wrote, and return the content of direction.json.

    Raises:
        InputError: anything the user can mend: configuration, model, prompts, files.
    """
    import torch

    output, began = Path(config.output_dir), time.monotonic()
    sha256 = fingerprint(config.model.name_or_path, config.model.revision)
    if config.summary:
        check_summary(config.summary, sha256)
    read = read_sides(config.direction)  # before the model is loaded: what is wrong with files shows at once
    if config.direction.suffix.path:
        read_suffixes(config.direction.suffix.path, read["harmful"].rows)
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
        found, search = examine(target, *sides, config.direction, references)
        run = {
            "command": shown_command(sys.argv),
            "model": shown_path(config.model.name_or_path),
            "seconds": round(time.monotonic() - began, 1),
            "versions": package_versions(),
        }
        label = config.label or Path(config.model.name_or_path).name
        report = {"identity": claim.identity, "label": label, "run": run} | found
        _write(claim, report, search)
    if config.summary:
        add_to_summary(config.summary, report["ablation_robustness"])
    return report


def examine(
    target: TargetModel,
    harmful: Side,
    harmless: Side,
    config: DirectionConfig,
    references: dict[str, Reference] | None = None,
) -> tuple[dict[str, Any], Search]:
    """What direction.json says about a loaded model, and the search it rests on."""
    refusal_ids = refusal_start_ids(target, config.refusal_texts, config.refusal_token_ids)
    search = find_direction(target, harmful, harmless, refusal_ids, config)
    judge = build_judge(config.judge, config.judging)
    tester = Tester(target, harmful.test, harmless.test, judge, refusal_ids, config.batch_size, config.max_new_tokens)
    selection, chosen = search.selection, search.selection.chosen
    report: dict[str, Any] = {
        "prompts": {side.name: _counts(side, search.kept[side.name]) for side in (harmful, harmless)},
        "filtered": config.filter_prompts,
        "refusal_tokens": [{"id": i, "text": target.tokenizer.decode([i])} for i in refusal_ids],
        "layers": len(locate_blocks(target.model)),
        "positions": len(search.differences),
        "candidates": [candidate.to_row() for candidate in search.candidates],
        "selection": selection.to_json() | {"dropped": selection.dropped},
        "norms": search.differences.norm(dim=-1).tolist(),
        "cosines": None,
        "before": tester.measure_untouched(),
        "strongest": None,
        "ablated": [],
        "added": None,
        "adapter_scales": [],
        "suffix": None,
    }
    if chosen is not None:
        direction = search.at(chosen.position, chosen.layer)
        report["cosines"] = _cosines(search.differences, direction)
        others = search.differences[[c.position for c in selection.survivors], [c.layer for c in selection.survivors]]
        basis = orthogonal_directions(direction, others, config.subspace)
        for n in range(1, len(basis) + 1):
            with subspace_ablation(target.model, basis[:n]):
                report["ablated"].append({"directions": n, **tester.measure()})
        with activation_addition(target.model, direction, chosen.layer):
            report["added"] = tester.measure_harmless()
        report["adapter_scales"] = adapter_scales(target.model, direction, tester, config.lora_scales)
    elif measurable := [c for c in search.candidates if not math.isnan(c.bypass)]:
        # Not valid, so no score rests on it; but whether refusal or everything breaks down tells the two apart.
        strongest = min(measurable, key=lambda candidate: candidate.bypass)
        with directional_ablation(target.model, search.at(strongest.position, strongest.layer)):
            report["strongest"] = {"position": strongest.position, "layer": strongest.layer, **tester.measure()}
    report["references"] = [
        {"name": name, **apply_reference(reference, search, tester)} for name, reference in (references or {}).items()
    ]
    if config.suffix.path:
        report["suffix"] = analyse_suffixes(
            target, harmful.rows, refusal_ids, search, config.suffix, config.splits.seed
        )
    report["ablation_robustness"] = asdict(robustness(report, config.selection.kl_max))
    return report, search


def _counts(side: Side, kept: dict[str, int]) -> dict[str, Any]:
    return {
        "train": len(side.train),
        "validation": len(side.validation),
        "test": len(side.test),
        "kept": kept,
        "left_out": side.left_out,
    }


def _cosines(differences: torch.Tensor, direction: torch.Tensor) -> list[list[float | None]]:
    """Cosine of every candidate [P, L] with the chosen direction; None where a candidate is zero."""
    lengths = differences.norm(dim=-1) * direction.norm()
    products = differences @ direction
    return [
        [float(product / length) if length else None for product, length in zip(*row, strict=True)]
        for row in zip(products, lengths, strict=True)
    ]


def _sha256(reference: str) -> str:
    """Of a reference's weights, or of its direction file."""
    from derta.storage.read_files import sha256_of

    return sha256_of(Path(reference)) if Path(reference).is_file() else fingerprint(reference)


def _write(claim: Claim, report: dict[str, Any], search: Search) -> None:
    output = claim.file.parent
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"output_dir={output} cannot be written: {error.strerror}") from error
    write_table(output / TABLE_FILE, search.candidates)
    if chosen := search.selection.chosen:
        about = {"model_sha256": report["identity"]["model"]["sha256"], "label": report["label"]}
        vector = search.at(chosen.position, chosen.layer)
        save_direction(output / DIRECTION_FILE, Direction(vector, chosen.position, chosen.layer, about))
    write_figures(report, output)
    claim.take(**{key: value for key, value in report.items() if key != "identity"})
