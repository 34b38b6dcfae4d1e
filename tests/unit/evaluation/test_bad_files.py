"""A hunt: files that nobody should have, given to every reader. Each ends in one InputError that names the file and the
line, item, row or field, and none of its text; none in another exception."""

import base64
import gzip
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from derta.config.prompts import PromptFormat
from derta.data.load import load_rows
from derta.data.overviews import read_overviews
from derta.direction.selection import read_table
from derta.direction.suffix import read_suffixes
from derta.errors import InputError
from derta.evaluation.prompts import read_prompts
from derta.evaluation.stored.responses import read_responses

SECRET = "stir the gloomsteps"  # in every file; in no message
S = json.dumps(SECRET)
USER = f'[{{"role": "user", "content": {S}}}]'
CHOSEN = f'[{{"role": "assistant", "content": {S}}}]'


def _parquet(table: pa.Table, **settings: Any) -> bytes:
    sink = io.BytesIO()
    pyarrow.parquet.write_table(table, sink, **settings)
    return sink.getvalue()


def _stream(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


PROMPTS = pa.table({"prompt": [SECRET] * 50})
TWICE = pa.Table.from_arrays([pa.array([SECRET]), pa.array(["b"])], names=["prompt", "prompt"])
NOT_UTF8 = pa.table({"prompt": pa.array([b"\xff\xfe"], pa.binary()).view(pa.string())})
BYTES = pa.table({"prompt": pa.array([SECRET.encode()], pa.binary())})
NULLS = pa.table({"prompt": pa.array([None, SECRET], pa.string())})
NO_COLUMN = pa.table({})
LATE = pa.table({"prompt": pa.array([2**62], pa.timestamp("us"))})

# name of the file -> contents that no reader of records takes
FILES: dict[str, list[str | bytes]] = {
    "a.jsonl": [
        "", "\n \n", "\ufeff", f'{{"prompt": {S}', f'{{"prompt": {S}}}}}', f"{{'prompt': {S}}}",
        f'{{"prompt": {S},}}', f'{{"prompt": {S}}}{{"prompt": {S}}}', f'{{"prompt": {S}, "prompt": {S}}}', f"[{S}]",
        "null", "3", "NaN", f'{{"prompt": "{SECRET}', f'{{"prompt": "\\x{SECRET}"}}', f'{{"prompt": "{SECRET}\t"}}',
        "[" * 50_000, f'{{"prompt": {"[" * 20_000}', f'{{"prompt": {S}, "n": {"9" * 5000}}}',
        f'{{"prompt": {S}}}\n{{"prompt"\n', f"prompt\n{SECRET}\n", f"<html>{SECRET}</html>",
        f'{{"prompt": {S}}}'.encode("utf-16"), f'{{"prompt": {S}}}'.encode() + b"\xe9\n", gzip.compress(S.encode()),
        b"\x00" * 40, b"PAR1" + S.encode(),
    ],
    "a.json": [
        "", "[]", "{}", "null", "3", S, f"[{S}", f"[{S}, 3]", '{"completions": []}', f'{{"completions": [{S}, 3]}}',
        f'[{{"prompt": {S}}}, null]', f'[{{"prompt": {S}}} {{"prompt": {S}}}]', f'[{{"prompt": {S}, "prompt": "b"}}]',
        f'{{"prompt":\n {S}', f'{{"a": {{"prompt": {S}}}}}', f"[[{S}]]", "[" * 50_000, f'[{{"n": {"9" * 5000}}}]',
        f'[{{"prompt": {S}}}]'.encode("utf-16"), f'{{"prompt": {S}}}\n{{"prompt": {S}\n', f"[NaN, {S}]", "{" * 50_000,
    ],
    "a.csv": [
        "", "\n\n", "prompt,response", f"prompt,response\n{SECRET}\n", f"prompt,response\n{SECRET},b,c\n",
        f"prompt,prompt\n{SECRET},b\n", f'prompt,response\n"{SECRET},b\n', f'prompt,response\n"{SECRET}"x,b\n',
        f"prompt;response\n{SECRET};b\n", f"prompt\tresponse\n{SECRET}\tb\n",
        f"prompt,response\n{SECRET},b\n".encode("utf-16"), f"prompt,response\n{SECRET},\xe9\n".encode("latin1"),
        f"{SECRET},{SECRET} too\n{SECRET},b\n", f"prompt,response\r\n{SECRET},b\r\n{SECRET}\r\n",
        f'prompt,response\n{SECRET},"a\nb"\n{SECRET}\n', b"\x00\x00\n\x00\n",
    ],
    "a.tsv": [
        "", f"prompt\tresponse\n{SECRET}\n", f"prompt,response\n{SECRET},b\n", f"prompt\tprompt\n{SECRET}\tb\n",
        f'prompt\tresponse\n"{SECRET}\tb\n',
    ],
    "a.parquet": [
        b"", S.encode(), _parquet(PROMPTS)[:-30], _parquet(PROMPTS)[40:], b"PAR1" + b"\x00" * 40 + b"PAR1",
        _parquet(TWICE), _parquet(NOT_UTF8), _parquet(BYTES), _parquet(NULLS), _parquet(NO_COLUMN),
        _parquet(PROMPTS.slice(0, 0)), _parquet(LATE),
    ],
    "a.arrow": [
        b"", S.encode(), _stream(PROMPTS)[:60], _stream(PROMPTS)[:-300], _stream(TWICE), _stream(NOT_UTF8),
        _stream(BYTES), _stream(NO_COLUMN), _stream(PROMPTS.slice(0, 0)),
    ],
    "a.jsonl.gz": [gzip.compress(f'{{"prompt": {S}}}'.encode())],
    "a.txt": [SECRET],
    "a.xlsx": [base64.b64decode("UEsDBBQAAAAIAA==")],
    "a": [f'{{"prompt": {S}}}'],
}  # fmt: skip

# records that are whole, but not what the reader asks for
RECORDS: dict[str, list[str]] = {
    "prompts": [
        "{}",
        f'{{{S}: "a"}}',
        '{"prompt": ""}',
        '{"prompt": null}',
        '{"prompt": []}',
        f'{{"prompt": [{S}]}}',
        '{"prompt": [{"role": "user"}]}',
        '{"question": "a \\udc00 b"}',
        f'{{"prompt": {S}, "id": true}}',
        f'{{"prompt": {S}, "id": "\\ud83d"}}',
        f'{{"goal": {S}, "prompt": {{}}}}',
        f'{{"goal": "\\ud83d", "prompt": {S}}}',
        f'{{"Behavior": {S}, "ContextString": "\\ud83d"}}',
        f'{{"Behavior": {S}, "ContextString": 3}}',
        f'{{"prompt": {S}, "type": null, "label": null}}',
        '{"adversarial": "", "vanilla": "", "data_type": "vanilla_harmful"}',
        f'{{"adversarial": {S}, "data_type": 3}}',
        f'{{"messages": [{{"role": "assistant", "content": {S}}}]}}',
        '{"messages": [{"role": "user", "content": null}]}',
        f'{{"messages": [{{"role": [], "content": {S}}}]}}',
        f'{{"conversations": [{{"from": 3, "value": {S}}}]}}',
        '{"conversations": [{"from": "human"}]}',
        f'{{"question": {S}}}\n{{"answer": {S}}}',
    ],
    "responses": [
        "{}",
        f"{{{S}: 3}}",
        f'{{"response": [{S}]}}',
        f'{{"response": {S}, "prompt": "\\udc00"}}',
        f'{{"response": {S}, "id": 1.5}}',
        f'{{"response": {S}, "is_jailbreak": []}}',
        f'{{"response": {S}, "context": "\\ud83d"}}',
        f'{{"messages": {USER}}}',
        f'{{"messages": [{{"role": "user", "content": 3}}, {{"role": "assistant", "content": {S}}}]}}',
        f'{{"prompt_set": "h", "attack": "direct", "id": 1, "response": {S}, "outcome": "complied"}}',
        f'{S}\n{{"response": 3}}',
        '"\\ud83d"',
    ],
    "rows": [
        "{}",
        f'{{"prompt": {USER}}}',
        f'{{"prompt": {USER}, "chosen": null, "rejected": null}}',
        f'{{"prompt": {USER}, "chosen": 3, "rejected": null}}',
        f'{{"prompt": [], "chosen": {CHOSEN}, "rejected": null}}',
        f'{{"prompt": {USER}, "chosen": {USER}, "rejected": null}}',
        f'{{"prompt": 3, "chosen": {CHOSEN}, "rejected": null}}',
        f'{{"prompt": {USER}, "chosen": [{{"role": "assistant", "content": "\\ud83d"}}], "rejected": null}}',
        f'{{"prompt": {USER}, "chosen": {CHOSEN}, "rejected": {CHOSEN}}}',
        f'{{"prompt": {S}, "chosen": {S}, "rejected": 3}}',
        f'{{"prompt": {USER}, "chosen": {CHOSEN}, "rejected": null, "id": []}}',
        f'{{{S}: 1, "rejected": null}}',
    ],
    "overviews": [
        "{}",
        f'{{"id": "a", "overview": {S}}}',
        f'{{"id": 1.5, "overview": {S}, "reason": {S}}}',
        f'{{"id": "a", "overview": {S}, "reason": "\\ud83d"}}',
        f'{{"id": "a", "overview": {S}, "reason": {S}, "refusal": ""}}',
        f'{{"id": "a", "overview": {S}, "reason": {S}}}\n{{"id": "a", "overview": {S}, "reason": {S}}}',
    ],
    "suffixes": [
        "{}",
        f'{{"id": 1, "suffix": {S}}}',
        '{"id": "a", "suffix": null}',
        '{"id": "a", "suffix": "\\ud83d"}',
        f'{{"id": "a", "suffix": {S}}}\n{{"id": "a", "suffix": {S}}}',
    ],
    "candidates": [
        "{}",
        '{"position": -1, "layer": true, "refusal_score": 1, "steering_score": 1, "kl_div_score": 1}',
        f'{{"position": -1, "layer": 1, "refusal_score": {S}, "steering_score": 1, "kl_div_score": 1}}',
    ],
}

ROW = {"id": "a", "prompt": [{"role": "user", "content": "q"}], "chosen": None, "rejected": None, "kind": "safety"}
READERS: dict[str, Callable[[Path], Any]] = {
    "prompts": lambda path: read_prompts(str(path), PromptFormat.prompts, harmful=True),
    "responses": lambda path: read_responses(str(path)),
    "rows": lambda path: load_rows(path, "preference"),
    "overviews": read_overviews,
    "suffixes": lambda path: read_suffixes(str(path), [ROW]),
    "candidates": read_table,
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(("name", "number"), [(name, i) for name, found in FILES.items() for i in range(len(found))])
def test_files_that_no_reader_takes(tmp_path: Path, reader: str, name: str, number: int) -> None:
    content = FILES[name][number]
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError) as error:
        READERS[reader](tmp_path / name)
    message = str(error.value)
    assert name in message and SECRET not in message, message
    assert len(message) < 3000 and "Traceback" not in message


@pytest.mark.parametrize(
    ("reader", "number"), [(reader, i) for reader, found in RECORDS.items() for i in range(len(found))]
)
def test_records_that_their_reader_does_not_take(tmp_path: Path, reader: str, number: int) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(RECORDS[reader][number])
    with pytest.raises(InputError) as error:
        READERS[reader](path)
    message = str(error.value)
    assert re.search(r"a\.jsonl, line [12]\b|a\.jsonl: no readable evaluation.json", message), message
    assert SECRET not in message, message
    assert re.search(r"field|column|expected|position|layer|the same id|evaluation.json", message), message


@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_file(tmp_path: Path, reader: str) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "gone.jsonl")
    for name in ("gone.jsonl", "folder.jsonl", "link.jsonl", "x" * 300 + ".jsonl"):
        with pytest.raises(InputError, match=re.escape(name)):
            READERS[reader](tmp_path / name)
