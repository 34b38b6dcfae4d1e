"""What an evaluation says about its own making: command, names, versions; never an absolute path."""

import os
import re
import shlex
import sys
from pathlib import Path

from derta.config.evaluation import EvaluateRunConfig
from derta.config.shipped import started_module
from derta.evaluation.summary import Made
from derta.storage.versions import package_versions

_ABSOLUTE = re.compile(r"(?<![\w.~/-])/(?!/)(?:[^\s/=,:\[\]{}'\"]+/)*[^\s/=,:\[\]{}'\"]+")


def describe_run(config: EvaluateRunConfig) -> Made:
    """How the results are made, for the record; it takes no part in telling two evaluations apart."""
    return Made(
        command=shown_command(sys.argv),
        model=shown_path(config.model.name_or_path),
        revision=config.model.revision,
        eval=config.eval.name,
        data={name: shown_path(prompts.path or config.eval.path) for name, prompts in config.eval.used_sets.items()},
        versions=package_versions(),
    )


def shown_path(path: str) -> str:
    """A path as others may see it: relative to the working directory, or its last part alone."""
    if not os.path.isabs(path):
        return path
    relative = os.path.relpath(path)
    return Path(path).name if relative.startswith("..") else relative


def shown_command(arguments: list[str]) -> str:
    """The command without absolute paths, as a shell takes it: `launch/evaluate.py ...`, `-m derta.launch.evaluate`."""
    return shlex.join(_ABSOLUTE.sub(lambda match: shown_path(match[0]), argument) for argument in _words(arguments))


def typed_command(arguments: list[str]) -> str:
    """The command as it was typed, whatever paths it holds: for files that are not published."""
    return shlex.join(_words(arguments))


def _words(arguments: list[str]) -> list[str]:
    module = started_module()
    return ["-m", module, *arguments[1:]] if module else arguments
