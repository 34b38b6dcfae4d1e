"""What a user can get wrong: one error that names the thing and the remedy, nothing half-written, no text of the rows.

Mistakes on the command line itself are in tests/unit/config; those in data files in tests/unit/data.
"""

import errno
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from training_cases import TRAIN, contents, helpful, metrics, says_text, size_of, triple, write_rows

from derta.config import Arm
from derta.errors import InputError

Train = Callable[..., Path]


@pytest.fixture
def refused(train: Train, tmp_path: Path) -> Callable[..., str]:
    """refused(*overrides): the message; the output directory is as it was before, and so is all that lies beside it."""

    def run(*overrides: str, output_dir: Path | None = None) -> str:
        before = contents(tmp_path)
        folders = {path for path in tmp_path.rglob("*") if path.is_dir()}
        with pytest.raises(InputError) as error:
            train(output_dir or tmp_path / "new" / "run", *overrides)
        assert contents(tmp_path) == before
        assert {path for path in tmp_path.rglob("*") if path.is_dir()} == folders
        assert not says_text(str(error.value))
        return str(error.value)

    return run


@pytest.fixture
def model_copy(model_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model_dir, tmp_path / "copy"))


def edit(path: Path, **changes: Any) -> None:
    """Change keys of a JSON file; None removes one."""
    content = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


# Model and tokenizer


def test_a_tokenizer_without_anything_it_needs(model_copy: Path, refused: Callable[..., str]) -> None:
    """All three are listed; each is named with the setting that mends it."""
    (model_copy / "chat_template.jinja").unlink()
    edit(model_copy / "tokenizer_config.json", pad_token=None, eos_token=None)
    message = refused(f"model.name_or_path={model_copy}")
    assert f"the tokenizer of {model_copy} cannot be used" in message
    for part in ("no chat template", "no EOS token", "no pad token", "model.chat_template", "model.eos_token"):
        assert part in message
    assert message == refused(f"model.name_or_path={model_copy}", "objective=dpo")


def test_the_settings_that_the_errors_name_mend_them(model_copy: Path, train: Train, tmp_path: Path) -> None:
    template = tmp_path / "template.jinja"
    shutil.move(model_copy / "chat_template.jinja", template)
    edit(model_copy / "tokenizer_config.json", pad_token=None, eos_token=None)
    run = train(
        tmp_path / "run", f"model.name_or_path={model_copy}", f"model.chat_template={template}",
        'model.pad_token="<|pad|>"', 'model.eos_token="<|eot_id|>"',
    )  # fmt: skip
    assert (run / "chat_template.jinja").is_file()


TOKENIZER, CONFIG, WEIGHTS, TEMPLATE = (
    "tokenizer_config.json", "config.json", "model.safetensors", "chat_template.jinja",
)  # fmt: skip
REFUSES_SOME = (
    "{% for m in messages %}{% if 'zorblat' in m['content'] %}{{ raise_exception(m['content']) }}{% endif %}"
    "{{ m['role'] + m['content'] }}{% endfor %}"
)
REFUSES_ALL = "{{ raise_exception('No rows like: ' + messages[0]['content']) }}"
LFS_POINTER = "version https://git-lfs.github.com/spec/v1\n"
CHANGES_CASE = "{% for m in messages %}{{ m['role'] + m['content'] | upper }}{% endfor %}"


def without(path: Path, name: str) -> None:
    """One of the weights less."""
    weights = load_file(path)
    del weights[name]
    save_file(weights, path, metadata={"format": "pt"})


def pickled(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    torch.save({}, folder / "pytorch_model.bin")


def no_tokenizer(folder: Path) -> None:
    for name in (TOKENIZER, "tokenizer.json"):
        (folder / name).unlink()


UNREADABLE = ("the tokenizer of {} cannot be loaded", "save_pretrained")
UNREADABLE_WEIGHTS = ("the weights of {} cannot be read", "Git LFS")
# what is done to a model's directory, and what is said of it; {} is that directory
MODELS: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "no pad token": (lambda at: edit(at / TOKENIZER, pad_token=None), ("no pad token: set model.pad_token",)),
    "no EOS token": (lambda at: edit(at / TOKENIZER, eos_token=None), ("no EOS token",)),
    "no tokenizer": (no_tokenizer, UNREADABLE),
    "tokenizer cut": (lambda at: os.truncate(at / "tokenizer.json", 100), UNREADABLE),
    "tokenizer of nothing": (lambda at: (at / "tokenizer.json").write_text("{}"), UNREADABLE),
    "template no Jinja": (lambda at: (at / TEMPLATE).write_text("{% for m in %}"), ("not valid Jinja (line 1",)),
    "template refuses": (lambda at: (at / TEMPLATE).write_text(REFUSES_ALL), ("the chat template refuses",)),
    "template refuses some": (
        lambda at: (at / TEMPLATE).write_text(REFUSES_SOME),
        ("the chat template refuses a conversation with the roles ['user']",),
    ),
    "template in capitals": (lambda at: (at / TEMPLATE).write_text(CHANGES_CASE), ("does not write the assistant's",)),
    "template empty": (lambda at: (at / TEMPLATE).write_text(""), ("no chat template",)),
    "no weights": (lambda at: (at / WEIGHTS).unlink(), ("holds no weights",)),
    "pickled": (pickled, ("only pickled weights (pytorch_model.bin)", "save_pretrained()")),
    "weights cut": (lambda at: os.truncate(at / WEIGHTS, (at / WEIGHTS).stat().st_size - 100), UNREADABLE_WEIGHTS),
    "weights empty": (lambda at: (at / WEIGHTS).write_bytes(b""), UNREADABLE_WEIGHTS),
    "weights of LFS": (lambda at: (at / WEIGHTS).write_text(LFS_POINTER), UNREADABLE_WEIGHTS),
    "a weight missing": (
        lambda at: without(at / WEIGHTS, "lm_head.weight"),
        ("lack 1 of its weights (lm_head.weight",),  # it is not made up
    ),
    "other shapes": (lambda at: edit(at / CONFIG, intermediate_size=64), ("cannot be loaded",)),
    "unknown type": (lambda at: edit(at / CONFIG, model_type="nonsense"), ("model type `nonsense`",)),
    "configuration cut": (lambda at: (at / CONFIG).write_text("{"), ("not a valid JSON file",)),
    "few positions": (lambda at: edit(at / CONFIG, max_position_embeddings=16), ("set data.max_length to at most 16",)),
}


@pytest.mark.parametrize("damage", MODELS)
def test_models_that_cannot_be_used(damage: str, model_copy: Path, refused: Callable[..., str]) -> None:
    do, said = MODELS[damage]
    do(model_copy)
    message = refused(f"model.name_or_path={model_copy}")
    for part in said:
        assert part.format(model_copy) in message
    if damage in ("no pad token", "no EOS token"):
        assert message.count("\n") == 1, "nothing else is listed"


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ("model.chat_template=nowhere.jinja", "model.chat_template=nowhere.jinja: no such file or tokenizer directory"),
        ("model.pad_token=nonsense", "model.pad_token='nonsense' is not in the vocabulary of"),
        ("objective.refusal_token_ids=[99999999999999999999]", "each from 0 to"),
        ("model.name_or_path=./missing", "no such directory, and not a hub id"),
        ("peft=lora peft.target_modules=[nonsense]", "the model has none of these modules; it has down_proj"),
        ("peft=lora peft.target_modules=[q_proj,norm]", "LoRA cannot adapt norm (LlamaRMSNorm)"),
        ("distributed=fsdp2", "has nothing to shard"),  # on one rank
    ],
)
def test_settings_that_do_not_fit(overrides: str, expected: str, refused: Callable[..., str]) -> None:
    assert expected in refused(*overrides.split())


def test_a_relative_model_path_that_reads_like_a_hub_id(start, tmp_path):
    """As a whole command: exit code, one message, no traceback, nothing written."""
    launch = start("new/run", "model.name_or_path=models/base")
    assert launch.wait() == 2
    errors = [line for line in launch.output.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "models/base (a hub id: no such directory here) cannot be loaded" in errors[0]
    assert "Traceback" not in launch.output and list(tmp_path.iterdir()) == [launch.log]


def test_a_tokenizer_larger_than_the_model(tiny_model, model_copy, refused):
    tiny_model("llama", 300).save_pretrained(model_copy)
    assert "tokens and the model embeds 300" in refused(f"model.name_or_path={model_copy}")


# Rows


def test_a_prompt_longer_than_max_length(refused: Callable[..., str], tmp_path: Path, train: Train) -> None:
    rows = [helpful(0), triple(1), helpful(2)]
    rows[2]["prompt"][0]["content"] += " Step" * 300
    file = write_rows(tmp_path / "rows.jsonl", rows)
    overrides = ("data.format=preference", f"data.path={file}", "data.max_length=100")
    message = refused(*overrides)
    assert "1 of 3 prompts fill data.max_length=100 tokens" in message
    assert "first: row rows-" in message and "data.long_prompts=drop" in message
    train(tmp_path / "dropped", *overrides, "data.long_prompts=drop")  # the remedy it names
    stored = json.loads((tmp_path / "dropped" / "derta_config.json").read_text())["rows"]
    assert stored["dropped_examples"] == 1 and metrics(tmp_path / "dropped")[0]["dropped_share"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("arm", ["derta", "rto", "dpo"])
def test_max_length_that_drops_every_harmful_response(arm: str, refused: Callable[..., str], tmp_path: Path) -> None:
    rows = [helpful(i) for i in range(4)] + [triple(i) for i in range(3)]
    for row in rows[4:]:
        row["prompt"][0]["content"] += " Step" * 100
    file = write_rows(tmp_path / "rows.jsonl", rows)
    message = refused(
        "data.format=preference", f"data.path={file}", "data.max_length=100", "data.long_prompts=drop",
        f"objective={arm}",
    )  # fmt: skip
    assert "data.max_length=100" in message and "raise data.max_length" in message
    assert "all 3 rows with a harmful response" in message or "3 of 3 prompts" in message


@pytest.mark.parametrize(
    ("arm", "expected"),
    [
        ("rto", "objective=rto needs rows with a harmful response (rejected), and the data hold none"),
        ("derta", "objective=derta needs rows with a harmful response"),
        ("dpo", "objective=dpo needs triples"),
    ],
)
def test_no_rows_with_a_harmful_response(arm: str, expected: str, refused: Callable[..., str], tmp_path: Path) -> None:
    file = write_rows(tmp_path / "rows.jsonl", [helpful(i) for i in range(4)])
    assert expected in refused("data.format=preference", f"data.path={file}", f"objective={arm}")


# Output directory


def test_directories_that_cannot_be_written(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file")
    message = refused(output_dir=tmp_path / "file" / "below")
    assert "cannot be written (Not a directory): choose a directory you may write to" in message
    assert refused(output_dir=tmp_path / "file") == f"output_dir={tmp_path}/file is a file: name a directory"
    assert "output_dir=/proc/derta/run cannot be written" in refused(output_dir=Path("/proc/derta/run"))
    assert "is no usable path (File name too long)" in refused(output_dir=tmp_path / ("long" * 100))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere; the cases above do without permissions")
def test_a_directory_without_permission(refused: Callable[..., str], tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    assert "Permission denied" in refused(output_dir=locked / "run")


def test_a_directory_with_something_else_in_it(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    message = refused(output_dir=tmp_path / "mine")
    assert "is not empty (thesis.tex) and holds no run of derta" in message


def test_another_run(refused, train, tmp_path, rows_file, data_dir):
    """Every difference is listed: settings and data. A moved dataset is the same run; a config.yaml that cannot be read
    is none."""
    run = train(tmp_path / "run", "trainer.max_steps=1")
    message = refused("trainer.seed=7", "objective=vanilla", output_dir=run)
    assert "holds another run; choose another output_dir" in message
    assert "  - trainer.seed: 42 there, 7 now" in message
    assert "  - objective.name: derta there, vanilla now" in message
    changed = tmp_path / "changed.jsonl"
    changed.write_text("\n".join(rows_file.read_text().splitlines()[:-1]) + "\n")
    message = refused("trainer.max_steps=1", "data.format=preference", f"data.path={changed}", output_dir=run)
    assert "  - run.data_sha256: " in message
    shutil.copytree(data_dir, tmp_path / "moved")
    assert train(run, "trainer.max_steps=1", f"data.path={tmp_path}/moved") == run
    for damage in (b"model: [", b"\xff\xfe\x00", b"just text"):
        (run / "config.yaml").write_bytes(damage)
        message = refused("trainer.max_steps=1", output_dir=run)
        assert f"{run}/config.yaml" in message and "restore it, or choose another output_dir" in message


# Resuming


def test_resuming_from_what_is_no_checkpoint(refused: Callable[..., str], model_dir: Path, tmp_path: Path) -> None:
    for path in (model_dir, tmp_path / "nowhere", model_dir / "config.json"):
        message = refused(f"trainer.resume={path}")
        assert f"trainer.resume={path}: not a complete checkpoint" in message and "trainer.resume=auto" in message


# A full disk


BEGUN = {"config.yaml", "metrics.jsonl", "README.md"}  # the card comes with the first checkpoint
SAVING = ("trainer.max_steps=4", "trainer.save_steps=2", "optim.scheduler=constant")


@pytest.fixture(scope="module")
def saved(train: Train, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("saved") / "run", *SAVING)


@pytest.mark.parametrize(
    ("saving", "room"),
    [
        *(("checkpoint", room) for room in (0.05, 0.3, 0.7, 0.98)),  # in the weights, in AdamW's moments, behind them
        *(("final model", room) for room in (0.05, 0.5, 0.75)),
    ],
)
def test_a_full_disk_while_something_is_saved(saving, room, small_disk, train, saved):
    """The second checkpoint, or the final model, finds room for part of itself; afterwards what was complete leads to
    the same end."""
    checkpoint, final = size_of(saved / "checkpoint-2"), size_of(*(path for path in saved.iterdir() if path.is_file()))
    kept, disk = ["checkpoint-2"], (1 + room) * checkpoint + 3 * 4096
    if saving == "final model":
        kept, disk = ["checkpoint-2", "checkpoint-4"], 2 * checkpoint + room * final + 4 * 4096
    run = small_disk(int(disk)) / "run"
    with pytest.raises(InputError) as error:
        train(run, *SAVING)
    message = str(error.value)
    assert f"the disk of output_dir={run} is full: nothing half-written was kept" in message
    assert "start the same command again" in message
    assert {path.name for path in run.iterdir()} == {*kept, *BEGUN}
    for name in kept:
        assert (run / name / "complete.json").is_file()
        assert contents(run / name).keys() == contents(saved / name).keys()
    small_disk(64 * 1024 * 1024)
    train(run, *SAVING)
    assert contents(run)["model.safetensors"] == contents(saved)["model.safetensors"]
    assert [line["step"] for line in metrics(run)] == [1, 2, 3, 4, 4]


def test_a_disk_that_is_full_from_the_start(small_disk: Callable[[int], Path], train: Train, saved: Path) -> None:
    disk = small_disk(4096)
    with pytest.raises(OSError) as error:
        (disk / "file").write_bytes(b"0" * 1024 * 1024)
    assert error.value.errno == errno.ENOSPC, "else this shows nothing"
    (disk / "file").unlink()
    with pytest.raises(InputError, match="is full|cannot be written"):
        train(disk / "run", *SAVING)
    assert contents(disk).keys() <= {"run/config.yaml", "run/metrics.jsonl"}
    small_disk(64 * 1024 * 1024)
    assert contents(train(disk / "run", *SAVING))["model.safetensors"] == contents(saved)["model.safetensors"]


@pytest.mark.parametrize("limit", [20_000, 150_000])
def test_writes_that_fail_for_anyone(limit: int, train: Train, saved: Path, tmp_path: Path) -> None:
    """Without the right to mount: a limit on the size of files (the same code path, EFBIG instead of ENOSPC)."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(InputError, match="is full: nothing half-written was kept"):
            train(tmp_path / "run", *SAVING)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert {path.name for path in (tmp_path / "run").iterdir()} == BEGUN
    run = train(tmp_path / "run", *SAVING)
    assert contents(run)["model.safetensors"] == contents(saved)["model.safetensors"]


def test_a_full_disk_under_two_ranks(start_two, small_disk, tmp_path):
    """Each rank writes a share of the checkpoint; one that finds no room ends both, and what was complete leads on."""
    whole, settings = tmp_path / "whole", (*SAVING, "trainer.micro_batch_size=1", "distributed=zero2")
    assert start_two(whole, *settings).wait() == [0, 0]
    checkpoint = size_of(whole / "checkpoint-2")
    run = small_disk(int(1.6 * checkpoint) + 3 * 4096) / "run"
    full = start_two(run, *settings)
    codes = full.wait()
    assert all(codes) and 2 in codes, full.output
    assert f"the disk of output_dir={run} is full" in full.output and not says_text(full.output)
    assert (run / "checkpoint-2" / "complete.json").is_file()
    assert not (run / "checkpoint-4" / "complete.json").exists() and not (run / "finished.json").exists()
    small_disk(64 * 1024 * 1024)
    again = start_two(run, *settings)
    assert again.wait() == [0, 0] and "goes on from" in again.output, again.output
    assert (run / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_several_mistakes_in_one_message(command: Callable[..., subprocess.CompletedProcess], tmp_path: Path) -> None:
    result = command(
        TRAIN, "objective.rto_dropout=1", "trainer.sede=3", "trainer.epochs=many",
        "objective=derto", "trainer.global_batch_size=10", "trainer.micro_batch_size=4",
    )  # fmt: skip
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr.splitlines() == [
        "error: this configuration cannot run:",
        "  - trainer.sede=3: no key 'sede'; did you mean optim.scheduler or trainer.seed?",
        f"  - objective=derto: no such choice; objective can be {', '.join(sorted(Arm.__members__))}",
        "  - objective.rto_dropout=1: expected a probability in [0, 1); "
        "to train without RTO use objective=harmful_prefix",
        "  - trainer.epochs=many: expected a number above 0",
        "  - trainer.global_batch_size=10 is not divisible by trainer.micro_batch_size=4 x 1 ranks = 4: change one of "
        "the three, for example trainer.global_batch_size=8",
    ]
    assert contents(tmp_path) == {}


def test_zero_without_deepspeed(refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deepspeed", None)  # importing it fails, as where it is not installed
    assert "distributed.deepspeed needs DeepSpeed" in refused("distributed=zero2")
