"""Do prompts overlap evaluation prompts? python launch/check_contamination.py data=FILE_OR_DIR against=FILE[,FILE]

data        what would be trained on: any data file, or a directory of them (a built dataset)
against     evaluation sets: files or directories, separated by commas (XSTest, OR-Bench, HarmBench, ... or a dataset)
ngram       consecutive words that make an overlap (default 8)
column      the column of the prompts in `data` where it is not recognised
output      a JSON file for the report: counts and the ids or places of overlapping rows, never text

Exit code 0: no overlap; 1: overlap; 2: something cannot be read.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from derta.errors import InputError

KEYS = ("data", "against", "ngram", "column", "output")


def main(arguments: list[str]) -> int:
    """Compare, print what was found, and give the exit code."""
    if not arguments or {"-h", "--help"} & set(arguments):
        print(__doc__)
        return 0
    from derta.config.data import NGRAM
    from derta.data.arguments import parse_arguments
    from derta.data.decontaminate import find_overlaps
    from derta.data.evaluation_prompts import read_prompt_rows
    from derta.data.guard import describe_overlaps, read_sets
    from derta.data.manifest import overlap_report

    given = parse_arguments(arguments, KEYS, required=("data", "against"))
    sets = read_sets(given.text("against").split(","))
    rows = read_prompt_rows(given.text("data"), given.values.get("column"))
    found = find_overlaps(rows, {one.name: one.prompts for one in sets}, given.whole_number("ngram") or NGRAM)
    print(f"{found.rows} rows against {sum(len(one.prompts) for one in sets)} prompts of {len(sets)} sets")
    print(describe_overlaps(found) if found.ids else "no overlap")
    if given.has("output"):
        sets_entry = [{"name": one.name, "prompts": len(one.prompts), "sha256": one.sha256} for one in sets]
        report = {"against": sets_entry, **overlap_report(found)}
        Path(given.text("output")).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 1 if found.ids else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
