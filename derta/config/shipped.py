"""What comes with derta beside its code: the commands of launch/, the configurations of conf/ and data_recipes/.

In a checkout these folders lie beside the package, and a command is `python launch/NAME.py`. Installed, they lie within
it (pyproject.toml maps them there), and a command is `python -m derta.launch.NAME`.
"""

import os
import re
import sys
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
INSTALLED = (_PACKAGE / "launch").is_dir()
_HOME = _PACKAGE if INSTALLED else _PACKAGE.parent
CONF_DIR, RECIPES, LAUNCH = _HOME / "conf", _HOME / "data_recipes", _HOME / "launch"
_COMMAND = re.compile(r"(python |torchrun [^\n]*?)?\blaunch/(\w+)\.py\b")


def shipped_file(name: str) -> Path:
    """The file of this name; where there is none, the one of derta's own: conf/model/templates/inst.jinja from any
    working directory."""
    return Path(name) if Path(name).exists() or not name.startswith("conf/") else _HOME / name


def command_of(name: str) -> list[str]:
    """What follows `python` or `torchrun` to start a command of launch/."""
    return ["-m", f"derta.launch.{name}"] if INSTALLED else [os.path.relpath(LAUNCH / f"{name}.py")]


def started_module() -> str | None:
    """The command's module if this process was started with `-m derta.launch.NAME`."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec.name if spec and spec.name.startswith("derta.launch.") else None


def as_typed(text: str) -> str:
    """A text for the user whose commands, `launch/NAME.py`, read as this process was started; the script for Slurm is
    then named by its path."""
    if started_module() is None:
        return text
    text = _COMMAND.sub(lambda match: f"{match[1] or 'python '}-m derta.launch.{match[2]}", text)
    return text.replace("launch/slurm/", f"{LAUNCH}/slurm/")
