"""Suffix analysis: does an adversarial suffix keep the prompt away from the refusal direction, and how?

    prompt          [template][instruction][template]                        no suffix
    + random        [template][instruction][as many drawn tokens][template]
    + adversarial   [template][instruction][suffix][template]
                                                             ^ the last token: cosine of its residual with the direction
                                                               per block input; what each head adds to it along the
                                                               direction; how its attention is shared out

After arXiv 2406.11717, section 5. Shapes: T tokens of one prompt, H hidden size, L layers, A heads.
"""

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from derta.config.direction import SuffixConfig
from derta.data.schema import duplicate_id
from derta.direction.find import Search
from derta.direction.forward import refusal_metric
from derta.errors import InputError
from derta.evaluation.attacks.disguises import query_of
from derta.evaluation.attacks.gcg import Frame, allowed_tokens
from derta.evaluation.records import Row
from derta.models.target import TargetModel
from derta.progress import progress
from derta.residual.blocks import block_inputs, locate_blocks, unwrapped
from derta.storage.places import string_problem
from derta.storage.read_files import read_file, what_is_at

CONDITIONS = ("none", "random", "adversarial")
_OUTPUT = ("o_proj", "c_proj", "out_proj", "dense")


@dataclass(frozen=True, slots=True)
class _Prompt:
    """ids: of the whole prompt. instruction, suffix: places (first, end) in them."""

    ids: list[int]
    instruction: tuple[int, int]
    suffix: tuple[int, int]


def analyse_suffixes(
    target: TargetModel,
    rows: Sequence[Row],
    refusal_ids: Sequence[int],
    search: Search,
    config: SuffixConfig,
    seed: int,
) -> dict[str, Any]:
    """Cosines by layer, refusal metric and attention shares, averaged over prompts, per condition; and the heads.

    Without a valid direction there is nothing to compare with: only `reason` is given.

    Raises:
        InputError: the suffixes cannot be read, or belong to none of the rows.
    """
    suffixes = read_suffixes(config.path, rows)
    chosen = search.selection.chosen
    if chosen is None:
        return {"reason": "no valid direction found"}
    prompts = _prompts(target, rows, suffixes, config.count, seed)
    direction = search.at(chosen)
    unit = direction / direction.norm()
    seen: dict[str, list[dict[str, torch.Tensor]]] = {name: [] for name in CONDITIONS}
    with progress(sum(map(len, prompts.values())), "suffixes") as bar:
        for name in CONDITIONS:
            for prompt in prompts[name]:
                seen[name].append(_observe(target, prompt, unit, refusal_ids))
                bar.update(1)
    found = {
        name: {key: torch.stack([each[key] for each in all_]).mean(0) for key in all_[0]} for name, all_ in seen.items()
    }
    written = found["none"]["written"]  # [L, A]
    order = written.flatten().argsort(descending=True, stable=True)[: config.heads].tolist()
    layers, heads = zip(*(divmod(place, written.shape[1]) for place in order), strict=True)
    return {
        "reason": "",
        "prompts": len(prompts["none"]),
        "heads": [
            {"layer": layer, "head": head} | {name: float(each["written"][layer, head]) for name, each in found.items()}
            for layer, head in zip(layers, heads, strict=True)
        ],
        "conditions": {
            name: {
                "cosines": each["cosines"].tolist(),
                "metric": float(each["metric"]),
                "attention": {part: float(each[part][layers, heads].mean()) for part in ("instruction", "suffix")},
            }
            for name, each in found.items()
        },
    }


def read_suffixes(path: str, rows: Sequence[Row]) -> dict[str, str]:
    """Row id -> suffix text, from JSON Lines or from a folder of GCG's checkpoints. Raises InputError: nothing there,
    lines without id and suffix, or none that belongs to these rows."""
    place = Path(path)
    there = what_is_at(place)
    if there == "a directory":
        found = _from_checkpoints(place, {row["id"]: row for row in rows})
    elif there == "a file":
        found, problems = {}, []
        for record in read_file(place):
            wrong = [
                p.at(record.place) for name in ("id", "suffix") if (p := string_problem(name, record.values.get(name)))
            ]
            if not wrong and record.values["id"] in found:
                wrong = [duplicate_id(record.values["id"]).at(record.place)]
            problems += wrong
            if not wrong:
                found[record.values["id"]] = record.values["suffix"]
        if problems:
            raise InputError.listing(f"direction.suffix.path={path} cannot be read:", problems)
    else:
        raise InputError(f"direction.suffix.path={path}: no such file or folder")
    known = {row["id"] for row in rows}
    found = {row_id: suffix for row_id, suffix in found.items() if row_id in known and suffix.strip()}
    if not found:
        raise InputError(
            f"direction.suffix.path={path} holds no suffix for any of the {len(known)} harmful prompts: its ids have "
            "to be those of direction.harmful"
        )
    return found


def _from_checkpoints(folder: Path, rows: Mapping[str, Row]) -> dict[str, str]:
    found = {}
    for file in sorted(folder.glob("*.json")):
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            row_id, query = content["identity"]["row"], content["state"].get("content")
        except (ValueError, LookupError, TypeError, AttributeError):
            raise InputError(f"{file.name} in direction.suffix.path is not the checkpoint of an attack") from None
        if row_id in rows and query and query.startswith(query_of(rows[row_id])):
            found[row_id] = query[len(query_of(rows[row_id])) :]
    return found


def _prompts(
    target: TargetModel, rows: Sequence[Row], suffixes: Mapping[str, str], count: int, seed: int
) -> dict[str, list[_Prompt]]:
    """The same rows in every condition; rows whose suffix the template does not show literally are left out."""
    allowed = allowed_tokens(target, ascii_only=True).nonzero()[:, 0].tolist()
    found: dict[str, list[_Prompt]] = {name: [] for name in CONDITIONS}
    for row in rows:
        if row["id"] not in suffixes or len(found["none"]) == count:
            continue
        frame = Frame(row, target, suffixes[row["id"]])
        if not frame.initial:
            continue
        drawn = random.Random(f"{seed}/{row['id']}").choices(allowed, k=len(frame.initial))
        first = target.cutter.instruction_span(row["prompt"])[0]
        end = len(frame.before)
        for name, suffix in zip(CONDITIONS, ([], drawn, frame.initial), strict=True):
            ids = [*frame.before, *suffix, *frame.behind]
            found[name].append(_Prompt(ids, (first, end), (end, end + len(suffix))))
    if not found["none"]:
        raise InputError("direction.suffix: the chat template shows none of the suffixes literally behind its prompt")
    return found


def _observe(
    target: TargetModel, prompt: _Prompt, unit: torch.Tensor, refusal_ids: Sequence[int]
) -> dict[str, torch.Tensor]:
    """One forward. cosines: [L]. metric: []. written: [L, A], what each head adds to the last token along the unit
    direction. instruction, suffix: the last token's attention to each, [L, A]."""
    model = target.model
    inputs = {"input_ids": torch.tensor([prompt.ids], device=model.device)}
    with torch.inference_mode(), _heads(model, unit) as written, block_inputs(model, 1) as seen, _eager(model):
        output = model(**inputs, output_attentions=True, use_cache=False, logits_to_keep=1)
        last = torch.stack([x[0, 0].double().cpu() for x in seen])  # [L, H]
        weights = torch.stack([layer[0, :, -1].double().cpu() for layer in output.attentions])  # [L, A, T]
        metric = refusal_metric(output.logits[:, -1].double(), refusal_ids)[0].cpu()
    return {
        "cosines": last @ unit / last.norm(dim=1),
        "metric": metric,
        "written": torch.stack(written),
        "instruction": weights[..., slice(*prompt.instruction)].sum(-1),
        "suffix": weights[..., slice(*prompt.suffix)].sum(-1),
    }


@contextmanager
def _heads(model: Any, unit: torch.Tensor) -> Iterator[list[Any]]:
    """A list that holds, behind a block with a forward of one prompt, what each head of each layer adds along `unit`,
    [A] each."""
    heads = model.config.get_text_config().num_attention_heads
    seen: list[tuple[Any, torch.Tensor]] = []  # the projection of a layer, and what it reads at the last token
    written: list[torch.Tensor] = []
    with ExitStack() as hooks:
        for layer, attention in enumerate(locate_blocks(model).attention):
            projection = next((getattr(attention, name) for name in _OUTPUT if hasattr(attention, name)), None)
            if projection is None:
                raise InputError(
                    f"suffix analysis: the attention of layer {layer} ({type(attention).__name__}) has no output "
                    f"projection under a known name; looked for {', '.join(_OUTPUT)}"
                )
            handle = projection.register_forward_pre_hook(lambda module, args: seen.append((module, args[0][0, -1])))
            hooks.callback(handle.remove)
        yield written
    for projection, z in seen:  # z: [A * head size]
        apart = torch.block_diag(*z.view(heads, -1)).to(z.dtype)  # [A, A * head size]: one head in each row
        # Through the module itself, which is linear, so that a LoRA delta and GPT-2's transposed weights count.
        rows = projection(torch.cat([apart, torch.zeros_like(apart[:1])]).unsqueeze(0))[0].double().cpu()
        written.append((rows[:-1] - rows[-1]) @ unit)


@contextmanager
def _eager(model: Any) -> Iterator[None]:
    """Attention that gives its weights; the model's own choice is put back."""
    inner = unwrapped(model)
    before = inner.config._attn_implementation
    inner.set_attn_implementation("eager")
    try:
        yield
    finally:
        inner.set_attn_implementation(before)
