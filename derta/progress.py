"""How far long work is, on stderr: a bar with the time left in a terminal, a line a minute in the log of a job."""

import sys
from typing import Any

from tqdm import tqdm

SECONDS = 60
"""Between two lines of a log; work that is done sooner leaves none."""


class _Lines:
    """Where tqdm would write over its own line, a line of its own."""

    def write(self, text: str) -> None:
        if line := text.strip():
            print(line, file=sys.stderr)

    def flush(self) -> None:
        sys.stderr.flush()


def progress(total: int, what: str, unit: str = "", *, shown: bool = True) -> Any:
    """A bar to `update`, to be used in a `with` block.

    Args:
        what: the stage. unit: what is counted. shown: False on ranks that keep silent.
    """
    unit = f" {unit}" if unit else ""
    if sys.stderr.isatty():
        return tqdm(total=total, desc=what, unit=unit, miniters=0, disable=not shown)
    line = "{desc}: {n_fmt} of {total_fmt}{unit}, {elapsed} gone, {remaining} left{postfix}"
    return tqdm(
        total=total, desc=what, unit=unit, miniters=0, disable=not shown,
        file=_Lines(), bar_format=line, delay=SECONDS, mininterval=SECONDS, maxinterval=SECONDS,
    )  # fmt: skip
