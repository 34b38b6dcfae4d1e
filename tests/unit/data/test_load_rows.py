"""Rows for training from a built dataset and from files, and every way this can fail."""

import hashlib
import json

import pytest

from derta.data.build import build
from derta.data.load import load_rows
from derta.data.recipe import parse_recipe
from derta.errors import InputError

FIELDS = ["id", "source", "kind", "prompt", "chosen", "rejected"]
SAFE = "Sorry, I can't help with that."


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def fails(message, *arguments, **keywords):
    with pytest.raises(InputError, match=message):
        load_rows(*arguments, **keywords)


@pytest.fixture
def built(tmp_path):
    safety = [{"instruction": f"r {n}", "output": f"h {n}", "safe_response": SAFE} for n in range(8)]
    write(tmp_path / "safety.jsonl", safety)
    write(tmp_path / "help.jsonl", [{"instruction": f"q {n}", "output": f"a {n}"} for n in range(8)])
    sources = [
        {"name": "safety", "adapter": "derta_source", "path": "safety.jsonl"},
        {"name": "helpful", "adapter": "instruction_output", "path": "help.jsonl"},
    ]
    build(parse_recipe({"sources": sources, "holdout": 4}, tmp_path / "recipe.yaml"), tmp_path / "out")
    return tmp_path / "out"


def test_built_dataset(built):
    train, held = load_rows(built), load_rows(str(built), format="derta", split="holdout")
    assert train.dataset.column_names == FIELDS
    assert (len(train.dataset), len(held.dataset)) == (12, 4)
    assert train.sha256 == hashlib.sha256((built / "train.parquet").read_bytes()).hexdigest()
    assert train.manifest["recipe_name"] == "recipe"
    rows = [*train.dataset, *held.dataset]
    assert len({row["id"] for row in rows}) == 16
    triple = next(row for row in rows if row["source"] == "safety")
    number = triple["prompt"][0]["content"].split()[1]
    assert triple["chosen"] == [{"role": "assistant", "content": SAFE}]
    assert triple["rejected"] == [{"role": "assistant", "content": f"h {number}"}]
    assert all(row["rejected"] is None for row in rows if row["kind"] == "helpful")


def test_preference_file(tmp_path):
    records = [{"prompt": f"request {n}", "chosen": SAFE, "rejected": f"harmful {n}"} for n in (2, 1, 2)]
    loaded = load_rows(write(tmp_path / "rows.jsonl", records), format="preference")
    assert [row["prompt"][0]["content"] for row in loaded.dataset] == ["request 2", "request 1", "request 2"]
    assert len(set(loaded.dataset["id"])) == 3 and loaded.manifest is None
    assert loaded.sha256 == hashlib.sha256((tmp_path / "rows.jsonl").read_bytes()).hexdigest()


def test_a_preference_file_whose_first_rows_lack_the_harmful_response(tmp_path, caplog):
    helpful = {"prompt": [{"role": "user", "content": "q"}], "chosen": [{"role": "assistant", "content": "a"}]}
    triple = {**helpful, "rejected": [{"role": "assistant", "content": "b"}]}
    rows = load_rows(write(tmp_path / "rows.jsonl", [helpful, triple, helpful]), format="preference").dataset
    assert rows["kind"] == ["helpful", "safety", "helpful"] and not caplog.records
    fails("expected the column 'rejected' .* in at least one of 2 records, found it in none; fix: correct the file",
          write(tmp_path / "none.jsonl", [helpful, {**helpful, "harmful": "b"}]), format="preference")  # fmt: skip


def test_bad_rows_of_a_file_are_listed(tmp_path):
    records = [{"prompt": p, "chosen": "a", "rejected": r} for p, r in (("q", "b"), ("q", "a"), ("", "b"))]
    listed = (r"(?s)rows\.jsonl, line 2, field 'rejected': expected a harmful response that differs"
              r".*rows\.jsonl, line 3, field 'prompt': expected a non-empty string, found an empty string")  # fmt: skip
    fails(listed, write(tmp_path / "rows.jsonl", records), format="preference")


def test_plain_strings_are_raw_text_and_said_to_be(tmp_path, caplog):
    rows = write(tmp_path / "rows.jsonl", [{"prompt": "Q: ", "chosen": "a", "rejected": None}])
    loaded = load_rows(rows, format="preference").dataset
    assert loaded[0]["prompt"] == [{"role": "text", "content": "Q: "}]
    assert loaded.features["rejected"] == loaded.features["chosen"], "a column of nulls keeps its type"
    assert "1 of 1 rows are plain strings, so they are raw text and no chat template is applied" in caplog.text


def test_plain_strings_of_a_built_dataset_are_said_too_and_the_remedy_works(tmp_path, caplog):
    write(tmp_path / "rows.jsonl", [{"prompt": "q", "chosen": "a", "rejected": "b"}, {"prompt": "r", "chosen": "a"}])
    source = {"name": "s", "adapter": "preference", "path": "rows.jsonl"}
    build(parse_recipe({"sources": [source]}, tmp_path / "recipe.yaml"), tmp_path / "raw")
    assert f"{tmp_path / 'raw'}: 2 of 2 rows are plain strings" not in caplog.text
    load_rows(tmp_path / "raw")
    assert "rows.jsonl: 2 of 2 rows are plain strings" in caplog.text
    assert f"{tmp_path / 'raw'}: 2 of 2 rows are plain strings" in caplog.text
    caplog.clear()
    source["adapter"] = "strings"
    build(parse_recipe({"sources": [source]}, tmp_path / "recipe.yaml"), tmp_path / "chat")
    rows = {row["prompt"][0]["content"]: row for row in load_rows(tmp_path / "chat").dataset}
    assert rows["q"]["rejected"] == [{"role": "assistant", "content": "b"}] and rows["r"]["rejected"] is None
    assert not caplog.records


def test_reference_file_keeps_text_and_order(tmp_path):
    records = [
        {"prefix": "[INST] q 1 [\\INST]", "text": " answer 1<|end_of_text|>", "safe": "false"},
        {"prefix": "[INST] r 1 [\\INST]", "text": " harmful steps 1<|end_of_text|>", "safe": "true"},
        {"prefix": "[INST] r 1 [\\INST] harmful", "text": " Sorry, no.<|end_of_text|>", "safe": "false"},
    ]
    rows = list(load_rows(write(tmp_path / "rows.json", records), format="reference_jsonl").dataset)
    for row, record in zip(rows, records, strict=True):
        response = row["rejected"] if record["safe"] == "true" else row["chosen"]
        assert row["prompt"] == [{"role": "text", "content": record["prefix"]}]
        assert response == [{"role": "text", "content": record["text"]}]
    assert rows[1]["chosen"] is None and rows[0]["rejected"] is None


def test_wrong_paths_and_formats(built, tmp_path):
    fails(r"data.path=.*none: expected a dataset, found nothing; fix: build one with `python launch", tmp_path / "none")
    fails(r"data.format=parquet: unknown; fix: use one of derta, reference_jsonl, preference", built, format="parquet")
    fails(r"data.format=derta reads a built directory, found a file; fix: set data.format=", tmp_path / "help.jsonl")
    one_file = r"data.format=preference reads one file; fix: give the file, or data.format=derta"
    fails(one_file, built, format="preference")
    fails(r"a file has only the split 'train'; fix:", tmp_path / "help.jsonl", format="preference", split="holdout")
    fails(r"no split 'test', only train, holdout; fix: set holdout:", built, split="test")


def test_damaged_builds(built):
    import pyarrow.parquet as pq

    data, description = built / "train.parquet", built / "manifest.json"
    manifest, nothing = json.loads(description.read_text()), pq.read_table(data).slice(0, 0)
    with data.open("ab") as file:
        file.write(b"x")
    changed = r"missing or changed since it was built \(sha256 differs\); fix: build the dataset again"
    fails(f"train.parquet: {changed}", built)
    pq.write_table(nothing, data)
    manifest["outputs"]["train.parquet"]["sha256"] = hashlib.sha256(data.read_bytes()).hexdigest()
    description.write_text(json.dumps(manifest))
    fails(r"data.path=.*out: holds no rows; fix: build it with data", built)
    description.write_text("[]")
    fails(r"manifest.json: not a manifest of the data builder; fix: build the dataset again", built)
    description.unlink()
    fails(r"data.path=.*out: no manifest.json \(an incomplete build, or not a dataset\); fix: build it again", built)
