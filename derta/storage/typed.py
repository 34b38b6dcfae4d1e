"""JSON files of ours, read into the dataclasses whose fields are their keys."""

import functools
from collections.abc import Hashable
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from derta.errors import InputError

Content = TypeVar("Content")


def read_typed(of: type[Content], file: Path, what: str) -> Content:
    """The content of a file; keys that it lacks have their defaults, keys that are unknown are left out.
    what: what the file is and how to make it again: "the summary of an evaluation; run the evaluation again".
    Raises InputError: not JSON, or a field that is missing or wrong, which is named. Raises OSError: it cannot be read.
    """
    try:
        return _adapter(cast(Hashable, of)).validate_json(file.read_bytes())
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        kind, _, remedy = what.partition("; ")
        raise InputError(f"{file}: not {kind} ({f'{where}: ' * bool(where)}{first['msg']}); {remedy}") from None


@functools.cache
def _adapter(of: Any) -> TypeAdapter[Any]:
    return TypeAdapter(of)
