"""A recipe (YAML), validated. Every key is described in data_recipes/README.md.

Each value is held against the constraint beside its field; then each part says in `problems` which of its values do not
go together or would do nothing. All that is found in one go is reported at once, each problem with its key, what was
expected, what to do, and the nearest known name. The file is long so that all keys of a recipe stand in one place.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PrivateAttr, StrictBool, StrictInt, ValidationError
from pydantic import model_validator as validator
from pydantic_core import ErrorDetails, PydanticCustomError

from derta.config.data import NGRAM
from derta.config.model import EndpointConfig
from derta.config.settings import hints, words
from derta.data.read_hub import is_commit
from derta.data.sources import ADAPTERS
from derta.errors import InputError
from derta.storage.places import describe
from derta.storage.read_yaml import read_yaml

_LATER_KEYS = ("borderline", "extended_refusal")


def nearest(name: str, known: Collection[str]) -> str:
    """A hint at the known name that is most like this one; empty where none is."""
    close = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean '{close[0]}'?)" if close else ""


def _problems(found: list[str]) -> PydanticCustomError:
    return PydanticCustomError("problems", "{found}", {"found": found})


def _known_adapter(name: str) -> str:
    if name not in ADAPTERS:
        raise _problems([f": unknown adapter '{name}'{nearest(name, ADAPTERS)}; fix: use one of {', '.join(ADAPTERS)}"])
    return name


def _comparable(value: Any) -> Any:
    """What a column can be compared with; YAML makes a date of 2024-01-01."""
    if value is not None and not isinstance(value, (str, int, float)):
        raise _problems([f": expected texts, numbers, true, false or null, found {describe(value)}; fix: quote it"])
    return value


Text = Annotated[str, Field(pattern=r"\S")]
Length = Annotated[StrictInt, Field(ge=0)]
Count = Annotated[StrictInt, Field(ge=1)]
Values = Annotated[list[Annotated[Any, AfterValidator(_comparable)]], Field(min_length=1)]


class Part(BaseModel):
    """Keys and values of a recipe, unknown keys refused."""

    model_config = ConfigDict(extra="forbid")

    def problems(self) -> list[str]:
        """Values that do not go together or do nothing, each as "key: what is wrong; fix: what to do"."""
        return []

    def idle(self, keys: Collection[str], without: str) -> list[str]:
        """The problem of keys that are given although they do nothing without another one."""
        given = [key for key in keys if key in self.model_fields_set and getattr(self, key) is not None]
        return [f"{key}: does nothing without {without}; fix: remove it, or give {without}" for key in given]

    @validator(mode="after")
    def _checked(self) -> Part:
        if found := self.problems():
            raise _problems([f".{problem}" for problem in found])
        return self


class Filters(Part):
    """What is dropped. Lengths are in characters after normalisation; None means no limit.

    duplicates: `prompt` leaves one row per normalised prompt, `row` one per prompt and responses, `keep` all.
    keep_values, drop_values: column of the source -> values to keep, or to drop.
    """

    min_prompt_chars: Length | None = None
    max_prompt_chars: Length | None = None
    min_response_chars: Length | None = None
    max_response_chars: Length | None = None
    safe_must_refuse: StrictBool = False
    harmful_must_not_refuse: StrictBool = False
    helpful_must_not_refuse: StrictBool = False
    duplicates: Literal["prompt", "row", "keep"] = "prompt"
    keep_values: dict[str, Values] = Field(default_factory=dict)
    drop_values: dict[str, Values] = Field(default_factory=dict)

    def problems(self) -> list[str]:
        found = []
        for what in ("prompt", "response"):
            low, high = getattr(self, f"min_{what}_chars"), getattr(self, f"max_{what}_chars")
            if low is not None and high is not None and low > high:
                found.append(f"min_{what}_chars: {low} is more than max_{what}_chars, {high}; fix: correct one of them")
        return found


class ExtendedRefusals(Part):
    """Refusals that say more (derta/data/extended_refusal.py): from `templates` (miniature) or from `file`.

    endpoint: a chat-completions server that is asked for the lines the file lacks; max_tokens: of one answer.
    missing: what happens to refusals without a line: `error`, or `keep` them as they are and count them.
    """

    templates: Literal["miniature"] | None = None
    file: Text | None = None
    endpoint: EndpointConfig | None = None
    max_tokens: Count = 512
    missing: Literal["error", "keep"] = "error"

    def problems(self) -> list[str]:
        found = []
        if (self.templates is None) == (self.file is None):
            found.append("templates: expected exactly one of templates and file; fix: give one of them")
        if self.file is None:
            found += self.idle(["missing", "endpoint"], "file:")
        if self.endpoint is None:
            found += self.idle(["max_tokens"], "endpoint:")
        else:
            empty = ["endpoint.url: empty; fix: give http://HOST:PORT/v1"]
            found += self.endpoint.problems("endpoint") if self.endpoint.url.strip() else empty
        return found


class Records(Part):
    """Where records come from: a file, directory or pattern (`path`), or a split of a `hub` dataset at one commit."""

    path: Text | None = None
    hub: Text | None = None
    config: Text | None = None
    revision: Text | None = None
    pin_on_build: StrictBool = False
    split: Text | None = None

    def problems(self) -> list[str]:
        """Exactly one of path and hub; a hub source is pinned and names its split."""
        if (self.path is None) == (self.hub is None):
            return ["path: expected exactly one of path and hub; fix: give a local path or a hub id"]
        if self.path is not None:
            extra = [key for key in ("revision", "split", "config") if getattr(self, key) is not None]
            extra += ["pin_on_build"] * self.pin_on_build
            return [f"{key}: only a hub source has one; fix: remove it, or use hub: instead of path:" for key in extra]
        found = []
        if self.split is None:
            found.append(f"split: expected the split of {self.hub} to read; fix: for example split: train")
        if self.revision is None:
            found.append(f"revision: expected a commit hash of {self.hub}; fix: pin it (data_recipes/README.md)")
        elif not is_commit(self.revision) and not self.pin_on_build:
            fix = "give a 40-digit commit hash, or pin_on_build: true to record the hash it has at build time"
            found.append(f"revision: '{self.revision}' can move; fix: {fix}")
        return found


class Source(Records):
    """One source. Exactly one of `path`, `hub` and `part` says where its records come from.

    columns: the adapter's name of a column -> the source's; null for one that is to be ignored.
    borderline: benign prompts that look harmful, with helpful responses; counted apart in the manifest, refusals among
    the responses are dropped, and training asks for a decontamination (derta/data/guard.py).
    """

    name: Text
    adapter: Annotated[str, AfterValidator(_known_adapter)]
    part: Text | None = None
    columns: dict[str, Text | None] = Field(default_factory=dict)
    filters: Filters = Field(default_factory=Filters)
    count: Count | None = None
    select: Literal["sample", "first"] = "sample"
    allow_fewer: StrictBool = False
    on_invalid: Literal["error", "drop"] = "error"
    seed: StrictInt | None = None
    licence: Text | None = None
    borderline: StrictBool = False
    extended_refusal: ExtendedRefusals | None = None

    def problems(self) -> list[str]:
        found = []
        if self.adapter == "miniature":
            if self.part is None or self.count is None or self.path or self.hub:
                found.append("part: the miniature adapter needs part: and count:, and no path or hub; fix: give both")
        elif self.part is not None:
            found.append("part: only the miniature adapter has parts; fix: use path: or hub:")
        else:
            found += super().problems()
        found += self._column_problems()
        if self.count is None:
            found += self.idle(["select", "allow_fewer", "seed"], "count:")
        if self.borderline and "helpful_must_not_refuse" in self.filters.model_fields_set:
            if not self.filters.helpful_must_not_refuse:
                found.append("filters.helpful_must_not_refuse: always true for borderline rows; fix: remove it")
        if self.extended_refusal and self.extended_refusal.templates and self.adapter != "miniature":
            found.append("extended_refusal.templates: for the miniature adapter alone; fix: use file: for other data")
        if self.hub and not self.licence:
            found.append(f"licence: expected the licence of {self.hub}; fix: copy it from its dataset page")
        return found

    def _column_problems(self) -> list[str]:
        adapter = ADAPTERS[self.adapter]
        known, found = [*adapter.columns, *adapter.optional, *adapter.somewhere], []
        for key, column in self.columns.items():
            if key not in known:
                found.append(f"columns: unknown column '{key}'{nearest(key, known)}; fix: use {', '.join(known)}")
            elif column is None and key in adapter.columns:
                problem = f"columns.{key}: the adapter '{self.adapter}' needs it"
                found.append(f"{problem}; fix: name the column that holds it")
        return found


class EvaluationPrompts(Records):
    """Prompts that must not occur in the training data; without `column` it is recognised (evaluation_prompts.py)."""

    column: Text | None = None

    @property
    def name(self) -> str:
        """How reports call the set: its path or hub id, and what tells it from others of the same."""
        origin = public_path(self.path) if self.path is not None else str(self.hub)
        return ":".join([origin, *(part for part in (self.config, self.split, self.column) if part)])


class Decontaminate(Part):
    """Drop rows whose prompt overlaps an evaluation prompt (derta/data/decontaminate.py)."""

    ngram: Count = NGRAM
    against: list[EvaluationPrompts]

    def problems(self) -> list[str]:
        if not self.against:
            return ["against: expected at least one entry; fix: add one, or remove decontaminate:"]
        names = [prompts.name for prompts in self.against]
        twice = sorted({name for name in names if names.count(name) > 1})
        return [f"against: '{name}' is named twice; fix: name it once" for name in twice]


class Recipe(Part):
    """A whole recipe. `holdout` is a fraction of the rows (below 1) or a number of rows.

    With `shuffle: false` rows keep the order of the sources (a curriculum); the hold-out is drawn at random all the
    same.
    """

    sources: list[Source]
    description: str = ""
    seed: StrictInt = 42
    shuffle: StrictBool = True
    holdout: Annotated[float, Field(ge=0, strict=True, allow_inf_nan=False)] = 0
    filters: Filters = Field(default_factory=Filters)
    decontaminate: Decontaminate | None = None
    _file: Path = PrivateAttr(default=Path("recipe.yaml"))

    @property
    def file(self) -> Path:
        """Where the recipe lies: relative paths start there. It is no part of the recipe's identity."""
        return self._file

    @property
    def against(self) -> list[EvaluationPrompts]:
        """The prompts that must not occur in the training data."""
        return self.decontaminate.against if self.decontaminate is not None else []

    def problems(self) -> list[str]:
        found = []
        if not self.sources:
            found.append("sources: expected at least one source, found none; fix: add one")
        if self.holdout >= 1 and self.holdout != int(self.holdout):
            found.append("holdout: expected a fraction below 1 or a whole number of rows; fix: correct the value")
        names = [source.name for source in self.sources]
        return found + [
            f"sources[{index}].name: expected a name that no other source has, found '{name}'; fix: rename it"
            for index, name in enumerate(names)
            if names.count(name) > 1
        ]

    def as_dict(self) -> dict[str, Any]:
        """The recipe as plain values, for the manifest: no absolute path is kept, only the last part of one."""
        values = self.model_dump()
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
    Raises InputError: no such recipe (with the nearest name), not YAML, or any problem with its contents, all listed.
    """
    path = next((p for p in (folder / f"{name}.yaml", Path(name), Path(f"{name}.yaml")) if p.is_file()), None)
    if path is None:
        known = sorted(file.stem for file in folder.glob("*.yaml"))
        fix = f"give a path to a YAML file or one of {', '.join(known)}"
        raise InputError(f"recipe={name}: no such recipe{nearest(name, known)}; fix: {fix}")
    return parse_recipe(read_yaml(path), path)


def parse_recipe(values: Any, path: Path) -> Recipe:
    """Plain YAML values to a recipe. Source filters are laid over the recipe's filters.
    Raises InputError: all problems of the values, or else all problems of how they go together."""
    common = values.get("filters") if isinstance(values, dict) else None
    if isinstance(values, dict) and isinstance(values.get("sources"), list) and isinstance(common, dict):
        sources = [
            {**source, "filters": {**common, **(source.get("filters") or {})}} if isinstance(source, dict) else source
            for source in values["sources"]
        ]
        values = {**values, "sources": sources}
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as error:
        problems = [sentence for one in error.errors(include_url=False) for sentence in _sentences(one)]
        raise InputError.listing(f"recipe {path} cannot be used:", problems) from None
    recipe._file = path
    for source in recipe.sources:
        if source.borderline:  # an answer that refuses is the very thing these rows are to unteach
            source.filters.helpful_must_not_refuse = True
    return recipe


_PARTS: dict[str, type[Part]] = {
    "sources": Source,
    "filters": Filters,
    "extended_refusal": ExtendedRefusals,
    "decontaminate": Decontaminate,
    "against": EvaluationPrompts,
}
_EXPECTED = {  # pydantic's name of an error -> what was expected, how to mend it
    "string_type": ("a text", "correct the value, or put it in quotes"),
    "string_pattern_mismatch": ("a text", "fill it, or leave the key out"),
    "int_type": ("a whole number", "correct the value"),
    "float_type": ("a number", "correct the value"),
    "finite_number": ("a finite number", "correct the value"),
    "bool_type": ("true or false", "correct the value"),
    "list_type": ("a list", "write [value, ...], or start each entry with '- '"),
    "too_short": ("at least one value", "name one, or leave the key out"),
    "invalid_key": ("a text as key", "put it in quotes"),
    "missing": ("a value", "add the key"),
    "greater_than_equal": ("{ge:g} or more", "correct the value"),
    "literal_error": ("{expected}", "use one of these"),
}


def _sentences(error: ErrorDetails) -> list[str]:
    """One of pydantic's errors as sentences with the dotted name of the key."""
    *parents, key = error["loc"] or ("",)
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error["loc"]).lstrip(".")
    context, kind, value = error.get("ctx", {}), error["type"], error["input"]
    if kind == "problems":
        return [f"{where}{problem}".lstrip(".") for problem in context["found"]]
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        part = next((one for one in reversed(parents) if isinstance(one, str)), "")
        known = hints(EndpointConfig) if part == "endpoint" else _PARTS.get(part, Recipe).model_fields
        return [f"{where}: unknown key{nearest(str(key), list(known))}; fix: use one of {', '.join(known)}"]
    expected, fix = _EXPECTED.get(kind, ("keys and values", "see data_recipes/README.md"))
    if "endpoint" in parents:
        expected, fix = words(hints(EndpointConfig)[str(key)]), "correct the value"
    found = "nothing" if kind == "missing" else describe(value, is_name=True)
    return [f"{where or 'the file'}: expected {expected.format_map(context)}, found {found}; fix: {fix}"]


def pin_revision(recipe: Recipe, revision: str) -> None:
    """Set the commit hash of the recipe's only hub source.
    Raises InputError: not a commit hash, or the recipe has no hub source or several."""
    hub_sources = [source for source in recipe.sources if source.hub is not None]
    if not is_commit(revision):
        expected = "a full commit hash of 40 hex digits"
        raise InputError(f"revision={revision}: expected {expected}; fix: copy it from the hub")
    if len(hub_sources) != 1:
        raise InputError(
            f"revision={revision}: the recipe has {len(hub_sources)} hub sources; "
            "fix: set revision: for each source in the recipe"
        )
    hub_sources[0].revision = revision
