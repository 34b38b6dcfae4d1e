"""YAML files to plain values. What YAML lets pass in silence is an error here: a key given twice (the first value would
be lost), and half of a surrogate pair (no tokenizer and no file takes it)."""

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from derta.errors import InputError


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        first: dict[tuple[str, str], yaml.Node] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and first.setdefault((key.tag, key.value), key) is not key:
                line = first[key.tag, key.value].start_mark.line + 1
                raise yaml.constructor.ConstructorError(
                    problem=f"the key '{key.value}' is given twice, first on line {line}", problem_mark=key.start_mark
                )
        return super().construct_mapping(node, deep)

    def construct_scalar(self, node: Any) -> Any:
        value = super().construct_scalar(node)
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise yaml.constructor.ConstructorError(
                problem="half of a surrogate pair, which is no character", problem_mark=node.start_mark
            )
        return value


def read_yaml(path: Path) -> Any:
    """The values of one file.
    Raises InputError: not readable, not UTF-8, not YAML, or a key given twice; with the line."""
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); fix: give a file you may read") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: expected UTF-8 text; fix: save the file as UTF-8") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        what = getattr(error, "problem", None) or "cannot be parsed"
        fix = "give it once" if "given twice" in what else "correct the indentation or quoting there"
        raise InputError(f"{path}{line}: not valid YAML ({what}); fix: {fix}") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets nested as deep
        raise InputError(f"{path}: not valid YAML ({type(error).__name__}); fix: correct the file") from None
