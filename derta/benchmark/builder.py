"""(d) The data builder and the trainer's tokenising, against bare tokenisation with `datasets` by number of workers.

JSONL of preference rows  --build-->            dataset directory     against  tokenizer.apply_chat_template of the
                          --build_row_table-->  tokenised rows                 same conversations in Dataset.map
"""

import json
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from derta.benchmark.measure import Line, in_turn, seconds
from derta.benchmark.workload import MAX_LENGTH, dataset, miniature_rows, tokenizer

_RECIPE = (
    "description: benchmark\nseed: 1\nsources:\n  - {name: rows, adapter: preference, path: PATH, licence: none}\n"
)


def conversations(rows: list[dict[str, Any]]) -> list[list[dict[str, str]]]:
    """Each response with its prompt: what a bare tokenisation of the rows has to go through."""
    return [row["prompt"] + row[name] for row in rows for name in ("chosen", "rejected") if row[name]]


def write_recipe(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """The rows as JSONL, and a recipe that reads them."""
    file, recipe = folder / "rows.jsonl", folder / "recipe.yaml"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    recipe.write_text(_RECIPE.replace("PATH", str(file)), encoding="utf-8")
    return recipe


def builder(size: str) -> list[Line]:
    from datasets import Dataset

    count, rounds = (2000, 2) if size == "small" else (20000, 4)
    rows = miniature_rows(count)
    bare = Dataset.from_list([{"messages": messages} for messages in conversations(rows)])
    ours = dataset(rows)
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        recipe = write_recipe(Path(folder), rows)
        for workers in (1, 2):
            for what, function in (("building rows", _build), ("tokenising rows", _tokenise)):
                mine, peer = partial(function, recipe, ours, workers), partial(_bare, bare, workers)
                line = in_turn(
                    "d", f"{what}, {workers} worker" + "s" * (workers > 1), "rows/s", _rate(count, mine),
                    _rate(count, peer), rounds, peer_name="bare tokenisation", goal=0.8, at_least=True,
                )  # fmt: skip
                lines.append(line)
    return lines


def _rate(count: int, work: Callable[[], Any]) -> Callable[[], float]:
    return lambda: count / seconds(work)


def _build(recipe: Path, _: Any, workers: int) -> None:
    from derta.data.build import build
    from derta.data.recipe import load_recipe

    build(load_recipe(str(recipe), recipe.parent), recipe.parent / "built", workers=workers, overwrite=True)
    (recipe.parent / "built" / "manifest.json").unlink()  # or the next call would find it built


def _tokenise(_: Path, rows: Any, workers: int) -> None:
    from derta.config import ObjectiveConfig
    from derta.objective.refusal_token import resolve_refusal_token
    from derta.objective.rows import RowSettings
    from derta.training.dataset import build_row_table

    refusal = resolve_refusal_token(tokenizer(), "Sorry", None)
    settings = RowSettings(objective=ObjectiveConfig(), max_length=MAX_LENGTH, seed=0)
    build_row_table(_fresh(rows), tokenizer(), refusal, settings, num_proc=workers if workers > 1 else None)


def _bare(rows: Any, workers: int) -> None:
    encode = tokenizer().apply_chat_template
    _fresh(rows).map(
        lambda row: {"input_ids": encode(row["messages"], return_dict=False)},
        remove_columns=["messages"],
        num_proc=workers if workers > 1 else None,
    )


def _fresh(rows: Any) -> Any:
    """The same rows in memory without the fingerprint by which `map` would find an earlier result."""
    from datasets import Dataset

    return Dataset(rows.data.table)
