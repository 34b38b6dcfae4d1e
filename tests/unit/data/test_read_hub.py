"""Hub sources through the real client, against a local server that answers as the hub does.

The shipped hub recipes are built unchanged (ids, commits, splits), from small files with exactly the hub's columns.
"""

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
import urllib.parse
from pathlib import Path

import pytest

from derta.storage.json_lines import write_lines

REPOSITORY = Path(__file__).resolve().parents[3]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
SAFE = "Sorry, I can't help with that."
HELPFUL = [{"instruction": f"question {n}", "output": f"answer {n}"} for n in range(6)]
BEAVERTAILS = [
    {"prompt": f"harmful request {n}", "response": text, "category": {"a_topic": not safe}, "is_safe": safe}
    for n in range(6)
    for safe, text in ((False, f"harmful steps {n}"), (True, SAFE))
]
PKU = [
    {
        "prompt": f"harmful request {n}",
        "response_0": f"harmful steps {n}",
        "response_1": SAFE,
        "prompt_source": "a source",
        "is_response_0_safe": False,
        "is_response_1_safe": n != 5,  # one record with two harmful responses
        "better_response_id": 1,
        "safer_response_id": 1,
    }
    for n in range(6)
]
ULTRACHAT = [
    {
        "prompt": f"question {n}",
        "prompt_id": f"id-{n}",
        "messages": [{"role": "user", "content": f"question {n}"}, {"role": "assistant", "content": f"answer {n}"}],
    }
    for n in range(6)
]


class Hub(http.server.ThreadingHTTPServer):
    """Datasets by id: commit, split and records. One JSONL file each, and a card that maps the split to it."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.datasets = {}

    def add(self, name, commit, split, records):
        config = f"configs:\n- config_name: default\n  data_files:\n  - split: '{split}'\n    path: rows.jsonl\n"
        rows = "\n".join(map(json.dumps, records)).encode()
        self.datasets[name] = (commit, {"README.md": f"---\n{config}---\n".encode(), "rows.jsonl": rows})


class Answer(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def send(self, status, body, headers):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def missing(self, what):
        self.send(404, b"{}", {"X-Error-Code": what, "Content-Type": "application/json"})

    def do_GET(self):
        parts = urllib.parse.unquote(urllib.parse.urlparse(self.path).path).strip("/").removeprefix("api/").split("/")
        found = self.server.datasets.get("/".join(parts[1:3]))
        if parts[0] != "datasets" or found is None:
            return self.missing("RepoNotFound")
        commit, files = found
        kind, revision = (parts[3], parts[4]) if len(parts) > 4 else ("revision", "main")
        if revision not in (commit, "main"):
            return self.missing("RevisionNotFound")
        if kind == "resolve":
            data = files.get("/".join(parts[5:]))
            if data is None:
                return self.missing("EntryNotFound")
            return self.send(200, data, {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": commit})
        answer = {"id": "/".join(parts[1:3]), "sha": commit, "siblings": [{"rfilename": name} for name in files]}
        if kind == "tree":
            answer = [{"type": "file", "path": name, "size": len(data), "oid": "0"} for name, data in files.items()]
        return self.send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    do_HEAD = do_GET


@pytest.fixture(scope="module")
def hub():
    server = Hub()
    server.add("WizardLMTeam/WizardLM_evol_instruct_70k", "d2ab8176a42d3fc250b290a89c90a792e94869f9", "train", HELPFUL)
    server.add("PKU-Alignment/BeaverTails", "8401fe609d288129cc684a9b3be6a93e41cfe678", "330k_train", BEAVERTAILS)
    server.add("PKU-Alignment/PKU-SafeRLHF", "8b87c3304fe428df5ae84a5a00f9d3ef9e4f135e", "train", PKU)
    server.add("HuggingFaceH4/ultrachat_200k", "8049631c405ae6576f93f445c6b8166f76f5505a", "train_sft", ULTRACHAT)
    server.add("org/data", COMMIT, "train", HELPFUL)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


RUN_ALL = """
import contextlib, io, json, os, runpy, sys
from derta.errors import InputError
main = runpy.run_path(sys.argv[1])["main"]
answers = {}
for name, (folder, arguments) in json.load(sys.stdin).items():
    os.chdir(folder)
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            main.answer(arguments + ["output=out"])
        answers[name] = printed.getvalue()
    except InputError as error:
        answers[name] = f"error: {error}"
print(json.dumps(answers))
"""

LAUNCH = REPOSITORY / "launch" / "build_data.py"


def build(cases, folder, endpoint, **environment):
    """Run the command for every case (name -> its folder and arguments) in one process: one import."""
    variables = {
        **os.environ,
        "PYTHONPATH": str(REPOSITORY),
        "HF_ENDPOINT": endpoint,  # read when the client is imported
        "HF_HOME": str(folder / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        **environment,
    }
    given = json.dumps({name: (str(where), list(arguments)) for name, (where, arguments) in cases.items()})
    command = [sys.executable, "-c", RUN_ALL, str(LAUNCH)]
    done = subprocess.run(command, env=variables, input=given, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def recipe_in(folder, **changes):
    values = {"name": "s", "adapter": "instruction_output", "hub": "org/data", "revision": COMMIT, "split": "train"}
    folder.mkdir()
    # YAML reads JSON
    (folder / "r.yaml").write_text(json.dumps({"sources": [{**values, "licence": "mit", **changes}]}))
    return folder


BREAKERS, CLONE = "circuit_breakers/circuit_breakers_train.json", "reference_repo/DeRTa/data/train"
FILES = {  # beside the recipes that name them
    BREAKERS: [
        {"category": "a", "prompt": f"harmful request {n}", "output": f"harmful steps {n}", "llama3_output": SAFE}
        for n in range(3)
    ],
    f"{CLONE}/helpfulness_unsencor_wizardlm_60k_part_0.json": HELPFUL[:3],
    f"{CLONE}/helpfulness_unsencor_wizardlm_60k_part_1.json": HELPFUL[3:],
    f"{CLONE}/safety_beaver_safe_and_unsafe_response.json": [
        {"instruction": "harmful request 1", "output": "harmful steps 1", "safe_response": SAFE}
    ],
}
F = "f" * 40
MISSING = "this revision does not exist; fix: give a commit hash from the dataset's history (https://huggingface.co/"
WRONG = {  # how a recipe is changed, and how the error begins
    "revision": ({"revision": F}, f"org/data at revision '{F}': {MISSING}datasets/org/data/commits)"),
    "branch": ({"revision": "nope", "pin_on_build": True}, f"org/data at revision 'nope': {MISSING}"),
    "id": ({"hub": "org/none"}, f"org/none at revision '{COMMIT}': no such dataset, or it is private; fix:"),
    "split": ({"split": "test"}, f"org/data at revision '{COMMIT}': it has no split 'test'; fix: correct"),
}


@pytest.fixture(scope="module")
def results(hub, tmp_path_factory):
    """(folder of each case, what the command printed for it)"""
    root = tmp_path_factory.mktemp("hub")
    cases = {
        "derta_paper": ["recipe=derta_paper", "limit=4"],
        "circuit_breakers": ["recipe=circuit_breakers", "limit=5"],
        "reference_repo": ["recipe=reference_repo", "limit=10"],
        "beavertails": ["recipe=mine"],
        "pku_saferlhf": ["recipe=mine"],
    }
    cases = {name: (root / name, arguments) for name, arguments in cases.items()}
    for file, records in FILES.items():
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        write_lines(root / file, records)
    (root / BREAKERS).write_text(json.dumps(FILES[BREAKERS]))  # published as one list
    for name in ("beavertails", "pku_saferlhf"):  # they hold out 2%, which of so few rows is none
        text = (REPOSITORY / "data_recipes" / f"{name}.yaml").read_text()
        (root / name).mkdir()
        (root / name / "mine.yaml").write_text(text.replace("holdout: 0.02", "holdout: 1"))
    (root / "derta_paper").mkdir()

    pinned = recipe_in(root / "pinned", revision="main", pin_on_build=True)
    cases["pinned"] = cases["pinned again"] = (pinned, ["recipe=r"])
    cases["revision override"] = (pinned, ["recipe=r", f"revision={F}", "overwrite=true"])
    for name, (changes, _) in WRONG.items():
        cases[name] = (recipe_in(root / name, **changes), ["recipe=r"])
    printed = build(cases, root, hub)
    return {name: (folder, printed[name]) for name, (folder, _) in cases.items()}


def manifest_of(result):
    folder, printed = result
    assert printed.startswith("built: out"), printed
    return json.loads((folder / "out" / "manifest.json").read_text())


def test_shipped_recipes(results):
    """Pinned hub sources, and what lies beside them as files."""
    paper = manifest_of(results["derta_paper"])
    assert paper["outputs"]["train.parquet"]["rows_by_source"] == {"evol_instruct": 4, "safety": 4}
    assert paper["sources"][1]["revision"] == "8401fe609d288129cc684a9b3be6a93e41cfe678"
    assert paper["sources"][1]["licence"] == "cc-by-nc-4.0"
    for recipe, rows in (("beavertails", 6), ("pku_saferlhf", 5)):
        outputs = manifest_of(results[recipe])["outputs"]
        assert (outputs["train.parquet"]["rows"], outputs["holdout.parquet"]["rows"]) == (rows - 1, 1)
        assert outputs["train.parquet"]["rows_by_kind"] == {"safety": rows - 1}
    breakers = manifest_of(results["circuit_breakers"])
    assert breakers["outputs"]["train.parquet"]["rows_by_source"] == {"safety": 3, "ultrachat": 5}
    reference = manifest_of(results["reference_repo"])
    assert reference["outputs"]["train.parquet"]["rows_by_source"] == {"evol_instruct": 6, "safety": 1}
    assert [one["file"].split(": ")[1] for one in reference["sources"][0]["inputs"]] == [
        f"helpfulness_unsencor_wizardlm_60k_part_{part}.json" for part in (0, 1)
    ]


def test_pin_on_build_records_the_commit_and_revision_overrides_it(results):
    folder, again = results["pinned again"]
    assert results["pinned"][1].startswith("built: out") and again.startswith("already built: out")
    assert json.loads((folder / "out" / "manifest.json").read_text())["sources"][0]["revision"] == COMMIT
    assert f"org/data at revision '{F}': this revision does not exist" in results["revision override"][1]


def test_wrong_hub_source(results):
    for name, (_, said) in WRONG.items():
        folder, printed = results[name]
        assert printed.startswith(f"error: hub dataset {said}"), name
        assert sorted(path.name for path in folder.iterdir()) == ["r.yaml"], name


@pytest.mark.parametrize(
    "environment",
    [
        {"HF_HUB_OFFLINE": "1"},
        pytest.param({"HF_ENDPOINT": "http://127.0.0.1:9"}, marks=pytest.mark.slow),  # the client tries for 20 s
    ],
)
def test_no_network(hub, tmp_path, environment):
    cases = {"case": (recipe_in(tmp_path / "case"), ["recipe=r"])}
    printed = build(cases, tmp_path, **{"endpoint": hub, **environment})["case"]
    assert printed == (
        f"error: hub dataset org/data at revision '{COMMIT}': the hub could not be reached and there is no copy in the "
        "cache; fix: connect, or download the data and use path: instead of hub: in the recipe"
    )
