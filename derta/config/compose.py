"""From words on a command line to settings. Hydra composes; keys, choices and values are looked up here, so that every
mistake is reported at once and in our words.

    key=value ...  --Hydra-->  nested values  --pydantic-->  dataclass

Hydra is handed values without types: conf/NAME.yaml, where there is one, on top of the defaults of the dataclass.
"""

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

from hydra import compose, initialize, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from derta.config.paths import expand_home, home_in_argument
from derta.config.settings import (
    Settings,
    bare,
    checked,
    field_at,
    hints,
    is_mapping,
    is_settings,
    key_problem,
    plain,
)
from derta.config.shipped import CONF_DIR
from derta.errors import InputError

ConfigT = TypeVar("ConfigT", bound=Settings)

_QUOTED = "put it in quotes inside quotes, for example 'data.path=\"rows, part 1.jsonl\"'"
_OWN = ("hydra.", "hydra/")  # keys of Hydra's own
# What composing raises for wrong input; the built-in ones come from keys that are set within what is no mapping.
_COMPOSE_ERRORS = (HydraException, OmegaConfBaseException, ValueError, AttributeError, AssertionError)


def groups(schema: type[Settings]) -> dict[str, list[str]]:
    """Choices of every group of conf/ that a configuration has."""
    own = [name for name, annotation in hints(schema).items() if is_settings(bare(annotation))]
    folders = {folder.name: folder for folder in CONF_DIR.iterdir() if folder.is_dir()}
    wanted = [*own, "experiment"] if "objective" in own else own
    return {name: sorted(file.stem for file in folders[name].glob("*.yaml")) for name in wanted if name in folders}


def usual(group: str, model: str, peft: str = "none") -> str:
    """What a group is unless it is chosen: ${usual:...} in conf/. The miniature has settings of its own, every other
    model the paper's."""
    if model == "miniature":
        return "miniature"
    return {"trainer": "paper", "optim": "full" if peft == "none" else "lora"}.get(group, "custom")


def run_folder(model: object) -> str:
    """Folder of the runs that start from a model: ${run_folder:...} in conf/; for a model in runs/NAME/ that one."""
    parts = Path(str(model)).parts or ("model",)
    return parts[1] if parts[0] == "runs" and len(parts) > 2 else parts[-1]


OmegaConf.register_new_resolver("usual", usual, replace=True)
OmegaConf.register_new_resolver("run_folder", run_folder, replace=True)


def read(name: str, schema: type[ConfigT], overrides: Sequence[str]) -> tuple[ConfigT, list[str]]:
    """The configuration `name` with these overrides, and everything that is wrong with them, each with the remedy.

    Where something is wrong, what it would have changed is left as it was.
    """
    good, problems = look_up(schema, overrides)
    try:
        config, found = from_hydra(composed(name, schema, good), schema)
    except InputError as error:
        problems.append(str(error))
        config, found = from_hydra(composed(name, schema, []), schema)
    return config, problems + found


def from_hydra(made: DictConfig, schema: type[ConfigT]) -> tuple[ConfigT, list[str]]:
    """The settings of a configuration that Hydra has composed, and everything that is wrong with them.
    Raises InputError: an interpolation that leads nowhere."""
    with _in_its_own_words():
        values = cast(dict[str, Any], OmegaConf.to_container(made, resolve=True))
    config, problems = checked(schema, values)
    return expand_home(config), problems


def configure(name: str, schema: type[ConfigT], overrides: Sequence[str] = ()) -> ConfigT:
    """The same, for use in a program. Raises InputError: everything that is wrong, listed."""
    config, problems = read(name, schema, overrides)
    if problems:
        raise InputError.listing("this configuration cannot run:", problems)
    return config


def composed(name: str, schema: type[Settings], overrides: Sequence[str]) -> DictConfig:
    """What Hydra makes of overrides that `look_up` has passed.
    Raises InputError: what only composing shows, such as a group that is chosen twice."""
    name, folder = primary(name, schema)
    start: Any = partial(initialize_config_dir, folder) if folder else partial(initialize, None)
    with _in_its_own_words(), start(job_name="derta", version_base="1.3"):
        return compose(name, list(overrides))


@contextlib.contextmanager
def _in_its_own_words() -> Iterator[None]:
    """What Hydra or OmegaConf say, as an InputError of one line."""
    try:
        yield
    except _COMPOSE_ERRORS as error:
        raise InputError(" ".join(str(error).split())) from error


def primary(name: str, schema: type[Settings]) -> tuple[str, str | None]:
    """Where Hydra finds a configuration: its name, and the folder; without a file in conf/ it is the schema alone,
    whose defaults are registered here."""
    ConfigStore.instance().store(f"{name}_schema", plain(asdict(schema())))
    return (name, str(CONF_DIR)) if (CONF_DIR / f"{name}.yaml").is_file() else (f"{name}_schema", None)


def look_up(schema: type[Settings], overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """The overrides that can be used, as Hydra is to get them, and what is wrong with the others."""
    good, problems = [], []
    choices = groups(schema) if not any(word.startswith("hydra.searchpath") for word in overrides) else {}
    for word in map(home_in_argument, overrides):
        try:
            good.append(_looked_up(word, schema, choices))
        except InputError as error:
            problems.append(f"{word}: {error}")
    return chosen_model(schema, good) + good, problems


def chosen_model(schema: type[Settings], overrides: Sequence[str]) -> list[str]:
    """model=custom for training a model that is named and not chosen: the miniature's learning rate would ruin it."""
    given = {word.lstrip("+").partition("=")[0] for word in overrides}
    named_alone = "model.name_or_path" in given and not {"model", "experiment"} & given
    return ["model=custom"] if named_alone and "optim" in hints(schema) else []


def combinations(overrides: Sequence[str]) -> list[list[str]]:
    """Every combination of a sweep: key=a,b and ranges, each as single values, the last key varying fastest.
    Raises InputError: words that cannot be read."""
    options = []
    for word in map(home_in_argument, overrides):
        try:
            override = OverridesParser.create().parse_override(word)
        except HydraException:
            options.append([word])  # explained when it is looked up
            continue
        swept = override.sweep_string_iterator() if override.is_sweep_override() else None
        options.append([f"{override.get_key_element()}={value}" for value in swept] if swept else [word])
    return [list(combination) for combination in itertools.product(*options)]


def _looked_up(word: str, schema: type[Settings], choices: dict[str, list[str]]) -> str:
    """One override as Hydra is to get it. Raises InputError: what is wrong with it."""
    if "=" not in word and not word.startswith("~"):
        raise InputError("expected key=value or group=choice")
    try:
        override = OverridesParser.create().parse_override(word)
    except HydraException as error:
        raise InputError(f"Hydra cannot read this value; {_QUOTED}") from error
    key = override.key_or_group
    if key.startswith(_OWN) or override.package is not None:
        return word
    if override.is_sweep_override():
        raise InputError(
            f"several values: a sweep is `python launch/sweep.py -m ...`; for a text with commas, {_QUOTED}"
        )
    if key in choices:
        return _choice(override, key, word, choices[key])
    place = key.split(".")
    if problem := key_problem(schema, place):
        raise InputError(problem)
    if override.is_delete():
        if not is_mapping(schema, field_at(schema, place[:-1])[0]):
            raise InputError("a key cannot be deleted; give it a value")
        return word
    return f"++{key}={word.partition('=')[2]}"  # the key is one of the schema: Hydra need not know it


def _choice(override: Override, group: str, word: str, choices: list[str]) -> str:
    chosen = override.value() if not override.is_delete() else None
    if not all(name in choices for name in (chosen if isinstance(chosen, list) else [chosen])):
        raise InputError(f"no such choice; {group} can be {', '.join(choices)}")
    return f"{'+' if group == 'experiment' else ''}{group}={word.partition('=')[2]}"
