"""A tiny model, built data and three ways to train on them: in this process, in a forked one, by a real command."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from training_cases import ENVIRONMENT, QUICK, STEPS, helpful, triple, write_rows


@pytest.fixture(scope="session")
def rows_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 triples and 24 helpful rows, as TRL preference rows."""
    rows = [row for i in range(24) for row in (triple(i), helpful(i))]
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", rows)


@pytest.fixture(scope="session")
def data_dir(rows_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same rows, built as launch/build_data.py builds them."""
    from derta.data.build import build
    from derta.data.recipe import load_recipe

    place = tmp_path_factory.mktemp("data")
    recipe = place / "recipe.yaml"
    recipe.write_text(
        "description: rows of the tests\nseed: 1\nfilters: {duplicates: keep}\nsources:\n"
        f"  - {{name: fiction, adapter: preference, path: {rows_file}, licence: cc0-1.0}}\n"
    )
    build(load_recipe(str(recipe), place), place / "built")
    return place / "built"


@pytest.fixture(scope="session")
def model_dir(tiny_model: Callable[..., Any], llama3_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer Llama with its tokenizer and chat template."""
    place = tmp_path_factory.mktemp("model") / "tiny"
    tiny_model("llama", len(llama3_tokenizer)).save_pretrained(place)
    llama3_tokenizer.save_pretrained(place)
    return place


@pytest.fixture(scope="session")
def arguments(model_dir: Path, data_dir: Path) -> Callable[..., list[str]]:
    """Overrides of a run of three steps; later ones win."""

    def make(output_dir: Path | str, *overrides: str) -> list[str]:
        return [
            "model=miniature",
            f"model.name_or_path={model_dir}",
            f"data.path={data_dir}",
            f"output_dir={output_dir}",
            "logging.wandb_mode=disabled",
            *QUICK,
            *overrides,
        ]

    return make


@pytest.fixture(scope="session")
def train(arguments: Callable[..., list[str]]) -> Callable[..., Path]:
    """train(output_dir, *overrides): a run in this process; what a user's mistake raises comes through."""
    from derta.config import TrainRunConfig
    from derta.config.compose import configure
    from derta.release.hub import train_and_push

    def run(output_dir: Path | str, *overrides: str) -> Path:
        return train_and_push(configure("train", TrainRunConfig, arguments(output_dir, *overrides)))

    return run


@pytest.fixture(scope="session")
def whole(train: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of STEPS that nothing interrupts."""
    return train(tmp_path_factory.mktemp("whole") / "run", *STEPS)


@dataclass
class Launch:
    """One run of launch/train.py in a process of its own. `code` is None until it has ended."""

    pid: int
    log: Path
    _answers: Any
    code: int | None = None

    def wait(self) -> int:
        if self.code is None:
            self.code = _answer(self._answers)["code"]
        return self.code

    @property
    def output(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")


def _answer(stream: Any) -> dict[str, int]:
    for line in stream:
        if line.startswith("answer "):
            return json.loads(line.removeprefix("answer "))
    raise AssertionError("the process that runs launch/train.py has ended")


@contextlib.contextmanager
def _server() -> Iterator[subprocess.Popen]:
    command = [sys.executable, str(Path(__file__).with_name("preloaded.py"))]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)
    yield process
    process.stdin.close()
    process.wait(timeout=60)


@pytest.fixture(scope="session")
def fork_server() -> Iterator[subprocess.Popen]:
    with _server() as process:
        yield process


@pytest.fixture(scope="session")
def second_server() -> Iterator[subprocess.Popen]:
    with _server() as process:
        yield process


@dataclass
class TwoRanks:
    """One run of launch/train.py as two ranks, without a launcher that looks after them."""

    ranks: list[Launch]

    def wait(self) -> list[int]:
        return [rank.wait() for rank in self.ranks]

    def kill(self, number: int = signal.SIGKILL, ranks: tuple[int, ...] = (0, 1)) -> None:
        for rank in ranks:
            os.kill(self.ranks[rank].pid, number)

    @property
    def output(self) -> str:
        return "\n".join(rank.output for rank in self.ranks)


@pytest.fixture
def start_two(fork_server, second_server, arguments, tmp_path):
    """start_two(output_dir, *overrides, fault=...): launch/train.py in two forked processes that find each other."""
    launches: list[TwoRanks] = []

    def run(output_dir: Path | str, *overrides: str, fault: dict[str, Any] | None = None) -> TwoRanks:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        ranks = []
        for rank, server in enumerate((fork_server, second_server)):
            environment = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
            environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            environment["DERTA_TEST_FAULT"] = json.dumps(fault) if fault else ""
            log = tmp_path / f"launch-{len(launches)}-rank-{rank}.log"
            ranks.append(_ask(server, arguments(output_dir, *overrides), log, tmp_path, environment))
        launches.append(TwoRanks(ranks))
        return launches[-1]

    yield run
    for launch in launches:
        for rank in launch.ranks:
            if rank.code is None:
                os.kill(rank.pid, signal.SIGKILL)
                rank.wait()


def _ask(
    server: subprocess.Popen, arguments: list[str], log: Path, cwd: Path, environment: dict[str, str] | None = None
) -> Launch:
    request = {"arguments": arguments, "log": str(log), "cwd": str(cwd), "environment": environment or {}}
    server.stdin.write(json.dumps(request) + "\n")
    server.stdin.flush()
    return Launch(_answer(server.stdout)["pid"], log, server.stdout)


@pytest.fixture
def start(fork_server, arguments, tmp_path):
    """start(output_dir, *overrides, fault=...): launch/train.py in a forked process, one at a time."""
    launches: list[Launch] = []

    def run(output_dir: Path | str, *overrides: str, fault: dict[str, Any] | None = None) -> Launch:
        log = tmp_path / f"launch-{len(launches)}.log"
        environment = {"DERTA_TEST_FAULT": json.dumps(fault) if fault else ""}
        launches.append(_ask(fork_server, arguments(output_dir, *overrides), log, tmp_path, environment))
        return launches[-1]

    yield run
    for launch in launches:
        launch.wait()


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess]:
    """command(*words): a real command in an empty directory, with stdout and stderr as text."""

    def run(*words: str, **environment: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            words, cwd=tmp_path, env={**ENVIRONMENT, **environment}, capture_output=True, text=True, timeout=300
        )

    return run


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """small_disk(bytes): a directory on a disk of that size, or that one resized."""
    place = tmp_path / "disk"

    def mount(size: int) -> Path:
        options = f"size={size}" if place.is_dir() else ""
        place.mkdir(exist_ok=True)
        words = ["-o", f"remount,{options}"] if options else ["-t", "tmpfs", "-o", f"size={size}", "tmpfs"]
        done = subprocess.run(["mount", *words, str(place)], capture_output=True, text=True)
        if done.returncode != 0:
            pytest.skip(f"no small disk without the right to mount: {done.stderr.strip()}")
        return place

    yield mount
    subprocess.run(["umount", "--lazy", str(place)], capture_output=True)
