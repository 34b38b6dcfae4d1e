"""What is done in one module of derta/ only, read off the syntax trees."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

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


def test_conversations_become_tokens_in_one_place():
    files = [*(ROOT / "derta").rglob("*.py"), *(ROOT / "launch").rglob("*.py")]
    found = {
        str(file.relative_to(ROOT)): lines for file in files if (lines := list(tokenising(file.read_text("utf-8"))))
    }
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
