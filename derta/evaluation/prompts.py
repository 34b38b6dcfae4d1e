"""From the configured prompt sets to model inputs: rows are loaded, counted, and put through their attacks."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from derta.config.evaluation import PromptSetConfig
from derta.config.prompts import PromptFormat
from derta.errors import InputError, errors_named
from derta.evaluation.attacks.attack import Attack
from derta.evaluation.prompt_files import PromptFile, check_labels, read_prompt_file, recognise_rows
from derta.evaluation.provenance import shown_path
from derta.evaluation.records import AttackInputs, PromptSet
from derta.models.inputs import ModelInput
from derta.models.target import TargetModel
from derta.storage.read_files import what_is_at


def load_prompt_set(name: str, prompts: PromptSetConfig, path: str, *, group: str = "eval.sets") -> PromptSet:
    """The rows of one prompt set, from its own path or the common one.
    group: where the set stands in the configuration, for messages.
    Raises InputError: no rows are left, or their file labels them against the set's `harmful`."""
    key = f"{group}.{name}.path" if prompts.path else f"{group.removesuffix('.sets')}.path"
    path = prompts.path or path
    with errors_named(keys={"data.path=": f"{key}=", "data.format=": "format="}):
        file = read_prompts(path, prompts.format, prompts.split, harmful=prompts.harmful)
    rows = file.rows
    sources = sorted({row["source"] for row in rows})
    if prompts.source is not None:
        rows = [row for row in rows if row["source"] == prompts.source]
    if not rows:
        there = f"its sources are: {', '.join(sources)}" if sources else "the file holds no rows"
        raise InputError(f"{group}.{name}: no rows in {shown_path(path)} with source={prompts.source}; {there}")
    if file.labelled:
        check_labels(f"{group}.{name}", rows, harmful=prompts.harmful)
    attacks = tuple(prompts.attacks)
    return PromptSet(name, prompts.harmful, rows[: prompts.count], attacks, file.sha256)


def read_prompts(path: str, format: PromptFormat, split: str = "train", *, harmful: bool) -> PromptFile:
    """Rows of a built dataset, of a file of rows with responses, or of a file of prompts alone. Raises InputError:
    nothing there, or rows that cannot be used."""
    from derta.data.load import FORMATS, load_rows

    place = Path(path).expanduser()
    there = what_is_at(place)
    if there == "a file" and format in (PromptFormat.derta, PromptFormat.prompts):
        format = recognise_rows(place)
    elif there == "a directory" and format is PromptFormat.prompts:
        format = PromptFormat.derta
    if format.value not in FORMATS:
        return read_prompt_file(path, format, harmful=harmful)
    loaded = load_rows(path, format=format.value, split=split)
    return PromptFile(loaded.dataset.to_list(), loaded.sha256, labelled=False)


def make_inputs(
    sets: Sequence[PromptSet], attacks: Mapping[str, Attack], target: TargetModel, max_new_tokens: int
) -> dict[tuple[str, str], AttackInputs]:
    """(prompt set, attack) -> inputs that leave room for a response in the context, and the rows left out. Raises
    InputError: an attack can use none of the rows of a set; but deep prefills may, where a shallow one can use some."""
    made: dict[tuple[str, str], AttackInputs] = {}
    problems = []
    for prompts in sets:
        for name in prompts.attacks:
            found = attacks[name].inputs(prompts.rows, target, prompts.name)
            found.inputs, too_long = _fit_context(found.inputs, target.context_length, max_new_tokens)
            found.skipped |= too_long
            prefilled = attacks[name].prefill_tokens and any(
                made[prompts.name, other].inputs and 0 < attacks[other].prefill_tokens < attacks[name].prefill_tokens
                for other in prompts.attacks[: prompts.attacks.index(name)]
            )
            if not found.inputs and not prefilled:
                reasons = ", ".join(sorted(set(found.skipped.values())))
                problems.append(f"eval.sets.{prompts.name}: attack {name} can use none of the rows: {reasons}")
            made[prompts.name, name] = found
    if problems:
        raise InputError.listing(
            "an attack without a single prompt (drop it, give other rows, or, where prompts do not fit, lower "
            "eval.max_new_tokens):",
            problems,
        )
    return made


def _fit_context(
    inputs: Sequence[ModelInput], limit: int | None, max_new_tokens: int
) -> tuple[list[ModelInput], dict[str, str]]:
    """Inputs that leave room for a response, and the rows of the others with the reason."""
    if limit is None:
        return list(inputs), {}
    reason = f"prompt and {max_new_tokens} new tokens do not fit into the context of {limit}"
    fitting = [item for item in inputs if len(item.token_ids) + max_new_tokens <= limit]
    left_out = {item.row_id for item in inputs} - {item.row_id for item in fitting}
    return fitting, dict.fromkeys(sorted(left_out), reason)
