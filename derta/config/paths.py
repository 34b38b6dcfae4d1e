"""Paths and other texts on a command line: `~/`, which neither Hydra nor most libraries expand, `~` alone, which is
YAML's null, and signs that Hydra reads as more than text."""

import os
import re
from dataclasses import fields, is_dataclass
from typing import TypeVar

ValueT = TypeVar("ValueT")

_PLAIN = re.compile(r"(?!(null|true|false|nan|inf)$)(?=.*[a-z/])(?!\d[\d.]*e)[\w./-]+", re.IGNORECASE)
_HOME, _NULL = re.compile(r"(?<=[=\[,])~(?=/)"), re.compile(r"(?<=[=\[,])~(?=[,\]]|$)")


def quoted(value: object) -> str:
    """A value as Hydra takes it on a command line, whatever signs are in it."""
    text = str(value)
    return text if _PLAIN.fullmatch(text) else "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def home_in_argument(argument: str) -> str:
    """key=~/x and key=[~/x,~/y] with the home directory written out, and key=~ as key=null: Hydra's grammar has no `~`
    in a value. key='~' is the sign itself."""
    return _NULL.sub("null", _HOME.sub(lambda _: os.path.expanduser("~"), argument))


def expand_home(value: ValueT) -> ValueT:
    """The same configuration, changed in place: every text that begins with `~/` with the home directory."""
    if isinstance(value, str) and value.startswith("~/"):
        return type(value)(os.path.expanduser(value))
    if isinstance(value, list):
        value[:] = [expand_home(item) for item in value]
    elif isinstance(value, dict):
        value.update({key: expand_home(item) for key, item in value.items()})
    elif is_dataclass(value):
        for field in fields(value):
            setattr(value, field.name, expand_home(getattr(value, field.name)))
    return value
