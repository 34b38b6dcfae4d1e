"""The reference repository's training JSONL: already expanded rows of raw text.

Their `safe` column is a string with an inverted sense: "true" marks an RTO row (its text is the *harmful* response)
and "false" an MLE row. It is read here and nowhere else; every other value is refused, because a guess would train on
harmful text.
"""

from __future__ import annotations

from derta.data.sources.record import Adapter, Draft, Skip, View, raw_text
from derta.storage.places import describe


def _convert(view: View) -> Draft | Skip:
    prefix, text = raw_text(view.text("prefix")), raw_text(view.text("text"))
    safe = view.require("safe")
    if safe == "true":
        return {"kind": "safety", "prompt": prefix, "chosen": None, "rejected": text}
    if safe != "false" and not any(problem.field == view.column("safe") for problem in view.problems):
        view.note(
            "safe",
            "wrong_safe_value",
            'the string "true" (an RTO row) or "false" (an MLE row)',
            describe(safe, is_name=True),
            'write one of these two strings (the reference repository\'s format; "true" marks the harmful text)',
        )
    return {"kind": "helpful", "prompt": prefix, "chosen": text, "rejected": None}


DERTA_TRAIN = Adapter(
    columns=("prefix", "text", "safe"),
    convert=_convert,
    summary='expanded raw-text rows of the reference repository; safe "true" = RTO row, "false" = MLE row',
)
