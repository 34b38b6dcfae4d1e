"""Build a dataset: python launch/build_data.py recipe=NAME output=DIR [key=value ...]

recipe      a recipe of data_recipes/ or a path to a YAML file
output      the directory to make; it appears only when it is complete
workers     processes for converting rows (default 1; the files are the same for any number)
overwrite   true: replace the dataset that is at output
limit       at most this many rows per source, for a quick look
revision    commit hash of the hub source (for recipes with exactly one)
"""

from __future__ import annotations

import sys
from pathlib import Path

from derta.config.shipped import RECIPES
from derta.errors import InputError

KEYS = ("recipe", "output", "workers", "overwrite", "limit", "revision")


def main(arguments: list[str]) -> None:
    """Parse key=value arguments, build, and print where the rows went."""
    if not arguments or {"-h", "--help"} & set(arguments):
        print(f"{__doc__}\nrecipes: {', '.join(sorted(path.stem for path in RECIPES.glob('*.yaml')))}")
        return
    from derta.data.arguments import parse_arguments

    given = parse_arguments(arguments, KEYS, required=("recipe", "output"))
    from derta.data.build import build
    from derta.data.manifest import as_table
    from derta.data.recipe import load_recipe, pin_revision

    recipe = load_recipe(given.text("recipe"), RECIPES)
    if given.has("revision"):
        pin_revision(recipe, given.text("revision"))
    output = Path(given.text("output"))
    result = build(
        recipe,
        output,
        workers=given.whole_number("workers") or 1,
        overwrite=given.flag("overwrite"),
        limit=given.whole_number("limit"),
        progress=True,
    )
    print(f"{'already built' if result.already_built else 'built'}: {output}")
    print(as_table(result.manifest))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
