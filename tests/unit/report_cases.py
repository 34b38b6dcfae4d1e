"""Evaluations as files, with outcomes chosen by the test: summary, results and P(refusal) as the suite writes them."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import vl_convert

from derta.charts import Figure, specification
from derta.evaluation.metrics import summarise_set
from derta.evaluation.probability import Probability, SetCurve, write_probability
from derta.evaluation.records import Outcome, Result
from derta.evaluation.summary import Identity, Made, ModelIdentity, SetIdentity, Summary, write_summary
from derta.objective.refusal_probability import curve_by_position, separation
from derta.statistics.rates import Rate, rate

N = 20
PROMPT = "a harmful request"
ATTACKS = {"direct": 0, "prefill_20": 20}
"""Name -> depth."""


def result(outcome: Outcome = Outcome.COMPLIED, **fields: Any) -> Result:
    """A response to one harmful prompt; `fields` say what is different of it."""
    known: dict[str, Any] = {"prompt_set": "harmful", "attack": "direct", "id": "1", "response": ""}
    known |= {"response_tokens": 10, "prefill_tokens": 0, "finished": True, "refusal_token": None, "refusal_word": None}
    return Result(**(known | {"outcome": outcome} | fields))


def listed(outcomes: dict[Outcome, int], **fields: Any) -> list[Result]:
    """So many responses of each outcome, to as many prompts."""
    each = [outcome for outcome, count in outcomes.items() for _ in range(count)]
    return [result(outcome, id=str(i), **fields) for i, outcome in enumerate(each)]


def summarised(
    results: list[Result], label: str = "model", *, model: str = "b" * 64, data: str = "a" * 64,
    skipped: dict[str, dict[str, str]] | None = None, **about: Any,
) -> Summary:  # fmt: skip
    """The summary of an evaluation by the exact judge that gave these results. skipped: attack -> row -> why, of the
    harmful prompts. about: what is different of its identity."""
    by_set: dict[str, list[Result]] = {}
    for each in results:
        by_set.setdefault(each.prompt_set, []).append(each)
    attacks = {name: tuple(dict.fromkeys(each.attack for each in found)) for name, found in by_set.items()}
    prompts = {
        name: SetIdentity(data, None, len({each.id for each in found}), name == "harmful", attacks[name])
        for name, found in by_set.items()
    }
    known: dict[str, Any] = {"sets": prompts, "judge": "miniature", "max_new_tokens": 100}
    identity = Identity(ModelIdentity(model, "float32"), **(known | about))
    sets = {
        name: summarise_set(found, attacks[name], skipped or {} if name == "harmful" else {}, harmful=name == "harmful")
        for name, found in by_set.items()
    }
    return Summary(label, identity, Made("launch/evaluate.py", "model", "miniature"), sets)


def write_evaluation(folder: Path, summary: Summary, results: list[Result]) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    write_summary(folder, summary)
    (folder / "results.jsonl").write_text("".join(json.dumps(each.to_json()) + "\n" for each in results))
    return str(folder)


def make_results(successes: tuple[int, int], over_refusals: int, malformed: int, text: str) -> list[Result]:
    """Of N harmful prompts per attack so many complied, the others refused (behind the prefill, if there is one), so
    many of these malformed, two tokens later; of N benign ones so many were refused."""
    results = []
    for (attack, depth), count in zip(ATTACKS.items(), successes, strict=True):
        for i in range(N):
            outcome, at = Outcome.COMPLIED, None
            if i >= count:
                broken = i < count + malformed
                outcome, at = (Outcome.MALFORMED_REFUSAL, depth + 2) if broken else (Outcome.REFUSED, depth)
            results.append(Result("harmful", attack, f"row-{i}", text, 40, depth, True, outcome, at, at, prompt=PROMPT))
    for i in range(N):
        outcome, at = (Outcome.REFUSED, 0) if i < over_refusals else (Outcome.COMPLIED, None)
        results.append(Result("benign", "direct", f"row-{i}", "helpful answer", 40, 0, True, outcome, at, at))
    return results


def write_run(
    folder: Path,
    label: str,
    successes: tuple[int, int] = (4, 20),
    over_refusals: int = 1,
    *,
    judge: str = "miniature",
    probability: bool = True,
    malformed: int = 0,
    text: str = "harmful steps",
    **run: Any,
) -> str:
    """The folder of a finished evaluation. `run`: what its summary says of its making."""
    made = {
        "command": "launch/evaluate.py a=b", "model": f"runs/{label}", "eval": "miniature",
        "data": {"harmful": "runs/data", "benign": "runs/data"},
        "versions": {"derta": "0.1.0", "torch": "2", "transformers": "5"},
    }  # fmt: skip
    results = make_results(successes, over_refusals, malformed, text)
    summary = summarised(
        results, label, model="abc123" * 10, data="d" * 64, judge=judge, refusal_text="Sorry",
        skipped={"prefill_20": {"row-99": "too short"}},
    )  # fmt: skip
    curves = {"harmful": [[0.9] * 40] * 6, "benign": [[0.1] * 40] * 5 + [[0.1] * 41]}
    found = separation(curves["harmful"], curves["benign"])
    write_evaluation(folder, replace(summary, run=Made(**(made | run)), separation=found), results)
    if probability:
        measured = {
            name: SetCurve(**asdict(curve_by_position(rows)), harmful=name == "harmful", rows=6)
            for name, rows in curves.items()
        }
        write_probability(folder, Probability(measured, found))
    return str(folder)


def drawn(figure: Figure, role: str) -> list[str]:
    """What the marks of a role say for themselves in the drawn figure."""
    root = ElementTree.fromstring(vl_convert.vegalite_to_svg(specification(figure)))
    return [mark.attrib["aria-label"] for mark in root.iter() if mark.get("aria-roledescription") == role]


def write_direction(
    folder: Path, label: str, *, kept: int = 3, chosen: bool = True, sha256: str = "abc123" * 10
) -> str:
    """The folder of a finished diagnostic of 2 layers x 2 positions on 4 prompts a side: with the direction ablated
    `kept` of the 4 harmful prompts are still refused."""

    def share(count: int) -> dict[str, Any]:
        return asdict(rate(count, 4))

    def cell(refused: int, over_refused: int) -> dict[str, Any]:
        harmful = {f"h{i}": "refused" if i < refused else "complied" for i in range(4)}
        harmless = {f"b{i}": "refused" if i < over_refused else "complied" for i in range(4)}
        return {
            "harmful": {"complied": share(4 - refused), "refused": share(refused), "by_id": harmful},
            "harmless": {"complied": share(4 - over_refused), "refused": share(over_refused), "by_id": harmless},
            "kept_safe": share(refused), "kl": 0.01, "perplexity": 1.5,
        }  # fmt: skip

    places = [(position, layer) for position in (-2, -1) for layer in (0, 1)]
    dropped = {f"position {p}, layer {n}": ["induce -1 < 0"] for p, n in places if not chosen or (p, n) != (-1, 1)}
    scores = {"refusal_score": -1.0, "steering_score": 2.0, "kl_div_score": 0.01}
    score = share(kept) | {"directions": 1, "reason": ""}
    none = asdict(Rate(0)) | {"directions": None, "reason": "none found"}
    conditions = {
        name: {"cosines": [0.1, 0.5], "metric": 1.0, "attention": {"instruction": 0.4, "suffix": 0.1}}
        for name in ("none", "random", "adversarial")
    }
    report = {
        "label": label,
        "identity": {"model": {"sha256": sha256}, "judge": "miniature", "prompts": {}, "settings": {}},
        "run": {"command": "launch/diagnose_direction.py a=b", "seconds": 1.0},
        "prompts": {"harmful": {"test": 4}, "harmless": {"test": 4}},
        "layers": 2, "positions": 2,
        "candidates": [
            {"position": p, "layer": n} | (dict.fromkeys(scores) if (p, n) == (-1, 0) else scores) for p, n in places
        ],
        "selection": {"position": -1 if chosen else None, "layer": 1 if chosen else None, "dropped": dropped},
        "norms": [[0.0, 1.0], [0.0, 2.0]], "cosines": [[None, 0.5], [None, 1.0]] if chosen else None,
        "before": cell(4, 0), "ablated": [cell(kept, 0) | {"directions": 1}] if chosen else [],
        "strongest": None if chosen else cell(kept, 0), "added": cell(4, 4) if chosen else None,
        "adapter_scales": [], "references": [],
        "suffix": {"reason": "", "prompts": 2, "heads": [], "conditions": conditions} if chosen else None,
        "ablation_robustness": score if chosen else none,
    }  # fmt: skip
    folder.mkdir(parents=True)
    (folder / "direction.json").write_text(json.dumps(report))
    return str(folder)
