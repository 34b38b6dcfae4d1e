"""Hydra at the edge: schema registration, every mistake reported at once, errors without tracebacks.

Hydra stops at the first bad override. Users who mistype two want to hear of both, so when composing fails each override
is tried alone and the values of the good ones are checked too.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import re
import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from derta.config.failures import end_rank, is_loader_death, tell_launcher
from derta.config.help_text import help_text
from derta.config.paths import expand_home, home_in_argument
from derta.config.shipped import CONF_DIR, as_typed
from derta.errors import InputError, RunStopped

ConfigT = TypeVar("ConfigT")
_SECONDS_FOR_RANK_0 = 5

_BLANKS = re.compile(r"\s+")
_NO_KEY = re.compile(r"Key '([^']+)' is not in struct|Key '([^']+)' not in '")
_NO_CHOICE = re.compile(r"Available options in '([^']+)': (.*?) Config search path")
_WRONG_TYPE = re.compile(r"could not be converted to (\w+)|is not a valid (\w+)")
_WRONG_MEMBER = re.compile(r"Invalid value '[^']*', expected one of \[([^\]]*)\]")
_NO_ATTRIBUTE = re.compile(r"Config' object has no attribute '(\w+)'")
_HYDRA_NOISE = re.compile(
    r"Error merging override \S+ | ?full_key: .*| Config search path: .*| See https://hydra\.cc.*"
)
_TYPE_NAMES = {"Float": "a number", "Integer": "a whole number", "bool": "true or false"}
_QUOTED = "put it in quotes inside quotes, for example 'data.path=\"rows, part 1.jsonl\"'"
_REMEDIES = {  # what Hydra's or OmegaConf's message holds -> what to say instead
    "missing EQUAL": "expected key=value or group=choice",
    "is not a ListConfig": "expected a list: key=[first,second]",
    "to Dict[": "expected a mapping",
    "is not Optional": "expected a value; null is not allowed here",
    "to string": "expected text",
    "does not support deletion": "a key cannot be deleted; give it a value",
    "Config group override must be": "expected the name of one of this group's choices",
    "missing mandatory value": "expected a value",
    "Unexpected type: None": "this is null here, so there is no key to set; take a choice of the group that has it",
    "'NoneType' object has no attribute": "null cannot be replaced by a mapping here; take a choice of the group first",
    "Ambiguous value": f"several values: a sweep is `python launch/sweep.py -m ...`; for a text with commas, {_QUOTED}",
}
_UNREADABLE = (
    "mismatched input",
    "no viable alternative",
    "token recognition error",
    "extraneous input",
    "NoViableAlt",
)
# What composing raises for wrong input; the built-in ones come from group overrides and from keys added with ++.
_COMPOSE_ERRORS = (HydraException, OmegaConfBaseException, ValueError, AttributeError, AssertionError)


def register_schema(name: str, schema: type) -> None:
    """Make a dataclass available to conf/ as the config `name`."""
    ConfigStore.instance().store(name=name, node=schema)


def world_size() -> int:
    """Ranks of this job, as torchrun and accelerate announce them."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main_rank() -> bool:
    return os.environ.get("RANK", "0") == "0"


def to_config(cfg: DictConfig, schema: type[ConfigT]) -> ConfigT:
    """The composed configuration as plain dataclasses; no OmegaConf object goes any further."""
    config = OmegaConf.to_object(cfg)
    assert isinstance(config, schema)
    return expand_home(config)


def launch(
    hydra_main: Callable[[], Any], config_name: str, check: Callable[[DictConfig], list[str]], sweep_hint: str = ""
) -> None:
    """Run a `@hydra.main` function after checking the command line.

    Args:
        check: problems of a composed configuration (contradictions, ranges).
        sweep_hint: the command to suggest for `-m` under torchrun.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # TRL reports usage; read when the hub's client is imported
    arguments = sys.argv[1:] = [home_in_argument(argument) for argument in sys.argv[1:]]
    multirun = {"-m", "--multirun", "hydra.mode=MULTIRUN"} & set(arguments)
    if multirun and "RANK" in os.environ:
        others = " ".join(argument for argument in arguments if argument not in multirun)
        fail(f"-m under torchrun would run the jobs one by one in the same processes; use: {sweep_hint} {others}")
    if world_size() > 1 and (clocks := [argument for argument in arguments if "${now:" in argument]):
        fail(f"{clocks[0]}: every rank would read its own clock and take its own directory; write the time out")
    overrides = [argument for argument in arguments if not argument.startswith("-")]
    wants_help = len(arguments) == len(overrides) + 1 and bool({"-h", "--help"} & set(arguments))
    if wants_help:
        with contextlib.suppress(*_COMPOSE_ERRORS):  # what does not compose is explained below
            return print(as_typed(help_text(CONF_DIR, config_name, overrides)))
    if wants_help or len(overrides) == len(arguments):
        problems = command_line_problems(arguments, config_name, check)
        if problems:
            fail(str(InputError.listing("this configuration cannot run:", problems)))
    hydra_main()


def reporting_errors(function: Callable[..., Any], *args: Any) -> Any:
    """Call `function`; an InputError becomes one message and exit code 2, a RunStopped one and its own code, and with
    several ranks the error of the rank that failed first comes before what its end causes in the others."""
    try:
        return function(*args)
    except InputError as error:
        tell_launcher(error)
        fail(str(error))
    except RunStopped as stop:
        tell_launcher(stop)
        if is_main_rank():
            print(str(stop), file=sys.stderr, flush=True)
        sys.exit(stop.exit_code)
    except Exception as error:
        if world_size() == 1 and not is_loader_death(error):
            raise
        end_rank(error)


def fail(message: str) -> None:
    """Say it once, whatever the number of ranks, and stop."""
    message = as_typed(message)
    if is_main_rank():
        print(f"error: {message}", file=sys.stderr, flush=True)
    else:
        # Where rank 0 has failed too, the launcher ends this process before it repeats the message.
        time.sleep(_SECONDS_FOR_RANK_0)
        print(f"error on rank {os.environ['RANK']}: {message}", file=sys.stderr, flush=True)
    sys.exit(2)


def command_line_problems(
    overrides: list[str], config_name: str, check: Callable[[DictConfig], list[str]]
) -> list[str]:
    """Everything wrong with these overrides; empty when the run may start."""
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        composed, whole = _compose(config_name, overrides)
        if composed is not None:
            return check(composed)
        problems, good = [], []
        for override in overrides:
            _, error = _compose(config_name, [override])
            if error is None:
                good.append(override)
            else:
                problems.append(f"{override}: {_explain(error, config_name)}")
        if whole is not None and not problems:  # they only fail together
            return [_explain(whole, config_name)]
        composed, _ = _compose(config_name, good)
        return problems + (check(composed) if composed is not None else [])


def _compose(config_name: str, overrides: list[str]) -> tuple[DictConfig | None, Exception | None]:
    """The configuration, or why there is none."""
    try:
        composed = compose(config_name, overrides)
        OmegaConf.to_object(composed)
    except _COMPOSE_ERRORS as error:
        return None, error
    return composed, None


def _explain(error: Exception, config_name: str) -> str:
    """Hydra's message in one line of our own, with the remedy."""
    parts = [str(error)] + ([str(error.__cause__)] if error.__cause__ else [])
    text = _BLANKS.sub(" ", " ".join(parts)).strip()
    if match := _NO_KEY.search(text) or _NO_ATTRIBUTE.search(text):
        key = next(group for group in match.groups() if group)
        known = _keys(OmegaConf.to_container(compose(config_name, [])))
        near = difflib.get_close_matches(key, {name.rsplit(".", 1)[-1] for name in known}, 3)
        close = [name for name in known if name.rsplit(".", 1)[-1] in near]
        hint = f"did you mean {' or '.join(close[:3])}?" if close else "--cfg job lists the keys"
        return f"no key {key!r}; {hint}"
    if match := _NO_CHOICE.search(text):
        return f"no such choice; {match[1]} can be {', '.join(match[2].split())}"
    if match := _WRONG_TYPE.search(text):
        return f"expected {_TYPE_NAMES.get(match[1] or match[2], match[1] or match[2])}"
    if match := _WRONG_MEMBER.search(text):
        return f"expected one of {match[1].lower() if match[1].isupper() else match[1]}"
    for found, remedy in _REMEDIES.items():
        if found in text:
            return remedy
    if any(phrase in text for phrase in _UNREADABLE):
        return f"Hydra cannot read this value; {_QUOTED}"
    return _HYDRA_NOISE.sub("", text)


def _keys(tree: Any, prefix: str = "") -> list[str]:
    if not isinstance(tree, dict):
        return [prefix[:-1]]
    return [key for name, value in tree.items() for key in _keys(value, f"{prefix}{name}.")]
