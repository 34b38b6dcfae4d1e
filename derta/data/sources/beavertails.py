"""BeaverTails: one response per record with a flag; a triple is made of a safe and a harmful response to one prompt.

The n-th safe response of a prompt is paired with its n-th harmful one, in the order of the file, so that every
response is used at most once; what is left over is counted as unpaired. All pairs of a prompt go on to the filters,
and the duplicate filter then keeps the first that survived.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping

from derta.data.normalise import normalise_text
from derta.data.sources.record import Adapter, Draft, Skip, View, triple
from derta.storage.places import Record

_SAFE_TEXT, _HARMFUL_TEXT = "safe_response", "harmful_response"


def _gather(records: Iterable[Record], columns: Mapping[str, str | None]) -> Iterator[Record | Skip]:
    """Pair the records of one prompt.

    A pair stands where its later record stands; bad records pass through to be reported.
    """
    waiting: dict[tuple[str, bool], deque[Record]] = {}
    for record in records:
        view = View(record.values, columns)
        prompt, response, safe = normalise_text(view.text("prompt")), view.text("response"), view.flag("is_safe")
        if view.problems:
            yield record
            continue
        partners = waiting.get((prompt, not safe))
        if not partners:
            waiting.setdefault((prompt, safe), deque()).append(record)
            continue
        partner_view = View(partners.popleft().values, columns)
        other = partner_view.text("response")
        texts = (response, other) if safe else (other, response)
        yield Record(record.place, {**record.values, _SAFE_TEXT: texts[0], _HARMFUL_TEXT: texts[1]})
    for left in waiting.values():
        for _ in left:
            yield Skip("no_partner_of_the_other_kind")


def _convert(view: View) -> Draft:
    prompt = view.text("prompt")
    view.text("response")
    view.flag("is_safe")
    return triple(prompt, view.get(_SAFE_TEXT) or "", view.get(_HARMFUL_TEXT) or "")


BEAVERTAILS = Adapter(
    columns=("prompt", "response", "is_safe"),
    convert=_convert,
    gather=_gather,
    summary="BeaverTails: pairs a safe and a harmful response to the same prompt",
)
