"""Settings that say beside each field what it may hold and what it means.

    @dataclass(kw_only=True, slots=True)
    class ObjectiveConfig(Settings):
        rto_dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
        '''Probability that a position of an RTO row carries no loss in an epoch.'''

pydantic checks the annotation; in words it is what --help and errors say ("a number, at least 0 and below 1"). A text
in the annotation stands in place of these words where there is more to say. What takes several fields to see is said
by `conflicts`, next to them.
"""

import difflib
import functools
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, fields
from enum import Enum
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from annotated_types import Ge, Gt, Le, MinLen, Predicate

Name = Callable[[str], str]
"""How a key below some settings reads to whoever gave it: objective.rto_dropout, or rto_dropout in Python."""
Path = tuple[str, ...]
SettingsT = TypeVar("SettingsT", bound="Settings")


def _filled(text: str) -> bool:
    return bool(text.strip())


Text = Annotated[str, Predicate(_filled)]
Count = Annotated[int, Ge(1)]
Whole = Annotated[int, Ge(0)]
Positive = Annotated[float, Gt(0)]
NotNegative = Annotated[float, Ge(0)]
Share = Annotated[float, Ge(0), Le(1)]


class Choice(Enum):
    """An Enum that reads as its value, also where `${objective.name}` is part of a path."""

    def __str__(self) -> str:
        return str(self.value)


class Settings:
    """Base of all settings; subclasses are `@dataclass(kw_only=True, slots=True)` with a default for every field."""

    __slots__ = ()
    __dataclass_fields__: ClassVar[dict[str, Any]]
    __pydantic_config__ = {"extra": "forbid", "coerce_numbers_to_str": True, "allow_inf_nan": False}

    def conflicts(self, key: Name) -> Iterator[str]:
        """What fields that are each in their range contradict, a message each; `key("field")` is how one reads."""
        yield from ()

    def problems(self, key: str | Name = "") -> list[str]:
        """Everything wrong with these settings and those within them, each with key, value and remedy.
        key: where they stand in a configuration ("eval.judging"), or how the keys below them read."""
        return checked(type(self), asdict(self), key)[1]


def checked(schema: type[SettingsT], tree: dict[str, Any], key: str | Name = "") -> tuple[SettingsT, list[str]]:
    """The settings that nested plain values make, and everything that is wrong with them.

    A value that cannot be used is taken out of `tree` and has its default, so that contradictions among the others are
    found, too.
    """
    name = named(key)
    adapter: Any = _adapter(schema)  # type: ignore[arg-type]  # a class is hashable
    problems, refused = [], []
    while wrong := _wrong(adapter, schema, tree):
        for path in wrong:
            shown = name(".".join(path))
            refused.append(shown)
            problems.append(shown + _refusal(schema, path, _pop(tree, path)))
    made = adapter.validate_python(tree)
    contradictions = [text for text in _conflicts(made, name) if not any(shown in text for shown in refused)]
    return made, problems + contradictions


def named(key: str | Name) -> Name:
    """How the keys below `key` read."""
    return key if callable(key) else lambda path: f"{key}.{path}" if key else path


def field_at(schema: type[Settings], place: Sequence[Any]) -> tuple[Path, Any]:
    """The field that a place in a tree of settings belongs to: its path, and its annotation (None: no such field)."""
    path: Path = ()
    annotation: Any = schema
    for part in place:
        kind = bare(annotation)
        if item := item_settings(annotation):
            annotation = item
        elif is_settings(kind):
            annotation = hints(kind).get(part)
        else:
            break
        path = (*path, part)
    return path, annotation


def keys(schema: type[Settings], path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Path and annotation of every key; one that the user names (of eval.sets) reads NAME."""
    for name, annotation in hints(schema).items():
        below = (*path, name)
        kind = bare(annotation)
        if is_settings(kind):
            yield from keys(kind, below)
        elif item := item_settings(annotation):
            yield from keys(item, (*below, "NAME"))
        else:
            yield below, annotation


def key_problem(schema: type[Settings], key: Sequence[str]) -> str:
    """Why there is nothing to set at `key`; empty where there is."""
    path, annotation = field_at(schema, key)
    if annotation is None:
        return no_such_key(schema, path[-1])
    if len(path) < len(key) and not is_mapping(schema, path):
        return no_such_key(schema, key[len(path)])
    return ""


def is_mapping(schema: type[Settings], key: Sequence[str]) -> bool:
    """Whether the user names the keys that stand below `key`."""
    return typing.get_origin(bare(field_at(schema, key)[1])) is dict


def no_such_key(schema: type[Settings], part: str) -> str:
    """What to say of a part of a key that is not there."""
    known = [path for path, _ in keys(schema)]
    parents = {path[:end] for path in known for end in range(1, len(path))}
    for paths in (known, sorted(parents)):
        near = difflib.get_close_matches(part, {path[-1] for path in paths}, 3)
        if close := [".".join(path) for path in paths if path[-1] in near]:
            break
    hint = f"did you mean {' or '.join(close[:3])}?" if close else "--help lists the keys"
    return f"no key {part!r}; {hint}"


def words(annotation: Any) -> str:
    """What a value of this annotation is: "null or a whole number, at least 1"."""
    kind, metadata = _split(annotation)
    if said := [item for item in metadata if isinstance(item, str)]:
        return said[-1]
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        options = typing.get_args(kind)
        null = ["null"] if type(None) in options else []
        return " or ".join(null + [words(option) for option in options if option is not type(None)])
    if typing.get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, typing.get_args(kind)))}"
    if typing.get_origin(kind) is list:
        empty = ", not empty" if any(isinstance(item, MinLen) for item in metadata) else ""
        return f"a list [first,second]{empty}, each {words(typing.get_args(kind)[0])}"
    if typing.get_origin(kind) is dict or is_settings(kind):
        return "a mapping"
    if isinstance(kind, type) and issubclass(kind, Enum):
        return f"one of {', '.join(member.name for member in kind)}"
    if kind is str:
        return "text that is not empty" if metadata else "text"
    return {bool: "true or false", int: "a whole number", float: "a number"}.get(kind, "a value") + _range(metadata)


def shown(value: Any) -> str:
    """A value as it is written on a command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(shown, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{name}:{shown(item)}' for name, item in value.items())}}}"
    text = value.name if isinstance(value, Enum) else str(value)
    return text if text and text.isprintable() and " " not in text else repr(text)


def bare(annotation: Any) -> Any:
    """The type itself, without null."""
    kind, _ = _split(annotation)
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        options = [option for option in typing.get_args(kind) if option is not type(None)]
        return bare(options[0]) if len(options) == 1 else kind
    return kind


def item_settings(annotation: Any) -> type[Settings] | None:
    """The settings that stand below names of the user's (of eval.sets), where it is such a field."""
    kind = bare(annotation)
    item = typing.get_args(kind)[1] if typing.get_origin(kind) is dict else None
    return item if is_settings(item) else None


def hints(schema: type[Settings]) -> dict[str, Any]:
    """Annotation of every field, in their order."""
    found = typing.get_type_hints(schema, include_extras=True)
    return {field.name: found[field.name] for field in fields(schema)}


@functools.cache
def _adapter(schema: type[Settings]) -> Any:
    """pydantic's reading of a schema."""
    from pydantic import TypeAdapter

    return TypeAdapter(schema)


def _wrong(adapter: Any, schema: type[Settings], tree: dict[str, Any]) -> list[Path]:
    """Fields whose values cannot be used, each once."""
    from pydantic import ValidationError

    truths = [field_at(schema, place) for place in _truths(tree)]
    if numbers := [path for path, annotation in truths if bare(annotation) in (int, float)]:
        return numbers  # pydantic takes true for 1
    try:
        adapter.validate_python(tree)
    except ValidationError as error:
        return list(dict.fromkeys(field_at(schema, found["loc"])[0] for found in error.errors(include_context=False)))
    return []


def _refusal(schema: type[Settings], path: Path, value: Any) -> str:
    annotation = field_at(schema, path)[1]
    if annotation is None:
        return f"={shown(value)}: {no_such_key(schema, path[-1])}"
    if isinstance(value, str) and not value.strip():
        return f" is empty: expected {words(annotation)}"
    null = "; null is not allowed here" if value is None else ""
    return f"={shown(value)}: expected {words(annotation)}{null}"


def _conflicts(settings: Settings, name: Name) -> Iterator[str]:
    def below(part: str) -> Name:
        return lambda path: name(f"{part}.{path}")

    for field in fields(settings):
        value = getattr(settings, field.name)
        within = value if isinstance(value, dict) else {"": value}
        for part, item in within.items():
            if isinstance(item, Settings):
                yield from _conflicts(item, below(f"{field.name}.{part}".rstrip(".")))
    yield from settings.conflicts(name)


def plain(value: Any) -> Any:
    """A configuration as what YAML and JSON can hold: dicts, lists and scalars, enum members by name."""
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def _truths(tree: dict[str, Any], path: Path = ()) -> Iterator[Path]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _truths(value, (*path, name))
        elif isinstance(value, bool):
            yield (*path, name)


def _pop(tree: dict[str, Any], path: Path) -> Any:
    for part in path[:-1]:
        tree = tree[part]
    return tree.pop(path[-1])


def _split(annotation: Any) -> tuple[Any, tuple[Any, ...]]:
    """The type itself, and what is said about it."""
    if typing.get_origin(annotation) is Annotated:
        return annotation.__origin__, annotation.__metadata__
    return annotation, ()


def is_settings(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Settings)


def _range(metadata: Sequence[Any]) -> str:
    bounds = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    said = [f"{say} {getattr(item, name)}" for item in metadata for name, say in bounds.items() if hasattr(item, name)]
    return (" " if said and said[0].startswith(("above", "below")) else ", " if said else "") + " and ".join(said)
