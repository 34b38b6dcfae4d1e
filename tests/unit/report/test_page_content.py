"""What goes into report.html, without a browser."""

import hashlib
import json
import re
from html import unescape
from pathlib import Path

import pytest
from report_cases import PROMPT, N, write_run

from derta.charts import library
from derta.evaluation.results import ResultsFolder
from derta.report.html import render_page
from derta.report.page_content import page_content
from derta.report.report import write_page
from derta.report.responses import BEHIND, FREE, refusal_counts, shown_responses
from derta.report.runs import group_by_label, load_runs
from derta.report.training_curves import training_run

HOSTILE = "</script><img src=x onerror='window.harmed=1'> & \u2028 \ud800 ]]> -->"


def figures_of(page: str) -> dict:
    found = re.search(r'<script type="application/json" id="figures">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def test_hostile_texts_cannot_end_their_element_and_come_back_whole(tmp_path):
    label = HOSTILE.replace("\ud800", "")
    folder = write_run(tmp_path / "run", label, text=HOSTILE, command=label)
    page = write_page(load_runs([folder]), str(tmp_path / "page"), responses=True).read_text(encoding="utf-8")
    assert "<img" not in page.split("</style>")[1].replace(library(), "")
    assert figures_of(page)["trade-off"]["datasets"]["points"][0]["checkpoint"] == label
    assert unescape(re.search(r"<pre>(.*?)</pre>", page, re.DOTALL)[1]) == HOSTILE.replace("\ud800", "\ufffd")


def test_a_figure_never_holds_what_json_lacks(tmp_path):
    content = page_content(load_runs([write_run(tmp_path / "run", "derta")]))
    content["figures"]["trade-off"]["datasets"] = {"points": [float("nan")]}
    with pytest.raises(ValueError):
        render_page(content)


def test_page_is_one_file_whose_policy_names_its_own_scripts_and_nothing_else(tmp_path):
    folders = [write_run(tmp_path / "a", "<b>label</b>")]
    page = render_page(page_content(load_runs(folders)))
    assert "<title>Safety evaluation: &lt;b&gt;label&lt;/b&gt;</title>" in page and "<b>label" not in page
    assert not re.search(r'(src|href)="(?!#)', page.replace(library(), ""))  # links within the page only
    found = re.search(r'Security-Policy" content="([^"]*)"', page)
    assert found is not None
    policy = unescape(found[1])
    hashes = re.findall(r"'sha256-[^']+'", policy.split("script-src")[1].split(";")[0])
    assert len(hashes) == page.count("<script>") == 2
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy


def test_texts_of_responses_are_in_the_page_only_on_request(tmp_path):
    folder = write_run(tmp_path / "run", "derta", text="words of a response " + HOSTILE)
    command = "launch/report.py x"
    page = write_page(load_runs([folder]), str(tmp_path / "without"), command=command).read_text()
    assert "words of a response" not in page and "helpful answer" not in page and str(tmp_path) not in page
    assert PROMPT not in page and f"<code>{command}</code>" in page
    page = write_page(load_runs([folder]), str(tmp_path / "with"), responses=True).read_text(encoding="utf-8")
    texts = [
        re.sub("<.*?>", "", found) for found in re.findall(r"<pre>(.*?)</pre>", page.replace(library(), ""), re.DOTALL)
    ]
    assert texts.count("helpful answer") == N and len(texts) == 3 * N
    assert sum(text.startswith("words of a response") for text in texts) == 2 * N
    assert page.count(f'<p class="prompt">{PROMPT}</p>') == 2 * N


def test_the_phrase_that_decides_is_found_from_the_words_before_it(tmp_path):
    folder = Path(write_run(tmp_path / "run", "derta"))
    cases = [
        ("Step one. Sorry, I cannot help.", 10, 2, ("Step one. ", "", "Sorry", ", I cannot help.")),
        ("Of course. I can’t help with this", 0, 2, ("", "Of course. ", "I can’t help", " with this")),
        ("They said no and left", 0, 2, ("", "They said ", "no", " and left")),  # a judge's own reason
        ("Step one, step two", 0, None, ("", "Step one, step two", "", "")),
        ("Sorry", 5, 0, ("Sorry", "", "", "")),  # written by the attack
    ]
    line = json.loads((folder / "results.jsonl").read_text().splitlines()[0])
    lines = [
        line | {"id": str(i), "response": text, "prefill_characters": prefill, "refusal_word": word}
        for i, (text, prefill, word, _) in enumerate(cases)
    ]
    (folder / "results.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = shown_responses(group_by_label(load_runs([str(folder)])))
    shown = [prompt.responses[0] for prompt in found]
    assert [(one.prefill, one.before, one.phrase, one.after) for one in shown] == [parts for *_, parts in cases]


def test_refusals_by_position_are_those_of_the_summary(tmp_path):
    folder = write_run(tmp_path / "run", "derta", (4, 15), over_refusals=3, malformed=2)
    rows = list(refusal_counts(load_runs([folder])))
    counted = {
        (row["attack"], row["outcome"], row["token"], row["bucket"], row["kind"]): row["count"]
        for row in rows
        if row["count"]
    }
    assert counted == {
        ("direct", "malformed_refusal", 2, "1-5", FREE): 2, ("direct", "refused", 0, "0", FREE): 14,
        ("prefill_20", "malformed_refusal", 22, "6-30", BEHIND): 2, ("prefill_20", "refused", 20, "6-30", BEHIND): 3,
    }  # fmt: skip
    assert sum(row["responses"] for row in rows) == 2 * N
    summary = json.loads((Path(folder) / "summary.json").read_text())
    positions = summary["sets"]["harmful"]["overall"]["cumulative_positions"]["position"]
    assert sorted({token for _, _, token, _, _ in counted}) == positions == [0, 2, 20, 22]
    content = page_content(load_runs([folder]))
    assert content["without_results"] == []
    (_, of_refusals), (_, of_responses) = content["tables"]["cumulative"].rows
    assert of_refusals[:4] == ["derta, of refusals", "66.7%", "66.7%", "76.2%"]  # 14, 14 and 16 of 21
    assert of_responses[:4] == ["derta, of scored responses", "35.0%", "35.0%", "40.0%"]
    (Path(folder) / "results.jsonl").unlink()
    content = page_content(load_runs([folder]), responses=True)
    assert content["without_results"] == ["derta"] and content["responses"] == []
    assert "responses" not in content["sections"] and content["tables"]["cumulative"] is None


def test_sections_without_content_are_not_there(tmp_path):
    folder = write_run(tmp_path / "run", "base", (N, N), over_refusals=0, probability=False)
    assert list(page_content(load_runs([folder]))["sections"]) == ["summary", "trade-off", "attacks", "provenance"]
    rates = page_content(load_runs([folder]))["rates"]
    assert "refusals" not in rates and "attack success" in rates  # nothing is refused, so nothing can be well-formed


def test_every_run_names_command_model_config_and_data_with_their_hashes(tmp_path):
    folders = [write_run(tmp_path / name, "derta") for name in ("one", "two")]
    changed = json.loads((tmp_path / "two" / "summary.json").read_text())
    changed["identity"]["sets"]["harmful"]["rows"] = 7
    (tmp_path / "two" / "summary.json").write_text(json.dumps(changed))
    first, second = page_content(load_runs(folders))["provenance"]
    assert first["command"] == "launch/evaluate.py a=b" and first["model_sha256"] == "abc123" * 10
    assert first["data"][0] == {"set": "harmful", "path": "runs/data", "rows": N, "sha256": "d" * 64}
    results = (tmp_path / "one" / "results.jsonl").read_bytes()
    assert first["files"]["results.jsonl"] == hashlib.sha256(results).hexdigest()
    assert "judge: miniature" in first["config"] and first["config_sha256"] != second["config_sha256"]


def test_training_curves_of_the_evaluated_model_where_they_are_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trained = tmp_path / "runs" / "derta"
    trained.mkdir(parents=True)
    lines = [
        {"step": 1, "loss": 2.0, "grad_norm": 1.0, "probe/auroc": 0.5, "probe/rows_benign": 3},
        {"step": 2, "loss": "nan"},
        {"loss": 3.0},
    ]
    (trained / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 3, "lo')
    (trained / "config.yaml").write_text("objective: {name: derta}\ntrainer: {seed: 7}\nrun: {data_sha256: aa}\n")
    folders = [
        write_run(tmp_path / "a", "derta", model="runs/derta/checkpoint-2"),
        write_run(tmp_path / "b", "vanilla", model="runs/gone"),
    ]
    vanilla, derta = map(training_run, load_runs([folders[1], folders[0]]))
    assert vanilla is None
    assert derta.curves == {"loss": [(1, 2.0), (2, None)], "probe/auroc": [(1, 0.5)]}
    assert derta.settings == {"objective": "derta", "seed": 7, "data sha256": "aa"}
    assert set(derta.hashes) == {"metrics.jsonl", "config.yaml"}


def test_training_curves_of_a_model_outside_the_working_directory(tmp_path, monkeypatch):
    """The summary names such a model by its last part; evaluation.json keeps where it lay, and the page does not."""
    trained, here = tmp_path / "elsewhere" / "derta", tmp_path / "here"
    for folder in (trained, here):
        folder.mkdir(parents=True)
    (trained / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    folder = write_run(tmp_path / "a", "derta", model="derta")
    monkeypatch.chdir(here)
    assert training_run(load_runs([folder])[0]) is None
    ResultsFolder(folder).claim({}, {}, str(trained))
    assert training_run(load_runs([folder])[0]).curves == {"loss": [(1, 2.0)]}
    page = write_page(load_runs([folder]), str(here)).read_text()
    assert "elsewhere" not in page and '<h2 id="training-title">' in page


def test_long_curves_are_thinned_and_keep_both_ends(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "metrics.jsonl").write_text(
        "".join(f'{{"step": {step}, "loss": {1 / step}}}\n' for step in range(1, 2002))
    )
    curve = training_run(load_runs([write_run(tmp_path / "a", "derta", model="model")])[0]).curves["loss"]
    assert len(curve) <= 301 and curve[0] == (1, 1.0) and curve[-1] == (2001, 1 / 2001)
