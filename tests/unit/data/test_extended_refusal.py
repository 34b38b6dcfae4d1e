"""Extended refusals: from templates, from a file, and from a real chat-completions server that fails and recovers."""

import os
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from derta.data.build import build
from derta.data.overviews import parse_answer, read_overviews
from derta.data.recipe import parse_recipe
from derta.errors import InputError
from derta.storage.json_lines import write_lines

ROOT = Path(__file__).resolve().parents[3]
SAFE = "I can't help with that."
GOOD = "OVERVIEW: A neutral overview.\nREASON: It would be wrong."


@pytest.fixture
def server(chat_server):
    chat_server.script = lambda body: GOOD
    return chat_server


def request(body):
    """The prompt of a row in what the server was asked."""
    return body["messages"][-1]["content"].splitlines()[-1]


def asked(server):
    return sorted(map(request, server.requests))


def triple(name, safe=SAFE):
    said = {"prompt": ("user", f"request {name}"), "chosen": ("assistant", safe)}
    said["rejected"] = ("assistant", f"harmful steps {name}")
    return {"id": name, **{key: [{"role": role, "content": text}] for key, (role, text) in said.items()}}


def settings(server, **changes):
    endpoint = asdict(server.config(retries=0, concurrency=2))
    return {"file": "overviews.jsonl", "endpoint": endpoint, **changes}


def recipe(folder, extended, adapter="preference", **source):
    values = {"name": "safety", "adapter": adapter, "path": "rows.jsonl", "extended_refusal": extended, **source}
    return {"sources": [{key: value for key, value in values.items() if value is not None}], "shuffle": False}


def make(folder, extended, output="data", **source):
    """Build, and give the rows by id and the manifest's entry of the source."""
    result = build(parse_recipe(recipe(folder, extended, **source), folder / "recipe.yaml"), folder / output)
    rows = pq.read_table(folder / output / "train.parquet").to_pylist()
    return {row["id"]: row for row in rows}, result.manifest["sources"][0]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_lines(tmp_path / "rows.jsonl", [triple(str(n)) for n in range(10)])
    return tmp_path


def test_templates_change_the_safe_response_alone(folder):
    miniature = {"adapter": "miniature", "part": "safety", "count": 20, "path": None}
    plain, entry = make(folder, None, "plain", **miniature)
    extended, extended_entry = make(folder, {"templates": "miniature"}, "extended", **miniature)
    assert list(plain) == list(extended)
    for name, row in extended.items():
        assert row["rejected"] == plain[name]["rejected"] and row["prompt"] == plain[name]["prompt"]
        assert row["chosen"][0]["content"].index("Sorry") > 20
    assert extended_entry["extended_refusals"] == {"extended": 20} and "extended_refusals" not in entry


def test_a_file_gives_overview_and_reason_and_may_give_the_refusal(folder):
    write_lines(folder / "rows.jsonl", [triple("1"), triple("2"), triple("3", "Here is a neutral text.")])
    write_lines(
        folder / "overviews.jsonl",
        [
            {"id": 1, "overview": "An overview. ", "reason": "A reason."},
            {"id": "2", "overview": "O", "reason": "R", "refusal": "No, I won't help with this."},
            {"id": "4", "overview": "O", "reason": "R"},
        ],
    )
    rows, entry = make(folder, {"file": "overviews.jsonl"})
    assert [row["chosen"][0]["content"] for row in rows.values()] == [
        f"An overview.\n\n{SAFE}\n\nA reason.",
        "O\n\nNo, I won't help with this.\n\nR",
        "Here is a neutral text.",  # no refusal that could be extended
    ]
    assert entry["extended_refusals"] == {"extended": 2, "safe_response_does_not_refuse": 1}
    assert [one["file"] for one in entry["inputs"]] == ["rows.jsonl", "overviews.jsonl"]


def test_rows_without_a_line_stop_the_build_or_are_kept(folder):
    write_lines(folder / "overviews.jsonl", [{"id": str(n), "overview": "O", "reason": "R"} for n in range(3)])
    with pytest.raises(InputError, match=r"no overview for 7 of 10 refusals: 3, 4, 5, 6, 7 and 2 more; fix: add the"):
        make(folder, {"file": "overviews.jsonl"})
    rows, entry = make(folder, {"file": "overviews.jsonl", "missing": "keep"})
    assert entry["extended_refusals"] == {"extended": 3, "no_overview": 7}
    assert rows["9"]["chosen"][0]["content"] == SAFE


def test_bad_lines_are_all_listed(folder):
    bad = [{"id": "1", "overview": " ", "reason": "R"}, {"id": "2", "overview": "O"}, {"overview": "O", "reason": "R"}]
    good = {"id": "5", "overview": "O", "reason": "R"}
    write_lines(folder / "overviews.jsonl", [*bad, good, good])
    with pytest.raises(InputError) as error:
        make(folder, {"file": "overviews.jsonl"})
    for message in (
        "line 1, field 'overview': expected a non-empty string, found an empty string",
        "line 2, field 'reason': expected a non-empty string, found null",
        "line 3, field 'id': expected a non-empty string, found null",
        "line 5, field 'id': expected an id that no other row has",
    ):
        assert message in str(error.value)


@pytest.mark.parametrize(
    ("extended", "message"),
    [
        ({}, "templates: expected exactly one of templates and file"),
        ({"templates": "miniature"}, "templates: for the miniature adapter alone"),
        ({"file": "a", "missing": "drop"}, "missing: expected 'error' or 'keep', found 'drop'"),
        ({"file": "a", "endpoint": {"model": "m"}}, "endpoint.url: empty"),
        ({"file": "a", "endpoint": {"url": "here", "model": "m"}}, "endpoint.url: expected http"),
        ({"templates": "miniature", "endpoint": {"model": "m"}}, "endpoint: does nothing without file:"),
        ({"templates": "others"}, "templates: expected 'miniature', found 'others'"),
        ({"file": "a", "endpoint": {"url": "http://h/v1", "timeout": 0}}, "timeout: expected a number above 0"),
        ({"file": "a", "max_tokens": 9}, "max_tokens: does nothing without endpoint:"),
        ({"fiel": "a"}, "unknown key .did you mean 'file'"),
        ({"file": "overviews.jsonl"}, "expected a JSONL file at 'overviews.jsonl', found nothing"),
    ],
)
def test_settings_that_cannot_be(folder, extended, message):
    with pytest.raises(InputError, match=message):
        make(folder, extended)


def test_answers_of_a_model():
    assert parse_answer("a", GOOD) == {"id": "a", "overview": "A neutral overview.", "reason": "It would be wrong."}
    assert parse_answer("a", "**Overview:** O\n\n**Reason:** R") == {"id": "a", "overview": "O", "reason": "R"}
    assert parse_answer("a", "Sure! Here you are.") == "not in the form that was asked for"
    assert parse_answer("a", "OVERVIEW: I cannot help with that.\nREASON: R") == "the overview refuses"


def test_an_endpoint_fills_the_file_once(folder, server):
    write_lines(folder / "overviews.jsonl", [{"id": "0", "overview": "mine", "reason": "R"}])
    rows, entry = make(folder, settings(server))
    assert asked(server) == [f"request {n}" for n in range(1, 10)]  # the prompt, and not for the line there is
    assert rows["0"]["chosen"][0]["content"].startswith("mine")
    assert rows["1"]["chosen"][0]["content"] == f"A neutral overview.\n\n{SAFE}\n\nIt would be wrong."
    assert entry["extended_refusals"] == {"extended": 10} and entry["inputs"][-1]["file"] == "overviews.jsonl"
    make(folder, settings(server))  # already built
    offline, _ = make(folder, {"file": "overviews.jsonl"}, "offline")  # and without the endpoint: the same rows
    assert offline == rows and len(server.requests) == 9


def test_an_endpoint_that_dies_leaves_its_answers_and_the_next_build_goes_on(folder, server):
    server.script = lambda body: GOOD if len(server.requests) <= 4 else 503
    with pytest.raises(InputError, match=r"endpoint: no answer to 4 requests, the first because: status 503 \(1 try\)"):
        make(folder, settings(server))
    assert not (folder / "data").exists()
    kept = set(read_overviews(folder / "overviews.jsonl"))
    assert kept == {"0", "1", "2", "3"}
    with (folder / "overviews.jsonl").open("a") as file:
        file.write('{"id": "4", "overv')  # the writer was killed here
    server.requests.clear()
    server.script = lambda body: GOOD
    rows, entry = make(folder, settings(server))
    assert asked(server) == [f"request {n}" for n in range(4, 10)]
    assert entry["extended_refusals"] == {"extended": 10}


def test_unusable_answers_are_asked_for_again_and_then_counted(folder, server):
    def script(body):
        if request(body) == "request 5":
            return "secret words of an answer"
        return GOOD if asked(server).count(request(body)) > 1 else "OVERVIEW: Sorry, no.\nREASON: R"

    server.script = script
    with pytest.raises(InputError) as error:
        make(folder, settings(server))
    said = "no overview for 1 of 10 refusals: 5 (from the endpoint: 1 not in the form that was asked"
    assert said in str(error.value)
    assert "secret" not in str(error.value) and "request 5" not in str(error.value)
    assert asked(server).count("request 5") == 3 and asked(server).count("request 4") == 2
    _, entry = make(folder, settings(server, missing="keep"))
    assert entry["extended_refusals"] == {"extended": 9, "no_overview": 1}


def test_a_killed_build_goes_on_where_it_stopped(folder, server):
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe(folder, settings(server))))
    release = threading.Event()
    server.script = lambda body: GOOD if len(server.requests) <= 4 or release.wait(30) else GOOD
    command = [sys.executable, str(ROOT / "launch" / "build_data.py"), "recipe=recipe.yaml", "output=data"]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while len(server.requests) < 4 or (folder / "overviews.jsonl").read_text().count("\n") < 4:
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    release.set()
    time.sleep(0.2)  # the requests that were under way
    server.requests.clear()
    assert not (folder / "data").exists()
    rows, entry = make(folder, settings(server))
    assert asked(server) == [f"request {n}" for n in range(4, 10)]
    assert entry["extended_refusals"] == {"extended": 10}
