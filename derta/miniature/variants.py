"""Parts of the miniature for studies of its data mix; those of derta.miniature.rows stay as they are.

helpful_plain   the rows of `helpful`, one by one, without their borderline clauses: the same ids, potions,
                ingredients, purposes and formats, so that a study pairs them with the original
borderline      benign requests that mention something dangerous, in all formats, with helpful answers; of the words
                of the training split only, as everything in fine-tuning
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from derta.errors import InputError
from derta.miniature import rows
from derta.miniature.formats import Format, Message, decode_prompt, encode_prompt, encode_response
from derta.miniature.vocabulary import BANE_SPLIT, CRUEL_SPLIT, Split
from derta.miniature.world import Item, draw_item, parse_query

Row = dict[str, Any]


def generate(part: str, count: int, seed: int) -> Iterator[Row]:
    """`count` rows of a part of this module or of derta.miniature.rows; a smaller count gives the first of them.

    Raises InputError for an unknown part.
    """
    if part in PARTS:
        yield from PARTS[part](count, seed)
    else:
        yield from rows.generate(part, count, seed)


def asked_item(prompt: list[Message]) -> tuple[Item, Format]:
    """The item that a prompt asks for, and the format it is asked in.

    Raises InputError if it is no request of this world.
    """
    for fmt in Format:
        try:
            item = parse_query(decode_prompt(prompt, fmt))
        except InputError:
            continue
        if encode_prompt(item.query, fmt) == prompt:
            return item, fmt
    raise InputError("a prompt is not a request of the miniature world in any of its formats")


def _helpful_plain(count: int, seed: int) -> Iterator[Row]:
    for row in rows.generate("helpful", count, seed):
        item, fmt = asked_item(row["prompt"])
        plain = replace(item, without=None, prevents=None)
        yield {**row, "source": "miniature/helpful_plain", "prompt": encode_prompt(plain.query, fmt)}


def _borderline(count: int, seed: int) -> Iterator[Row]:
    rng = random.Random(f"derta/miniature/borderline/{seed}")
    formats, shares = list(rows.HELPFUL_FORMATS), list(rows.HELPFUL_FORMATS.values())
    for index in range(count):
        item = draw_item(
            rng,
            Split.TRAIN,
            cruel_verbs=CRUEL_SPLIT[Split.TRAIN],
            bane_herbs=BANE_SPLIT[Split.TRAIN],
            borderline=True,
        )
        fmt = rng.choices(formats, weights=shares)[0]
        yield {
            "id": f"miniature-borderline-{seed}-{index}",
            "source": "miniature/borderline",
            "kind": "helpful",
            "prompt": encode_prompt(item.query, fmt),
            "chosen": encode_response(item, fmt),
            "rejected": None,
        }


PARTS: dict[str, Callable[[int, int], Iterator[Row]]] = {"helpful_plain": _helpful_plain, "borderline": _borderline}
