"""Rows of the fictional miniature world: generated, not read, but through the same builder as everything else."""

from collections.abc import Iterator
from pathlib import Path

from derta.data.sources.record import Draft, View
from derta.storage.places import Place, Record

COLUMNS = ("kind", "prompt", "chosen", "rejected")
_GENERATOR = ("formats", "rows", "vocabulary", "world")  # the modules of derta.miniature that decide what rows hold


def generate(part: str, count: int, seed: int) -> Iterator[Record]:
    """The records of one part of the miniature, in the row schema."""
    from derta.miniature import variants

    for number, row in enumerate(variants.generate(part=part, count=count, seed=seed), start=1):
        yield Record(Place(f"miniature:{part}", number, "row"), row)


def generator_files(part: str, extended: bool) -> list[Path]:
    """The source files of the generator: they are this source's input, so that changed code means changed data."""
    from derta import miniature
    from derta.miniature.variants import PARTS

    further = ["variants"] * (part in PARTS or extended) + ["extended"] * extended
    return [Path(miniature.__path__[0]) / f"{name}.py" for name in (*_GENERATOR, *further)]


def convert(view: View) -> Draft:
    return {name: view.require(name) for name in COLUMNS}  # type: ignore[return-value]
