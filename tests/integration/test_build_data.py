"""launch/build_data.py as a user runs it: outputs, identity for any number of workers, interruption, bad input."""

import contextlib
import hashlib
import io
import json
import random
import resource
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from training_cases import ENVIRONMENT, REPOSITORY

from derta.data.load import load_rows
from derta.errors import InputError
from derta.storage.json_lines import write_lines

SCRIPT = REPOSITORY / "launch" / "build_data.py"
SAFE = "Sorry, I can't help with that."

main = runpy.run_path(str(SCRIPT))["main"]


@pytest.fixture(autouse=True)
def working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def built(*arguments):
    """Run the command in this process and give what it prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        main.answer(list(arguments))
    return printed.getvalue()


def refused(message, *arguments):
    """The run ends with the error and leaves no hidden file."""
    with pytest.raises(InputError) as error:
        main.answer(list(arguments))
    assert message in str(error.value)
    assert not [path.name for path in Path(".").rglob(".*")]


def run(*arguments, **keywords):
    """Run the command in a process of its own."""
    command = [sys.executable, SCRIPT, *arguments]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=120, **keywords)


def make_recipe(folder, rows=30, name="recipe", **values):
    """A recipe of safety triples and helpful rows; random words keep parquet from compressing them away."""
    words = random.Random(0)
    safety = [
        {"instruction": f"harmful request {n}", "output": f"harmful steps {words.random()}", "safe_response": SAFE}
        for n in range(rows)
    ]
    helpful = [{"instruction": f"question {n}", "output": f"answer {words.random()}"} for n in range(rows)]
    write_lines(folder / "safety.jsonl", safety)
    write_lines(folder / "helpful.jsonl", helpful)
    sources = [
        {"name": "safety", "adapter": "derta_source", "path": "safety.jsonl", "filters": {"safe_must_refuse": True}},
        {"name": "helpful", "adapter": "instruction_output", "path": "helpful.jsonl", "count": rows // 2},
    ]
    (folder / f"{name}.yaml").write_text(yaml.safe_dump({"sources": sources, "holdout": 0.1, **values}))


def files_of(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_help_lists_the_recipes():
    printed = built("--help")
    for name in ("miniature", "derta_paper", "pku_saferlhf", "beavertails", "circuit_breakers", "reference_repo"):
        assert name in printed


def test_build_rebuild_and_replace(tmp_path):
    make_recipe(tmp_path)
    done = run("recipe=recipe.yaml", "output=out")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("built: out")
    assert "helpful                 count                   30        15  not_selected 15" in done.stdout
    assert "train.parquet: 41 rows" in done.stdout
    assert sorted(files_of(tmp_path / "out")) == ["holdout.parquet", "manifest.json", "train.parquet"]
    assert len(load_rows("out").dataset) == 41  # 45 rows, of which round(4.5) = 4 are held out
    assert len(load_rows("out", split="holdout").dataset) == 4
    before = files_of(tmp_path / "out")

    assert built("recipe=recipe", "output=out").startswith("already built: out")
    refused("holds another dataset (recipe 'recipe', or the same recipe", "recipe=recipe", "output=out", "limit=5")
    assert files_of(tmp_path / "out") == before
    assert built("recipe=recipe", "output=out", "limit=5", "overwrite=true").startswith("built: out")
    assert load_rows("out").manifest["limit"] == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["helpful.jsonl", "out", "recipe.yaml", "safety.jsonl"]


def test_same_bytes_for_any_number_of_workers(tmp_path):
    make_recipe(tmp_path, rows=1200)  # two chunks per source
    built("recipe=recipe", "output=out1")
    done = run("recipe=recipe", "output=out3", "workers=3")
    assert done.returncode == 0, done.stderr
    files = files_of(tmp_path / "out1")
    assert sorted(files) == ["holdout.parquet", "manifest.json", "train.parquet"]
    assert files_of(tmp_path / "out3") == files


def test_same_bytes_in_another_place(tmp_path, monkeypatch):
    outputs = []
    for folder in (tmp_path / "here", tmp_path / "there"):
        folder.mkdir()
        monkeypatch.chdir(folder)
        make_recipe(folder)
        built("recipe=recipe", "output=out")
        outputs.append(files_of(folder / "out"))
    assert outputs[0] == outputs[1]


def test_another_seed_gives_another_order_and_sample(tmp_path):
    make_recipe(tmp_path)
    make_recipe(tmp_path, name="other", seed=7)
    for name in ("recipe", "other"):
        built(f"recipe={name}", f"output={name}")
    ids = [list(load_rows(tmp_path / name).dataset["id"]) for name in ("recipe", "other")]
    assert ids[0] != ids[1] and set(ids[0]) != set(ids[1])


def test_manifest_says_what_went_in_and_shows_no_text_and_no_path(tmp_path):
    make_recipe(tmp_path)
    values = yaml.safe_load((tmp_path / "recipe.yaml").read_text())
    values["sources"][0]["path"] = str(tmp_path / "safety.jsonl")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    built("recipe=recipe", "output=out")
    text = (tmp_path / "out" / "manifest.json").read_text()
    assert str(tmp_path) not in text and "harmful request" not in text and "answer 0" not in text
    manifest = json.loads(text)
    digest = hashlib.sha256((tmp_path / "safety.jsonl").read_bytes()).hexdigest()
    first = manifest["sources"][0]
    assert first["inputs"] == [{"file": "safety.jsonl", "sha256": digest}]
    assert (first["name"], first["licence"], first["seed"], first["records_read"]) == ("safety", "not stated", 42, 30)
    assert manifest["recipe"]["sources"][1]["count"] == 15
    assert set(manifest["packages"]) >= {"datasets", "pyarrow"}
    for name, entry in manifest["outputs"].items():
        assert entry["sha256"] == hashlib.sha256((tmp_path / "out" / name).read_bytes()).hexdigest()


@pytest.mark.parametrize("moment", [".out.partial", ".out.partial/train.parquet"])
def test_killed_build_leaves_nothing_that_looks_complete(tmp_path, moment):
    make_recipe(tmp_path, rows=2000)
    command = [sys.executable, SCRIPT, "recipe=recipe", "output=out"]
    process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (tmp_path / moment).exists() and process.poll() is None:
        time.sleep(0.0005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    if (tmp_path / "out").exists():  # it was faster than the kill: then it must be whole
        assert len(load_rows("out").dataset) == 2700
    else:
        assert (tmp_path / ".out.partial").is_dir()
        with pytest.raises(InputError, match="expected a dataset, found nothing"):
            load_rows("out")
    built("recipe=recipe", "output=out")
    assert len(load_rows("out").dataset) == 2700
    assert not list(tmp_path.glob(".out*"))


def test_no_space_left(tmp_path):
    """A file size limit makes the real write fail half-way."""
    make_recipe(tmp_path, rows=1000)

    def small_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    done = run("recipe=recipe", "output=out", preexec_fn=small_files)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and "Traceback" not in done.stderr
    said = "cannot be written (no space left on the disk, File too large); nothing was left behind; fix: free space or "
    assert f"{said}raise the quota, then run the same command again" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["helpful.jsonl", "recipe.yaml", "safety.jsonl"]


BAD_OUTPUTS = {
    "file": "expected a directory, found a file; fix: choose another output",
    "file/out": "/file is a file, not a directory; fix: choose another output",
    "/proc/out": "cannot be written (No such file or directory); nothing was left behind; fix: choose a directory",
    "mine": "found other files (thesis.txt); fix: choose another output",
    "partial": "holds data without a manifest (an incomplete copy); fix: add overwrite=true",
}


def test_output_that_cannot_be_used(tmp_path):
    make_recipe(tmp_path)
    (tmp_path / "file").write_text("text")
    for name, file in (("mine", "thesis.txt"), ("partial", "train.parquet")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text("text")
    for output, message in BAD_OUTPUTS.items():
        refused(message, "recipe=recipe", f"output={output}")
    # overwrite=true replaces only datasets
    (tmp_path / "empty").mkdir()
    refused("found other files (thesis.txt)", "recipe=recipe", "output=mine", "overwrite=true")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "text"
    built("recipe=recipe", "output=partial", "overwrite=true")
    built("recipe=recipe", "output=empty")
    assert len(load_rows("partial").dataset) == len(load_rows("empty").dataset) == 41


def test_changed_input_or_output_is_noticed(tmp_path):
    make_recipe(tmp_path)
    built("recipe=recipe", "output=out")
    content = (tmp_path / "out" / "train.parquet").read_bytes()
    (tmp_path / "out" / "train.parquet").write_bytes(content + b"x")
    refused("missing or changed since it was built; fix: add overwrite=true", "recipe=recipe", "output=out")
    (tmp_path / "out" / "train.parquet").write_bytes(content)
    lines = (tmp_path / "safety.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "safety.jsonl").write_text("".join(lines[1:]))
    refused("holds another dataset", "recipe=recipe", "output=out")


def test_wrong_arguments_end_with_code_2_and_no_traceback():
    done = run("recipe=recipe", "ouput=out", "workers", "limit=0", "overwrite=perhaps")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "error: this configuration cannot run:",
        "  - ouput=out: no key 'ouput'; did you mean output?",
        "  - workers: expected key=value or group=choice",
        "  - output is empty: expected the directory to make, output=DIR",
        "  - overwrite=perhaps: expected true or false",
        "  - limit=0: expected null or a whole number, at least 1",
    ]


@pytest.mark.parametrize("workers", [1, 2])
def test_bad_rows_end_the_command_before_anything_is_written(tmp_path, workers):
    make_recipe(tmp_path)
    with (tmp_path / "safety.jsonl").open("a") as file:
        file.write('{"instruction": "harmful request 99", \n')
    done = run("recipe=recipe", "output=out", f"workers={workers}")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "safety.jsonl, line 31: expected one JSON object per line, found malformed JSON" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["helpful.jsonl", "recipe.yaml", "safety.jsonl"]


def test_miniature_recipes(tmp_path):
    sources = {
        "miniature": {"helpful", "safety"},
        "miniature_base": {"warmup", "base"},
        "miniature_eval": {"eval_harmful", "eval_benign", "eval_borderline"},
        "miniature_dev": {"eval_harmful", "eval_benign", "eval_borderline"},
    }
    for name, expected in sources.items():
        built(f"recipe={name}", f"output={name}", "limit=40")
        rows = list(load_rows(tmp_path / name).dataset)
        assert {row["source"] for row in rows} >= expected
        assert len(rows) == 40 * len({row["source"] for row in rows})
    base = list(load_rows("miniature_base").dataset["source"])
    assert base == ["warmup"] * 40 + ["base"] * 40  # the order is a curriculum
