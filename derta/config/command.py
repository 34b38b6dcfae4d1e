"""A command of launch/: key=value words in, one dataclass for the function that runs, every mistake at once.

    main = Command("gate", GateRunConfig, run, __doc__)

--help, --cfg job and -m are answered here, other flags (tab completion, --hydra-help, --config-dir) by Hydra.
"""

import gc
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from derta.config.failures import fail, is_main_rank, reported, world_size
from derta.config.settings import Settings
from derta.config.shipped import as_typed
from derta.errors import InputError

ConfigT = TypeVar("ConfigT", bound=Settings)

_HELP, _SHOW = {"-h", "--help"}, {"-c", "--cfg", "--resolve"}
_SWEEP = {"-m", "--multirun", "hydra.mode=MULTIRUN"}
_QUIET = ("hydra.run.dir=.", "hydra.output_subdir=null", "hydra/job_logging=none", "hydra/hydra_logging=none")


@dataclass(frozen=True)
class Command(Generic[ConfigT]):
    """The `main` of a file of launch/.

    name: of the file, and of a command of several in it. run: what is done with a configuration; a number that it
    returns is the exit code. about: the file's docstring, the head of --help. conf: the configuration in conf/, where
    that has another name. together: in place of `run`: takes every combination of a sweep at once, with the words that
    make it. modern: turns older spellings into today's words, of which the user is told.
    """

    name: str
    schema: type[ConfigT]
    run: Callable[[ConfigT], Any] | None = None
    about: str | None = None
    conf: str = ""
    together: Callable[[list[tuple[list[str], ConfigT]]], Any] | None = None
    modern: Callable[[list[str]], list[str]] = list

    def __call__(self, words: Sequence[str] | None = None) -> None:
        """Answer the words of the command line; what is wrong with them, or the exit code, ends the process."""
        with reported():
            if code := self.answer(sys.argv[1:] if words is None else words):
                sys.exit(code)

    def answer(self, given: Sequence[str]) -> int:
        """Do what the words ask for, and return the exit code.
        Raises InputError: everything that is wrong with them, listed, or what the command finds wrong."""
        words = self.modern(list(given))
        if words != list(given) and is_main_rank():
            print(as_typed(f"note: this is now {self._typed} {shlex.join(words)}"), file=sys.stderr)
        flags = {word for word in words if word.startswith("-")} - _SWEEP
        overrides = [word for word in words if not word.startswith("-") and word not in _SWEEP]
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # TRL reports usage; read early
        gc.disable()  # what is made until the work begins is made to stay
        try:
            if flags and flags <= _HELP:
                self._print_help(overrides)
            elif flags and flags <= _SHOW and "job" in overrides:
                self._print_values([word for word in overrides if word != "job"], resolve="--resolve" in flags)
            elif flags:
                self._leave_to_hydra(words)
            else:
                return self._run(overrides, swept=len(overrides) < len(words))
        finally:
            gc.enable()
        return 0

    def _run(self, overrides: list[str], swept: bool) -> int:
        from derta.config.compose import combinations, read

        if swept and "RANK" in os.environ:
            fail(
                "-m under torchrun would run the jobs one by one in the same processes; use: "
                f"python {self._typed.replace('train', 'sweep')} -m {shlex.join(overrides)}"
            )
        if world_size() > 1 and (clocks := [word for word in overrides if "${now:" in word]):
            fail(f"{clocks[0]}: every rank would read its own clock and take its own directory; write the time out")
        jobs, problems = [], []
        for words in combinations(overrides) if swept else [overrides]:
            config, found = read(self.conf or self.name, self.schema, words)
            jobs.append((words, config))
            problems += found
        _check(problems)
        gc.enable()
        return self._do(jobs)

    def _do(self, jobs: list[tuple[list[str], ConfigT]]) -> int:
        codes = [self.together(jobs)] if self.together else [self.run(config) for _, config in jobs if self.run]
        return max(code or 0 for code in codes)

    @property
    def _typed(self) -> str:
        script, _, subcommand = self.name.partition(" ")
        return f"launch/{script}.py {subcommand}".rstrip()

    def _print_help(self, overrides: list[str]) -> None:
        from derta.config.compose import groups
        from derta.config.help_text import help_text

        values = self._values(overrides, resolve=False)
        print(as_typed(help_text(self.about or "", self.schema, groups(self.schema), values)))

    def _print_values(self, overrides: list[str], resolve: bool) -> None:
        import yaml

        print(yaml.safe_dump(self._values(overrides, resolve), sort_keys=False, allow_unicode=True), end="")

    def _values(self, overrides: list[str], resolve: bool) -> Any:
        """The composed configuration, nested and plain."""
        from omegaconf import OmegaConf

        from derta.config.compose import composed, look_up

        good, problems = look_up(self.schema, overrides)
        _check(problems)
        return OmegaConf.to_container(composed(self.conf or self.name, self.schema, good), resolve=resolve)

    def _leave_to_hydra(self, words: list[str]) -> None:
        import hydra
        from omegaconf import DictConfig

        from derta.config.compose import chosen_model, from_hydra, primary

        def task(composed: DictConfig) -> None:
            with reported():
                config, problems = from_hydra(composed, self.schema)
                _check(problems)
                gc.enable()
                sys.exit(self._do([(words, config)]))

        first = next(
            (place for place, word in enumerate(words) if not word.startswith("-") and "=" in word), len(words)
        )
        more = [*_QUIET, *chosen_model(self.schema, words)]
        sys.argv[1:] = [*words[:first], *more, *words[first:]]  # argparse takes overrides in one piece
        name, folder = primary(self.conf or self.name, self.schema)
        hydra.main(version_base="1.3", config_path=folder, config_name=name)(task)()


def listing(*keys: str) -> Callable[[list[str]], list[str]]:
    """Older spellings of lists: key=a,b as key=[a,b]."""

    def modern(words: list[str]) -> list[str]:
        parts = [word.partition("=") for word in words]
        older = [key in keys and bool(value) and not value.startswith("[") for key, _, value in parts]
        return [f"{part[0]}=[{part[2]}]" if old else word for word, part, old in zip(words, parts, older, strict=True)]

    return modern


def _check(problems: Sequence[str]) -> None:
    if problems:
        raise InputError.listing("this configuration cannot run:", dict.fromkeys(problems))
