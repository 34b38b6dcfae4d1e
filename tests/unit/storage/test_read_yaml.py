"""YAML: every fault is one error with its line, and what is right is read as PyYAML reads it."""

import pytest

from derta.errors import InputError
from derta.storage.read_yaml import read_yaml


def test_plain_values_and_merged_keys(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("base: &base {a: 1, b: 2}\nother:\n  <<: *base\n  b: 3\ntext: é\n", encoding="utf-8")
    assert read_yaml(file) == {"base": {"a": 1, "b": 2}, "other": {"a": 1, "b": 3}, "text": "é"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            b"a: 1\nb: {c: 1}\na: 2\n",
            "a.yaml, line 3: .*the key 'a' is given twice, first on line 1.*fix: give it once",
        ),
        (b"x:\n  - {c: 1, c: 2}\n", "a.yaml, line 2: .*the key 'c' is given twice, first on line 2"),
        (b"a: [\n", "a.yaml, line 2: not valid YAML"),
        (b'a: 1\nb: "\\ud83d"\n', "a.yaml, line 2: .*half of a surrogate pair"),
        (b"a: !!python/object:os.system {}\n", "a.yaml, line 1: not valid YAML"),
        (b"? [a]\n: 1\n", "a.yaml, line 1: not valid YAML"),
        (b"a: \xff\n", "a.yaml: expected UTF-8 text"),
        (b"a: " + b"1" * 5000, "a.yaml: not valid YAML"),
        (b"a: " + b"[" * 5000, "a.yaml: not valid YAML"),
    ],
)
def test_faults(tmp_path, text, message):
    (tmp_path / "a.yaml").write_bytes(text)
    with pytest.raises(InputError, match=message):
        read_yaml(tmp_path / "a.yaml")


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(InputError, match="cannot be read .*fix: give a file"):
        read_yaml(tmp_path)
