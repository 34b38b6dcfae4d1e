"""Formats of prompts with a safe and a harmful response: in one record, or as responses with safety flags."""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping

from derta.data.normalise import normalise_text
from derta.data.sources.record import Adapter, Draft, Skip, View, row
from derta.storage.places import Record

_SAFE_TEXT, _HARMFUL_TEXT = "safe_response", "harmful_response"


def flat_triple(prompt: str, safe: str, harmful: str) -> Adapter:
    """An adapter for three string columns, given as the names the format uses for them."""
    return Adapter((prompt, safe, harmful), lambda view: row(view.text(prompt), view.text(safe), view.text(harmful)))


def pku_saferlhf(view: View) -> Draft | Skip:
    """PKU-SafeRLHF: a triple from each record with exactly one safe response."""
    prompt = view.text("prompt")
    responses = view.text("response_0"), view.text("response_1")
    safe = view.flag("is_response_0_safe"), view.flag("is_response_1_safe")
    if not view.problems and safe[0] == safe[1]:
        return Skip("both_responses_safe" if safe[0] else "both_responses_harmful")
    chosen = 0 if safe[0] else 1
    return row(prompt, responses[chosen], responses[1 - chosen])


def pair_responses(records: Iterable[Record], columns: Mapping[str, str | None]) -> Iterator[Record | Skip]:
    """BeaverTails holds one response per record, with a flag; a triple is made of two responses to one prompt.

    The n-th safe response of a prompt is paired with its n-th harmful one, in the order of the file, so that every
    response is used at most once; what is left over is counted as unpaired. All pairs of a prompt go on to the filters,
    and the duplicate filter then keeps the first that survived. A pair stands where its later record stands; bad
    records pass through to be reported.
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
        other = View(partners.popleft().values, columns).text("response")
        texts = (response, other) if safe else (other, response)
        yield Record(record.place, {**record.values, _SAFE_TEXT: texts[0], _HARMFUL_TEXT: texts[1]})
    for left in waiting.values():
        for _ in left:
            yield Skip("no_partner_of_the_other_kind")


def beavertails(view: View) -> Draft:
    """A pair of `pair_responses`, or a bad record that it has let through."""
    prompt = view.text("prompt")
    view.text("response")
    view.flag("is_safe")
    return row(prompt, view.get(_SAFE_TEXT) or "", view.get(_HARMFUL_TEXT) or "")
