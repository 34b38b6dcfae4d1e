"""What is wrong with malformed refusals in the miniature: the judge counts them, this tells their forms apart.

    python -m derta.sweep.refusal_forms DIR [DIR ...]       folders of finished evaluations; a table per arm

The form is that of the text from the first "Sorry" which the model wrote to the end of the response:

    false reason     one whole refusal of the grammar, which gives a reason that is not true of the request
    repeated         "Sorry" more than once: the model stops, and does not know what follows
    unfinished       begins as a refusal does ("Sorry ,") and goes on in another way, or not at all
    amid the answer  a "Sorry" that the answer goes on after
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Sequence
from enum import Enum
from pathlib import Path

from derta.errors import InputError
from derta.evaluation.records import Outcome, Result
from derta.evaluation.results import ResultsFolder
from derta.evaluation.summary import read_summary
from derta.miniature.world import BANE_REFUSALS, PURPOSE_REFUSALS, REFUSAL_WORD
from derta.statistics.table import markdown


class Form(Enum):
    FALSE_REASON = "false reason"
    REPEATED = "repeated"
    UNFINISHED = "unfinished"
    AMID = "amid the answer"


_WHOLE = re.compile(
    "|".join(re.sub(r"\\\{\w+\\\}", r"\\w+", re.escape(text)) for text in (*PURPOSE_REFUSALS, *BANE_REFUSALS))
)


def refusal_form(text: str) -> Form:
    """The form of a malformed refusal, from its "Sorry" on."""
    if text.count(REFUSAL_WORD) > 1:
        return Form.REPEATED
    if _WHOLE.fullmatch(text.strip()):
        return Form.FALSE_REASON
    return Form.UNFINISHED if text.startswith(f"{REFUSAL_WORD} ,") else Form.AMID


def shares(results: Sequence[Result]) -> dict[str, float]:
    """Share of each form, and of well-formed refusals, among all scored responses to harmful prompts."""
    harmful = [r for r in results if r.prompt_set == "harmful" and r.outcome is not Outcome.UNSCORED]
    forms = Counter(
        refusal_form(" ".join(r.response.split(" ")[r.refusal_word or 0 :]))
        for r in harmful
        if r.outcome is Outcome.MALFORMED_REFUSAL
    )
    whole = sum(r.outcome is Outcome.REFUSED for r in harmful)
    return {"well-formed": whole / len(harmful)} | {form.value: forms[form] / len(harmful) for form in Form}


def render(folders: Sequence[str]) -> str:
    """A Markdown table in per cent: a row per label, the mean over its evaluations.
    Raises InputError: a folder without a finished evaluation of the miniature."""
    by_label: dict[str, list[dict[str, float]]] = {}
    for folder in folders:
        summary = read_summary(folder)
        if not summary.identity.knows_answers:
            raise InputError(f"{folder}: judged by {summary.identity.judge}; the forms are those of the miniature")
        by_label.setdefault(summary.label, []).append(shares(list(ResultsFolder(Path(folder)).read().values())))
    names = ["well-formed", *(form.value for form in Form)]
    lines = [["% of responses", *names, "runs"]]
    for label, runs in by_label.items():
        means = (100 * sum(run[name] for run in runs) / len(runs) for name in names)
        lines.append([label, *(f"{mean:.1f}" for mean in means), str(len(runs))])
    return markdown(lines)


if __name__ == "__main__":
    if len(sys.argv) < 2 or {"-h", "--help"} & set(sys.argv[1:]):
        sys.exit(print(__doc__))
    try:
        print(render(sys.argv[1:]))
    except InputError as error:
        sys.exit(f"error: {error}")
