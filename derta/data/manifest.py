"""manifest.json: what a dataset is made of, so that it can be checked and made again.

It holds no row text, no absolute path and no time, and is the same, byte for byte, for the same recipe, inputs and
packages. It is written last: a directory without it is an interrupted build.
"""

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

from derta.data.assemble import Assembled, Origins, SourceReport
from derta.data.recipe import Recipe, Source
from derta.data.schema import Row
from derta.errors import InputError
from derta.storage.versions import package_versions

MANIFEST_NAME = "manifest.json"
# Raised when the builder would make other rows of the same input, so that an old dataset is not taken for a new one.
BUILDER_VERSION = 2
_PACKAGES = ("derta", "datasets", "huggingface_hub", "pyarrow", "PyYAML")


def build_key(recipe: Recipe, origins: Origins, limit: int | None) -> str:
    """Identity of a build before it starts: recipe, digests of the inputs, hub commits, limit and builder."""
    inputs = [
        [origin.revision, [entry["sha256"] for entry in origin.inputs]]
        for origin in (*origins.sources, *origins.evaluation)
    ]
    text = json.dumps([BUILDER_VERSION, recipe.sha256(), inputs, limit], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def make_manifest(
    recipe: Recipe, key: str, limit: int | None, origins: Origins, assembled: Assembled, outputs: dict[str, Any]
) -> dict[str, Any]:
    """The manifest's contents; `outputs` is file name -> its rows and sha256."""
    return {
        "builder_version": BUILDER_VERSION,
        "build_key": key,
        "recipe_name": recipe.file.stem,
        "recipe_sha256": recipe.sha256(),
        "recipe": recipe.as_dict(),
        "seed": recipe.seed,
        "limit": limit,
        "packages": package_versions(_PACKAGES),
        "sources": [_source_entry(report) for report in assembled.reports],
        "decontaminated_against": [
            {"name": name, "prompts": prompts, "revision": one.revision, "inputs": one.inputs}
            for (name, prompts), one in zip(assembled.evaluation_prompts.items(), origins.evaluation, strict=True)
        ],
        "outputs": outputs,
    }


def _source_entry(report: SourceReport) -> dict[str, Any]:
    source = report.source
    entry: dict[str, Any] = {
        "name": source.name,
        "adapter": source.adapter,
        "hub": source.hub,
        "config": source.config,
        "split": source.split,
        "part": source.part,
        "revision": report.origin.revision,
        "licence": source.licence or "not stated",
        "seed": report.seed,
        "inputs": report.origin.inputs,
        "records_read": report.read,
        "records_sha256": report.records_sha256,
        "steps": report.steps(),
    }
    if source.borderline:
        entry["borderline"] = True
    if report.contamination is not None:
        entry["contamination"] = report.contamination.report()
    if report.extended_refusals is not None:
        entry["extended_refusals"] = dict(sorted(report.extended_refusals.items()))
    return entry


def describe_output(rows: list[Row], sha256: str, sources: list[Source]) -> dict[str, Any]:
    """One output file: rows in all, per source and per kind, and those of borderline sources where there are any."""
    entry = {
        "rows": len(rows),
        "sha256": sha256,
        "rows_by_source": dict(sorted(Counter(row["source"] for row in rows).items())),
        "rows_by_kind": dict(sorted(Counter(row["kind"] for row in rows).items())),
    }
    borderline = {source.name for source in sources if source.borderline}
    if borderline:
        entry["rows_borderline"] = sum(row["source"] in borderline for row in rows)
    return entry


def read_manifest(directory: Path) -> dict[str, Any] | None:
    """The manifest of a built dataset, or None where there is none.
    Raises InputError: the file is there but is not a manifest of this builder."""
    path = directory / MANIFEST_NAME
    if not path.is_file():
        return None
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError):
        manifest = None
    if not isinstance(manifest, dict) or "build_key" not in manifest or "outputs" not in manifest:
        fix = "build the dataset again into another directory"
        raise InputError(f"{path}: not a manifest of the data builder; fix: {fix}")
    return manifest


def as_table(manifest: dict[str, Any]) -> str:
    """A short table of rows per source and step, for people."""
    lines = [f"{'source':<24}{'step':<16}{'rows in':>10}{'rows out':>10}  dropped because"]
    for source in manifest["sources"]:
        read = source["records_read"]
        all_kept = {"step": "(all kept)", "rows_in": read, "rows_out": read, "dropped": {}}
        for step in [step for step in source["steps"] if step["dropped"]] or [all_kept]:
            why = ", ".join(f"{reason} {count}" for reason, count in step["dropped"].items())
            line = f"{source['name']:<24}{step['step']:<16}{step['rows_in']:>10}{step['rows_out']:>10}  {why}"
            lines.append(line.rstrip())
    for name, output in manifest["outputs"].items():
        kinds = ", ".join(f"{count} {kind}" for kind, count in output["rows_by_kind"].items())
        if "rows_borderline" in output:
            kinds += f"; {output['rows_borderline']} borderline"
        lines.append(f"{name}: {output['rows']} rows ({kinds}), sha256 {output['sha256'][:12]}")
    return "\n".join(lines)
