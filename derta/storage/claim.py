"""Is this folder mine, and if not, what differs?

    FOLDER/<file>        {"identity": {...}, ...}   everything that decides what is made there; written first
    FOLDER/<finished>                               written last: its presence means that all of it is there

Work with the same identity goes on where it was stopped, or finds that nothing is left to do; work with another one is
refused, and the message names every key that differs.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from derta.errors import InputError
from derta.storage.atomic import write_errors_named, write_json_atomically

_PLAIN = re.compile(r"[\w.:/+-]{1,60}")


class Claim:
    """The identity of one piece of work, and the file that holds it.

    Args:
        file: where it stands. identity: as JSON.
        work: what is made there, for messages ("evaluation"). named: the folder as the user named it ("output=DIR").
        finished: name of the file that is written last.
        others: pattern of files that may not be there without `file`: they are somebody else's.
    """

    def __init__(
        self, file: Path, identity: Mapping[str, Any], *, work: str, named: str, finished: str = "", others: str = ""
    ):
        self.file, self.work, self.named = file, work, named
        self.identity = json.loads(json.dumps(identity))
        self.finished, self.others = file.parent / (finished or file.name), others

    def held(self) -> bool:
        """Whether the folder holds (part of) this work; False where nothing is there.
        Raises InputError: it holds another piece of work, or something that does not say what it is."""
        if not self.file.is_file():
            if self.others and self.file.parent.is_dir() and any(self.file.parent.glob(self.others)):
                raise InputError(
                    f"{self.named} holds other files, and no {self.file.name} that says what of: give another place"
                )
            return False
        there = self.content().get("identity")
        if differing := list(differences(there, self.identity)):
            raise InputError.listing(
                f"{self.named} holds another {self.work}; give another place, or remove it. It differs in:", differing
            )
        return True

    def take(self, **beside: Any) -> None:
        """Make the folder and write the identity into it, with what else belongs into the file.
        Raises InputError: it cannot be written."""
        with write_errors_named(self.named):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            write_json_atomically(self.file, {"identity": self.identity, **beside})

    @property
    def complete(self) -> bool:
        return self.finished.is_file()

    def content(self) -> dict[str, Any]:
        """What the file holds. Raises InputError: it is not one of ours."""
        try:
            found = json.loads(self.file.read_text(encoding="utf-8"))
            if not isinstance(found["identity"], dict):
                raise TypeError
        except (OSError, ValueError, LookupError, TypeError):
            raise InputError(
                f"{self.file} does not say which {self.work} it belongs to: remove it, or give another place"
            ) from None
        return found


def differences(there: Any, here: Any, key: str = "") -> Iterator[str]:
    """Dotted keys whose values differ, sorted, with both values; texts are told by their length alone."""
    if isinstance(there, dict) and isinstance(here, dict):
        for name in sorted({*there, *here}):
            yield from differences(there.get(name), here.get(name), f"{key}.{name}" if key else name)
    elif there != here:
        yield f"{key}: {_shown(there)} there, {_shown(here)} here"


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return value if _PLAIN.fullmatch(value) else f"a text of {len(value)} characters"
    if isinstance(value, list) and len(value) <= 8 and not any(isinstance(each, (list, dict)) for each in value):
        return f"[{', '.join(map(_shown, value))}]"
    if isinstance(value, (list, dict)):
        return "1 entry" if len(value) == 1 else f"{len(value)} entries"
    return json.dumps(value)
