"""A tiny model, built data and three ways to train on them: in this process, in a forked one, by a real command."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from training_cases import (
    ENVIRONMENT,
    QUICK,
    STEPS,
    free_port,
    helpful,
    interrupted_copy,
    same_runs,
    triple,
    write_rows,
)


@pytest.fixture(scope="session")
def rows_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 triples and 24 helpful rows, as TRL preference rows."""
    rows = [row for i in range(24) for row in (triple(i), helpful(i))]
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", rows)


@pytest.fixture(scope="session")
def built(rows_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """built(**settings of the recipe): the same rows, built as launch/build_data.py builds them."""
    from derta.data.build import build
    from derta.data.recipe import load_recipe

    def make(**settings: Any) -> Path:
        place = tmp_path_factory.mktemp("data")
        source = {"name": "fiction", "adapter": "preference", "path": str(rows_file), "licence": "cc0-1.0"}
        recipe = {"description": "rows of the tests", "seed": 1, "filters": {"duplicates": "keep"}, "sources": [source]}
        (place / "recipe.yaml").write_text(json.dumps(recipe | settings))  # JSON is YAML
        build(load_recipe(str(place / "recipe.yaml"), place), place / "built")
        return place / "built"

    return make


@pytest.fixture(scope="session")
def data_dir(built: Callable[..., Path]) -> Path:
    return built()


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


@pytest.fixture
def resumed(train: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """resumed(*STEPS, *overrides, step=4): a whole run, to which one that goes on from a checkpoint is equal."""

    def run(*words: str, step: int = 4) -> Path:
        whole = train(tmp_path / "whole", *words)
        assert same_runs(train(interrupted_copy(whole, tmp_path / "resumed", step), *words), whole)
        return whole

    return run


Ask = Callable[[dict[str, Any]], int]


@dataclass
class Launch:
    """A command in a process of its own. `code` is None until somebody has waited for its end."""

    pid: int
    log: Path
    ask: Ask
    code: int | None = None

    def wait(self) -> int:
        if self.code is None:
            self.code = self.ask({"wait": self.pid})
        return self.code

    @property
    def output(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")


@dataclass
class TwoRanks:
    """A command as two ranks, without a launcher that looks after them."""

    ranks: list[Launch]

    def wait(self) -> list[int]:
        return [rank.wait() for rank in self.ranks]

    @property
    def output(self) -> str:
        return "\n".join(rank.output for rank in self.ranks)


@pytest.fixture(scope="session")
def ask() -> Iterator[Ask]:
    """ask(request): what preloaded.py answers."""
    command = [sys.executable, str(Path(__file__).with_name("preloaded.py"))]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, text=True, env=ENVIRONMENT) as process:

        def answer(request: dict[str, Any]) -> int:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            for line in process.stdout:
                if line.startswith("answer "):
                    return int(line.removeprefix("answer "))
            raise AssertionError("the process that runs the commands has ended")

        yield answer


@pytest.fixture
def launch(ask: Ask, tmp_path: Path) -> Iterator[Callable[..., Launch]]:
    """launch(words, script=..., cwd=..., fault=..., NAME=value of the environment): a command of launch/, train if
    nothing else is said, in a forked process, which the end of the test ends."""
    launches: list[Launch] = []

    def run(
        words: list[str], *, script: str = "train", cwd: Path = tmp_path, fault: dict[str, Any] | None = None,
        **environment: str,
    ) -> Launch:  # fmt: skip
        log = tmp_path / f"launch-{len(launches)}.log"
        environment["DERTA_TEST_FAULT"] = json.dumps(fault) if fault else ""
        request = {"script": script, "arguments": words, "log": str(log), "cwd": str(cwd), "environment": environment}
        launches.append(Launch(ask(request), log, ask))
        return launches[-1]

    yield run
    for one in launches:
        if one.code is None:
            os.kill(one.pid, signal.SIGKILL)
            one.wait()


@pytest.fixture
def launch_two(launch: Callable[..., Launch]) -> Callable[..., TwoRanks]:
    """`launch` of two ranks that find each other."""

    def run(words: list[str], **settings: Any) -> TwoRanks:
        settings |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
        settings["MASTER_PORT"] = str(free_port())
        return TwoRanks([launch(words, **settings, RANK=str(rank), LOCAL_RANK=str(rank)) for rank in (0, 1)])

    return run


@pytest.fixture
def start(launch, arguments):
    """start(output_dir, *overrides, ...): launch/train.py on the tests' model and rows, and what `launch` takes."""
    return lambda *words, **settings: launch(arguments(*words), **settings)


@pytest.fixture
def start_two(launch_two, arguments):
    """`start` of two ranks."""
    return lambda *words, **settings: launch_two(arguments(*words), **settings)


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess]:
    """command(*words, NAME=value of the environment): `python WORDS` in an empty directory; its output is text."""

    def run(*words: Any, **environment: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, *map(str, words)], cwd=tmp_path, env={**ENVIRONMENT, **environment},
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip

    return run


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """small_disk(bytes): a directory on a disk of that size, or that one resized."""
    place = tmp_path / "disk"

    def mount(size: int) -> Path:
        words = ["-o", f"remount,size={size}"] if place.is_dir() else ["-t", "tmpfs", "-o", f"size={size}", "tmpfs"]
        place.mkdir(exist_ok=True)
        done = subprocess.run(["mount", *words, str(place)], capture_output=True, text=True)
        if done.returncode != 0:
            pytest.skip(f"no small disk without the right to mount: {done.stderr.strip()}")
        return place

    yield mount
    subprocess.run(["umount", "--lazy", str(place)], capture_output=True)
