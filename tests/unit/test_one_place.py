"""What is done in one module of derta/ only, read off the syntax trees."""

import ast
import re
from collections.abc import Iterator

# Calls that make tokens of text, and text of a conversation.
_METHODS = {"apply_chat_template", "encode", "encode_batch", "encode_plus", "batch_encode_plus", "tokenize"}
_NAMES = {"tokenizer", "processing_class"}
TOKENISERS = {
    "derta/models/conversation.py": "the one place",
    "derta/miniature/tokenizer.py": "checks words of the vocabulary it has just made",
    "derta/benchmark/builder.py": "measures what others do",
}


def _is_tokenizer(node: ast.AST) -> bool:
    name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
    return name.lstrip("_") in _NAMES


def tokenising(source: str) -> Iterator[int]:
    """Lines that call a tokenizer on text, or take such a method of it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and _is_tokenizer(node.func) and (node.args or node.keywords):
            yield node.lineno
        if isinstance(node, ast.Attribute) and node.attr in _METHODS:
            if node.attr == "apply_chat_template" or _is_tokenizer(node.value):
                yield node.lineno


def test_conversations_become_tokens_in_one_place(sources):
    found = {file: lines for file, text in sources.items() if (lines := list(tokenising(text)))}
    assert set(found) == set(TOKENISERS), found


def test_tokenising_is_seen_in_every_shape():
    for line in (
        "ids = self.tokenizer(text)",
        "trainer.processing_class(texts, padding=True)",
        "tokenizer.encode(text)",
        "self._tokenizer.tokenize(text)",
        "model.apply_chat_template(messages)",
        "render = build_tokenizer().apply_chat_template",
    ):
        assert list(tokenising(line)) == [1], line
    for line in (
        "text.encode()",
        "build_tokenizer()",
        "check_tokenizer(tokenizer)",
        "len(tokenizer)",
        "tokenizer.decode(ids)",
        "load_tokenizer",
    ):
        assert list(tokenising(line)) == [], line


# Tables, and lines of JSON

CSV, LINES = "derta/storage/csv_files.py", "derta/storage/json_lines.py"
TABLES = {"csv", "pandas", "polars", "jsonlines"}
_LOOPS = ast.For | ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp


def readers(source: str) -> Iterator[str]:
    """What a module does: "table" (imports a reader of tables), "lines" (parses JSON in a loop over lines), "append"
    (opens a file to add to it)."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            if TABLES & {name.split(".")[0] for name in names}:
                yield "table"
        elif isinstance(node, _LOOPS):
            parts = [node] if isinstance(node, ast.For) else node.generators
            over_lines = any(
                re.search(r"\.splitlines\(|\.split\([\"']\\n|\.open\(|\bopen\(", ast.unparse(p.iter)) for p in parts
            )
            calls = {ast.unparse(one.func) for one in ast.walk(node) if isinstance(one, ast.Call)}
            if over_lines and calls & {"json.loads", "parse"}:
                yield "lines"
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "open":
            given = [*node.args, *(keyword.value for keyword in node.keywords)]
            if any(isinstance(one, ast.Constant) and re.fullmatch("a[bt+]*", str(one.value)) for one in given):
                yield "append"


def test_one_module_reads_tables_and_one_lines_of_json(sources):
    found = {(file, what) for file, text in sources.items() for what in readers(text)}
    assert found == {(CSV, "table"), (LINES, "lines"), (LINES, "append")}


def test_second_readers_are_caught():
    assert list(readers("import csv")) == ["table"]
    assert list(readers("from pandas.io import read_csv")) == ["table"]
    assert list(readers("for line in file.read_text().splitlines():\n    json.loads(line.strip())")) == ["lines"]
    assert list(readers("rows = [json.loads(one) for one in text.split('\\n') if one]")) == ["lines"]
    assert list(readers("path.open('a', encoding='utf-8')")) == ["append"]
    assert list(readers("json.loads(path.read_text())\nopen('a.txt')\nimport json")) == []
