"""Whose folder is it: the same work goes on, other work is refused with every key that differs, never with a text."""

import json

import pytest

from derta.errors import InputError
from derta.storage.claim import Claim, differences

IDENTITY = {"model": {"sha256": "a" * 64}, "steps": 3, "sets": ["one"], "note": "words of a row"}


def claim(folder, identity=IDENTITY, **settings):
    return Claim(folder / "work.json", identity, work="search", named=f"output={folder}", **settings)


def test_nothing_there_is_not_held_and_what_was_taken_is(tmp_path):
    mine = claim(tmp_path / "new", finished="summary.json")
    assert not mine.held()
    mine.take(run={"command": "x"})
    assert mine.held() and not mine.complete
    assert mine.content() == {"identity": IDENTITY, "run": {"command": "x"}}
    (tmp_path / "new" / "summary.json").write_text("{}")
    assert mine.complete


def test_a_file_that_is_its_own_proof_is_complete_at_once(tmp_path):
    mine = claim(tmp_path)
    mine.take()
    assert mine.complete


def test_tuples_and_lists_are_the_same(tmp_path):
    claim(tmp_path, {"positions": (1, 2)}).take()
    assert claim(tmp_path, {"positions": [1, 2]}).held()


def test_every_difference_is_named_by_its_dotted_key_and_no_text_is_shown(tmp_path):
    claim(tmp_path).take()
    other = {"model": {"sha256": "b" * 64}, "steps": 4, "sets": ["one", "two"], "note": "other words of a row"}
    with pytest.raises(InputError) as error:
        claim(tmp_path, other).held()
    message = str(error.value)
    assert message.startswith(f"output={tmp_path} holds another search; give another place, or remove it. It differs")
    assert f"model.sha256: a text of 64 characters there, {'b' * 64}"[:13] in message
    assert "steps: 3 there, 4 here" in message and "sets: [one] there, [one, two] here" in message
    assert "note: a text of 14 characters there" in message and "words" not in message


@pytest.mark.parametrize(
    ("there", "here", "said"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": {"b": None}}, {"a": {"b": "x"}}, ["a.b: null there, x here"]),
        ({}, {"a": {"b": 1}}, ["a: null there, 1 entry here"]),
        ({"b": 1, "a": True}, {"b": 2, "a": False}, ["a: true there, false here", "b: 1 there, 2 here"]),
        ({"a": 1}, {"a": 1.5}, ["a: 1 there, 1.5 here"]),
    ],
)
def test_differences(there, here, said):
    assert list(differences(there, here)) == said


def test_files_of_somebody_else_are_refused_and_others_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    assert not claim(tmp_path).held()
    assert not claim(tmp_path, others="results*.jsonl").held()
    with pytest.raises(InputError, match="holds other files, and no work.json that says what of"):
        claim(tmp_path, others="*").held()


@pytest.mark.parametrize("content", [b"", b"[1", b"[]", b"{}", b'{"identity": 3}', b"\xff"])
def test_a_damaged_file_is_an_input_error(tmp_path, content):
    (tmp_path / "work.json").write_bytes(content)
    with pytest.raises(InputError, match="work.json does not say which search it belongs to"):
        claim(tmp_path).held()


def test_a_folder_that_cannot_be_made_is_an_input_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot be written \(Not a directory\)"):
        claim(tmp_path / "file" / "below").take()


def test_what_is_written_can_be_read_whatever_stands_in_it(tmp_path):
    claim(tmp_path).take(state={"text": "half \ud83d", "other": "ü"})
    assert claim(tmp_path).content()["state"] == {"text": "half \ud83d", "other": "ü"}
    assert json.loads((tmp_path / "work.json").read_text(encoding="utf-8"))["identity"] == IDENTITY
