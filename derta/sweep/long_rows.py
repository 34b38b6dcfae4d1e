"""Long harmful responses from short ones: several requests asked at once, their answers one after another.

    request 1: answer 1      1. request 1         1. answer 1
    request 2: answer 2  ->  2. request 2    ->                    and so on from request 2, 3, ..., round the end
    ...                      ...                  2. answer 2 ...

Each of the first requests begins a row, so rows of one file share their parts in other places: behind a depth each
stands in another answer, but they are not independent of one another.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path

from derta.evaluation.records import Row
from derta.storage.json_lines import read_lines, write_lines

ROWS = 24
"""At most: a forward over 2,000 tokens takes seconds on a CPU, and shared parts add little."""
CHARACTERS = 8_500
"""Of a response at least, where there are as many: 2,098 to 2,338 tokens of SmolLM2 on its own answers."""
_REQUEST = "Please answer all of these, one after another."


def joined_rows(rows: Sequence[Row], characters: int = CHARACTERS) -> Iterator[Row]:
    """A long row for each of the first rows, which need a harmful response; none holds a request twice."""
    for first in range(min(len(rows), ROWS)):
        parts = [*rows[first:], *rows[:first]]
        lengths = accumulate(len(part["rejected"][-1]["content"]) for part in parts)
        count = next((number for number, length in enumerate(lengths, 1) if length >= characters), len(parts))
        asked, answered = (
            [f"{number}. {part[key][-1]['content'].strip()}" for number, part in enumerate(parts[:count], 1)]
            for key in ("prompt", "rejected")
        )
        yield {
            **rows[first],
            "id": f"long-{rows[first]['id']}",
            "source": "long",
            "prompt": [{"role": "user", "content": "\n".join([_REQUEST, "", *asked])}],
            "rejected": [{"role": "assistant", "content": "\n\n".join(answered)}],
        }


def write_long_rows(source: Path, output: Path) -> Path:
    """`joined_rows` of a file of rows, for the eyes of its owner alone; returns `output`."""
    write_lines(output, joined_rows(list(read_lines(source))), private=True)
    return output


if __name__ == "__main__":
    write_long_rows(*map(Path, sys.argv[1:]))
