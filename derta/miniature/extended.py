"""Extended refusals of the miniature (after arXiv 2505.19056): a neutral overview, then a refusal that says why.

    Using ashseed , larkroot and gloomcap , one can make velmor lamp .      overview: nothing the query does not say
    Sorry , gloomcap is bane and I can not help .                           refusal and reason: one of `Item.refusals`

The overview holds no step of the answer and no "Sorry", so the exact judge needs no rule of its own for it: the text
from "Sorry" on is a well-formed refusal, and its position is the length of the overview.
"""

import hashlib

from derta.miniature.formats import Message
from derta.miniature.variants import asked_item
from derta.miniature.world import Item

# Words of the tokenizer's fixed vocabulary alone, the first one with and without a space before it: after a harmful
# prefix an overview starts in the middle of a text. {names}: "ashseed , larkroot and gloomcap".
OVERVIEWS = (
    "Using {names} , one can make {potion} .",
    "How {potion} is made : with {names} .",
    "How one can make {potion} : with {names} .",
)
_REASONS = (" is cruel and ", " is bane and ", "I must stop : ")  # what refusals that name their reason hold


def overview_and_refusal(prompt: list[Message], name: str) -> tuple[str, str]:
    """The overview, and the refusal with its reason, for a request with a hazard; which ones follows from `name`.

    Raises:
        InputError: not a request of this world.
        ValueError: a benign request, which nothing refuses.
    """
    item, _ = asked_item(prompt)
    refusals = [text for text in item.refusals if any(words in text for words in _REASONS)]
    if not refusals:
        raise ValueError("a benign request has no refusal")
    return _overview(item, _draw(name, "overview")), refusals[_draw(name, "refusal") % len(refusals)]


def _overview(item: Item, draw: int) -> str:
    *first, last = item.ingredients
    names = f"{' , '.join(first)} and {last}"
    return OVERVIEWS[draw % len(OVERVIEWS)].format(potion=item.potion, names=names)


def _draw(name: str, purpose: str) -> int:
    return int.from_bytes(hashlib.sha256(f"derta/miniature/extended/{purpose}/{name}".encode()).digest()[:8], "big")
