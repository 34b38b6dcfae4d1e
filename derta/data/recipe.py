"""A recipe (YAML) as validated dataclasses. Every key is described in data_recipes/README.md.

All problems of a recipe are reported at once, each with the key, what was expected, and the nearest known name.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from derta.config.data import NGRAM
from derta.config.endpoint import EndpointConfig
from derta.data.read_hub import is_commit
from derta.data.recipe_checks import nearest, recipe_problems
from derta.errors import InputError

_LATER_KEYS = ("borderline", "extended_refusal")


@dataclass(kw_only=True)
class Filters:
    """What is dropped. Lengths are in characters after normalisation; None means no limit."""

    min_prompt_chars: int | None = None
    max_prompt_chars: int | None = None
    min_response_chars: int | None = None
    max_response_chars: int | None = None
    safe_must_refuse: bool = False
    harmful_must_not_refuse: bool = False
    helpful_must_not_refuse: bool = False
    # prompt: one row per normalised prompt; row: per prompt and responses; keep: no duplicate filter
    duplicates: str = "prompt"
    # column of the source -> values to keep, or to drop
    keep_values: dict[str, Any] = field(default_factory=dict)
    drop_values: dict[str, Any] = field(default_factory=dict)


@dataclass(kw_only=True)
class ExtendedRefusals:
    """Refusals that say more (derta/data/extended_refusal.py): from `templates` (miniature) or from `file`.

    endpoint: a chat-completions server that is asked for the lines the file lacks; max_tokens: of one answer.
    missing: what happens to refusals without a line: `error`, or `keep` them as they are and count them.
    """

    templates: str | None = None
    file: str | None = None
    endpoint: EndpointConfig | None = None
    max_tokens: int = 512
    missing: str = "error"


@dataclass(kw_only=True)
class Source:
    """One source. Exactly one of `path`, `hub` and `part` says where its records come from.

    borderline: benign prompts that look harmful, with helpful responses; counted apart in the manifest, refusals among
    the responses are dropped, and training asks for a decontamination (derta/data/guard.py).
    """

    name: str = ""
    adapter: str = ""
    path: str | None = None
    hub: str | None = None
    part: str | None = None
    config: str | None = None
    revision: str | None = None
    pin_on_build: bool = False
    split: str | None = None
    columns: dict[str, Any] = field(default_factory=dict)
    filters: Filters = field(default_factory=Filters)
    count: int | None = None
    select: str = "sample"
    allow_fewer: bool = False
    on_invalid: str = "error"
    seed: int | None = None
    licence: str | None = None
    borderline: bool = False
    extended_refusal: ExtendedRefusals | None = None


@dataclass(kw_only=True)
class EvaluationPrompts:
    """Prompts that must not occur in the training data; without `column` it is recognised (evaluation_prompts.py)."""

    path: str | None = None
    hub: str | None = None
    config: str | None = None
    revision: str | None = None
    pin_on_build: bool = False
    split: str | None = None
    column: str | None = None

    @property
    def name(self) -> str:
        """How reports call the set: its path or hub id, and what tells it from others of the same."""
        origin = public_path(self.path) if self.path is not None else str(self.hub)
        return ":".join([origin, *(part for part in (self.config, self.split, self.column) if part)])


@dataclass(kw_only=True)
class Decontaminate:
    """Drop rows whose prompt overlaps an evaluation prompt (derta/data/decontaminate.py)."""

    ngram: int = NGRAM
    against: list[EvaluationPrompts] = field(default_factory=list)


@dataclass(kw_only=True)
class Recipe:
    """A whole recipe. `holdout` is a fraction of the rows (below 1) or a number of rows.

    With `shuffle: false` rows keep the order of the sources (a curriculum); the hold-out is drawn at random all the
    same.
    """

    sources: list[Source] = field(default_factory=list)
    description: str = ""
    seed: int = 42
    shuffle: bool = True
    holdout: float = 0
    filters: Filters = field(default_factory=Filters)
    decontaminate: Decontaminate | None = None
    # where the file lies: relative paths start there; not part of the recipe's identity
    file: Path = field(default=Path("recipe.yaml"), compare=False)

    def as_dict(self) -> dict[str, Any]:
        """The recipe as plain values, for the manifest: no absolute path is kept, only the last part of one."""
        values = dataclasses.asdict(self)
        del values["file"]
        origins = values["sources"] + ((values["decontaminate"] or {}).get("against") or [])
        for origin in origins:
            if origin["path"] is not None:
                origin["path"] = public_path(origin["path"])
        for source in values["sources"]:  # a recipe that does without a later key keeps the identity it had before it
            for key in _LATER_KEYS:
                if not source[key]:
                    del source[key]
            extended = source.get("extended_refusal")
            if extended and extended["file"] is not None:
                extended["file"] = public_path(extended["file"])
        return values

    def sha256(self) -> str:
        """Identity of what is asked, independent of key order and comments in the file."""
        return hashlib.sha256(json.dumps(self.as_dict(), sort_keys=True).encode()).hexdigest()


def public_path(path: str) -> str:
    """A path as it may be published: unchanged if relative, else only its last part."""
    return Path(path).name if Path(path).expanduser().is_absolute() else path


def load_recipe(name: str, folder: Path) -> Recipe:
    """The recipe `name`: a file in `folder` (with or without .yaml) or a path to a YAML file.

    Raises:
        InputError: no such recipe (with the nearest name), not YAML, or any problem with its contents, all listed.
    """
    path = next((p for p in (folder / f"{name}.yaml", Path(name), Path(f"{name}.yaml")) if p.is_file()), None)
    if path is None:
        known = sorted(file.stem for file in folder.glob("*.yaml"))
        raise InputError(
            f"recipe={name}: no such recipe{nearest(name, known)}; fix: give a path to a YAML file or one of "
            f"{', '.join(known)}"
        )
    return parse_recipe(_read_yaml(path), path)


def _read_yaml(path: Path) -> Any:
    import yaml

    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        what = getattr(error, "problem", None) or "cannot be parsed"
        raise InputError(
            f"{path}{line}: not valid YAML ({what}); fix: correct the indentation or quoting there"
        ) from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: expected UTF-8 text; fix: save the recipe as UTF-8") from None


def parse_recipe(values: Any, path: Path) -> Recipe:
    """Plain YAML values to a recipe. Source filters are laid over the recipe's filters."""
    problems: list[str] = []
    common = values.get("filters") if isinstance(values, dict) else None
    if isinstance(values, dict) and isinstance(values.get("sources"), list) and isinstance(common, dict):
        sources = [
            {**source, "filters": {**common, **(source.get("filters") or {})}} if isinstance(source, dict) else source
            for source in values["sources"]
        ]
        values = {**values, "sources": sources}
    recipe: Recipe = _build(Recipe, values, "", problems, hidden=("file",))
    for source in recipe.sources:
        if source.borderline:  # an answer that refuses is the very thing these rows are to unteach
            source.filters.helpful_must_not_refuse = True
    if not problems:
        recipe.file = path
        problems = recipe_problems(recipe)
    if problems:
        raise InputError.listing(f"recipe {path} cannot be used:", problems)
    return recipe


def _build(cls: type, values: Any, where: str, problems: list[str], hidden: tuple[str, ...] = ()) -> Any:
    """A dataclass from a mapping: unknown keys and wrong types are noted in `problems` under their dotted name."""
    if not isinstance(values, dict):
        problems.append(f"{where or 'the file'}: expected keys and values; fix: see data_recipes/README.md")
        return cls()
    hints = get_type_hints(cls)
    known = [f.name for f in dataclasses.fields(cls) if f.name not in hidden]
    made = {}
    for key, value in values.items():
        name = f"{where}{key}"
        if key not in known:
            problems.append(f"{name}: unknown key{nearest(str(key), known)}; fix: use one of {', '.join(known)}")
        else:
            made[key] = _convert(hints[key], value, name, problems)
    return cls(**made)


def _convert(hint: Any, value: Any, where: str, problems: list[str]) -> Any:
    """One value checked against the field's type."""
    choices = (
        [choice for choice in get_args(hint) if choice is not type(None)]
        if get_origin(hint) not in (dict, list)
        else []
    )
    if choices:
        if value is None:
            return None
        hint = choices[0]
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _build(hint, value, f"{where}.", problems)
    if get_origin(hint) is list:
        if not isinstance(value, list):
            problems.append(f"{where}: expected a list; fix: start each entry with '- '")
            return []
        inner = get_args(hint)[0]
        return [_build(inner, item, f"{where}[{index}].", problems) for index, item in enumerate(value)]
    if get_origin(hint) is dict:
        if not isinstance(value, dict):
            problems.append(f"{where}: expected keys and values, for example {{name: value}}")
            return {}
        return value
    wrong_bool = isinstance(value, bool) and hint is not bool
    accepted = (int, float) if hint is float else hint
    if wrong_bool or not isinstance(value, accepted):
        words = {int: "a whole number", float: "a number", str: "a string", bool: "true or false"}
        problems.append(f"{where}: expected {words[hint]}, found {type(value).__name__}; fix: correct the value")
    return value


def pin_revision(recipe: Recipe, revision: str) -> None:
    """Set the commit hash of the recipe's only hub source.

    Raises:
        InputError: not a commit hash, or the recipe has no hub source or several.
    """
    hub_sources = [source for source in recipe.sources if source.hub is not None]
    if not is_commit(revision):
        raise InputError(
            f"revision={revision}: expected a full commit hash of 40 hex digits; fix: copy it from the hub"
        )
    if len(hub_sources) != 1:
        raise InputError(
            f"revision={revision}: the recipe has {len(hub_sources)} hub sources; "
            "fix: set revision: for each source in the recipe"
        )
    hub_sources[0].revision = revision
