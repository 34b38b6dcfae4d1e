"""The text of --help: every key with its value, its default, what it may hold, and the sentence below its field."""

import ast
import functools
import inspect
import sys
import textwrap
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from derta.config.settings import Settings, bare, hints, item_settings, plain, shown, words

_WIDTH = 120


def help_text(about: str, schema: type[Settings], groups: Mapping[str, list[str]], values: Mapping[str, Any]) -> str:
    """What a command does, its groups with their choices, and its keys.
    about: the command's docstring. values: of the composed configuration, nested and plain."""
    lines = [about.strip(), ""]
    if groups:
        lines += ["== Groups (group=choice) =="]
        lines += [line for name, choices in groups.items() for line in _paragraph(f"{name}: {', '.join(choices)}", "")]
        lines += [""]
    lines += ["== Keys (key=value), with the values of this configuration =="]
    lines += _keys(schema, values, schema(), "")
    return "\n".join([*lines, "", "--cfg job prints the configuration as YAML; --hydra-help is Hydra's own help."])


def _keys(schema: type[Settings], values: Mapping[str, Any], defaults: Settings, prefix: str) -> Iterator[str]:
    """The lines of all keys of some settings."""
    about = sentences(schema)
    for name, annotation in hints(schema).items():
        key, value, default = f"{prefix}{name}", values.get(name), getattr(defaults, name)
        if isinstance(default, Settings):
            yield from _paragraph(f"{key}: {about.get(name) or _docstring(type(default))}", "")
            yield from _keys(type(default), value or {}, default, f"{key}.")
            continue
        usual = "default" if value in (default, plain(default)) else f"default {shown(default)}"
        yield f"  {key}={shown(value)}  ({words(annotation)}; {usual})"
        kind = bare(annotation)
        is_enum = isinstance(kind, type) and issubclass(kind, Enum)
        yield from _paragraph(about.get(name) or (_docstring(kind) if is_enum else ""), "      ")
        if item := item_settings(annotation):
            yield from _keys(item, {}, item(), f"{key}.NAME.")


def _paragraph(text: str, indent: str) -> list[str]:
    return textwrap.wrap(" ".join(text.split()), _WIDTH, initial_indent=indent, subsequent_indent=indent)


def _docstring(kind: type) -> str:
    return inspect.getdoc(kind) or ""


def sentences(schema: type[Settings]) -> dict[str, str]:
    """What stands below each field in the source: the field's name, and the text."""
    found: dict[str, str] = {}
    for kind in reversed(schema.__mro__[:-1]):
        body = _classes(kind.__module__).get(kind.__name__, [])
        for node, below in zip(body, body[1:], strict=False):
            if (
                isinstance(node, ast.AnnAssign)
                and isinstance(below, ast.Expr)
                and isinstance(below.value, ast.Constant)
            ):
                found[ast.unparse(node.target)] = str(below.value.value)
    return found


@functools.cache
def _classes(module: str) -> dict[str, list[ast.stmt]]:
    source = Path(str(sys.modules[module].__file__)).read_text(encoding="utf-8")
    return {node.name: node.body for node in ast.parse(source).body if isinstance(node, ast.ClassDef)}
