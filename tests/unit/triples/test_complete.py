"""Prompts to rows with a real tiny model: what is kept, why not, whose files they are, and going on after a stop."""

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from derta.config.completion import CompleteRunConfig
from derta.config.model import ModelConfig
from derta.errors import InputError
from derta.triples import complete as module
from derta.triples.complete import complete, describe, whole_sentences


@pytest.fixture
def prompts(tmp_path: Path) -> dict[str, list[str]]:
    """Ten requests and five questions, as files of one column."""
    files = {}
    for part, count in (("harmful", 10), ("helpful", 5)):
        file = tmp_path / f"{part}.jsonl"
        lines = (
            json.dumps({"question": f"{part} question {i} about the {'big ' * (i % 3)}garden"}) for i in range(count)
        )
        file.write_text("\n".join(lines) + "\n")
        files[part] = [str(file)]
    return files


def settings(prompts: dict[str, list[str]], model_dir: Path, output: Path, **changes: Any) -> CompleteRunConfig:
    given: dict[str, Any] = {
        **prompts, "output": str(output), "model": ModelConfig(name_or_path=str(model_dir)), "max_new_tokens": 6,
        "batch_size": 4, "tries": 3, "temperature": 3.0, "top_p": 1.0,
    }  # fmt: skip
    return CompleteRunConfig(**(given | changes))


def rows(output: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "rows" / f"{name}.jsonl").read_text().splitlines()]


def content(output: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(output.rglob("*")) if file.is_file()}


def test_what_the_judge_keeps_becomes_rows(prompts, tmp_path, chat_server):
    """Question 1 is refused at first, question 2 always; the third answer to each is not needed."""
    asked: dict[str, int] = {}
    limits: dict[str, set[int]] = {"harmful": set(), "helpful": set()}

    def answer(body):
        text = body["messages"][-1]["content"]
        asked[text] = asked.get(text, 0) + 1
        limits[text.split()[0]].add(body["max_tokens"])
        refuses = "question 2" in text or ("harmful question 1" in text and asked[text] == 1)
        return "Sorry, I can't help with that." if refuses else f"Here is what I know of number {asked[text]}."

    chat_server.script = answer
    output = tmp_path / "out"
    found = complete(settings(prompts, Path(), output, endpoint=chat_server.config(), helpful_max_new_tokens=4))
    assert limits == {"harmful": {6}, "helpful": {4}}
    safety, helpful = rows(output, "safety"), rows(output, "helpful")
    assert found["counts"]["rows"] == {"safety": 9, "helpful": 4, "borderline": 0}
    assert found["counts"]["responses"] == {
        "harmful": {"dropped: refused": 1 + 3, "kept": 9},
        "helpful": {"dropped: refused": 1, "kept": 4},
    }
    assert all(row["chosen"][0]["content"].startswith("Sorry, ") for row in safety)
    assert len({row["chosen"][0]["content"] for row in safety}) > 1, "refusals are drawn from all templates"
    late = next(row for row in safety if "question 1" in row["prompt"][0]["content"])
    assert late["rejected"][0]["content"] == "Here is what I know of number 2."
    assert all(row["rejected"] is None and row["kind"] == "helpful" for row in helpful)
    assert found["reproducible"] is False
    assert "question" not in describe(found, str(output)), "no text of a row is said"


def stop(*_):
    raise KeyboardInterrupt


def test_files_are_their_owners_alone(prompts, model_dir, tmp_path, monkeypatch):
    """Also those of a run that was stopped before its first response."""
    monkeypatch.setattr(module, "append_lines", stop)
    with pytest.raises(KeyboardInterrupt):
        complete(settings(prompts, model_dir, tmp_path / "out"))
    monkeypatch.undo()
    os.umask(0o022)  # of another process
    complete(settings(prompts, model_dir, tmp_path / "out"))
    for path in (tmp_path / "out").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path.name


@pytest.mark.parametrize(("limits", "kept"), [({"limit": 4}, (4, 4)), ({"limit": 4, "helpful_limit": 2}, (4, 2))])
def test_limits_are_of_each_file(limits, kept, prompts, tmp_path, chat_server):
    chat_server.script = lambda body: "Here is what I know."
    found = complete(settings(prompts, Path(), tmp_path / "out", endpoint=chat_server.config(), **limits))
    assert found["counts"]["rows"] == {"safety": kept[0], "helpful": kept[1], "borderline": 0}


@pytest.mark.parametrize("stops", [(1,), (2, 1)])
def test_a_stopped_completion_ends_with_the_same_bytes(stops, prompts, model_dir, tmp_path, monkeypatch):
    whole = complete(settings(prompts, model_dir, tmp_path / "whole"))
    there = settings(prompts, model_dir, tmp_path / "stopped")
    write = module.append_lines
    for batches in stops:
        left = [batches]

        def stopping(file, lines, left=left):
            if not left[0]:
                write(file, lines[:1])  # some of a batch, and half a line: what SIGKILL leaves
                with file.open("a") as stream:
                    stream.write('{"part": "harmful", "round": 0, "id": "hal')
                raise KeyboardInterrupt
            left[0] -= 1
            write(file, lines)

        monkeypatch.setattr(module, "append_lines", stopping)
        with pytest.raises(KeyboardInterrupt):
            complete(there)
    monkeypatch.setattr(module, "append_lines", write)
    assert complete(there) == whole
    assert content(tmp_path / "stopped") == content(tmp_path / "whole")


def test_other_settings_in_the_same_directory_are_refused(prompts, model_dir, tmp_path):
    complete(settings(prompts, model_dir, tmp_path / "out"))
    with pytest.raises(InputError, match="seed: 0 there, 1 here"):
        complete(settings(prompts, model_dir, tmp_path / "out", seed=1))


def test_a_prefill_begins_the_harmful_responses(prompts, model_dir, tmp_path):
    complete(settings(prompts, model_dir, tmp_path / "out", prefill="Here is how"))
    assert all(row["rejected"][0]["content"].startswith("Here is how") for row in rows(tmp_path / "out", "safety"))


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("Take a bowl. Then stir the", "Take a bowl."),
        ('She said: "Stir!" And then', 'She said: "Stir!"'),
        ("You need:\n\n1. **A bowl.** It holds\n\n2. A", "You need:\n\n1. **A bowl.**"),
        ("About 2.5 litres of water and", "About 2.5 litres of water and"),
        ("Wait for 3 min.", "Wait for 3 min."),
        ("", ""),
    ],
)
def test_a_text_that_was_cut_off_ends_with_a_sentence(text, whole):
    assert whole_sentences(text) == whole


def test_prompts_that_the_model_does_not_refuse_give_no_triple(prompts, model_dir, tmp_path):
    """A model with random weights refuses nothing, whatever it is told."""
    found = complete(settings(prompts, model_dir, tmp_path / "out", safe="model", tries=1))
    assert found["counts"]["rows"]["safety"] == 0
    assert "dropped: complied" in found["counts"]["responses"]["safe"]


def test_an_endpoint_that_fails_is_counted_and_a_wrong_one_ends_it(prompts, tmp_path, chat_server):
    chat_server.script = lambda body: 400 if "question 1" in body["messages"][-1]["content"] else "Here is what I know."
    found = complete(settings(prompts, Path(), tmp_path / "out", endpoint=chat_server.config(), tries=1))
    assert found["counts"]["rows"]["safety"] == 9
    chat_server.script = lambda body: 404
    with pytest.raises(InputError, match="endpoint"):
        complete(settings(prompts, Path(), tmp_path / "other", endpoint=chat_server.config(), tries=1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"harmful": [], "helpful": []}, "name at least one file"),
        ({"temperature": 0.0}, "set tries=1"),
        ({"top_p": 0.0}, "top_p=0"),
        ({"safe_templates": "nowhere.txt"}, "safe_templates=nowhere.txt"),
    ],
)
def test_wrong_settings(changes, message, prompts, model_dir, tmp_path):
    with pytest.raises(InputError, match=message):
        complete(settings(prompts, model_dir, tmp_path / "out", **changes))
    assert not (tmp_path / "out").exists()
