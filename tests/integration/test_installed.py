"""The wheel, installed where no checkout is in sight: every command, and the way from a recipe to a report.

sdist -> wheel -> pip install --target -> build_data, torchrun train, sweep, evaluate, report from a working directory
that holds nothing. The dependencies are those of this environment.
"""

import json
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from training_cases import ENVIRONMENT, REPOSITORY, TORCHRUN

FOLDERS = {"derta": "derta", "launch": "derta/launch", "conf": "derta/conf", "data_recipes": "derta/data_recipes"}
QUICK = (
    "trainer.max_steps=2",
    "trainer.global_batch_size=4",
    "trainer.micro_batch_size=2",
    "logging.wandb_mode=disabled",
)
EVALUATION = ("eval=miniature_quick", "eval.path=prompts", "eval.max_new_tokens=8")


def source_files(folder: Path) -> list[Path]:
    return [file for file in folder.rglob("*") if file.is_file() and "__pycache__" not in file.parts]


def build(what: str, source: Path, place: Path) -> Path:
    """What `python -m build` makes, with the setuptools that is here."""
    code = f"from setuptools import build_meta; print(build_meta.build_{what}({str(place)!r}))"
    made = subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr[-2000:]
    return place / made.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the sdist, which is built from a copy: setuptools leaves files beside what it builds."""
    place = tmp_path_factory.mktemp("dist")
    for folder in FOLDERS:
        shutil.copytree(REPOSITORY / folder, place / "copy" / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / file, place / "copy")
    with tarfile.open(build("sdist", place / "copy", place)) as archive:
        archive.extractall(place / "sdist", filter="data")
    [source] = (place / "sdist").iterdir()
    return build("wheel", source, place)


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("site-packages")
    options = ["--quiet", "--no-deps", "--no-index", "--disable-pip-version-check", "--target", str(place)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(wheel)], check=True)
    return place


class Anywhere:
    """An empty working directory with the installed package: `anywhere(...)` is `python ...` there."""

    def __init__(self, folder: Path, installed: Path) -> None:
        self.folder, self.environment = folder, {**ENVIRONMENT, "PYTHONPATH": str(installed)}

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, *arguments], cwd=self.folder, env=self.environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def __call__(self, *arguments: str) -> str:
        process = self.start(*arguments)
        output, errors = process.communicate(timeout=200)
        assert process.returncode == 0, f"{arguments}\n{output[-1000:]}\n{errors[-3000:]}"
        return output


@pytest.fixture
def anywhere(installed: Path, tmp_path: Path) -> Anywhere:
    return Anywhere(tmp_path, installed)


def test_everything_is_in_the_wheel(wheel: Path) -> None:
    kept = {
        f"{target}/{file.relative_to(REPOSITORY / folder).as_posix()}"
        for folder, target in FOLDERS.items()
        for file in source_files(REPOSITORY / folder)
    }
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == kept
    assert {"derta/py.typed", "derta/conf/model/templates/inst.jinja", "derta/report/page/template.html"} <= names


def test_every_command_says_what_it_does(anywhere: Anywhere, installed: Path) -> None:
    names = sorted(file.stem for file in (REPOSITORY / "launch").glob("*.py") if file.stem != "__init__")
    started = {name: anywhere.start("-m", f"derta.launch.{name}", "--help") for name in names}
    for name, process in started.items():
        output, errors = process.communicate(timeout=100)
        assert process.returncode == 0 and f"derta.launch.{name} " in output, f"{name}: {output[:500]} {errors[-1000:]}"
        assert not re.search(r"\blaunch/\w+\.py", output), f"{name}: {output}"


def test_from_a_recipe_to_a_report(anywhere: Anywhere, installed: Path) -> None:
    where = "import derta.config.shipped as s; print(s.__file__, s.shipped_file('conf/model/templates/inst.jinja'))"
    template = f"{installed}/derta/conf/model/templates/inst.jinja"
    assert anywhere("-c", where).split() == [f"{installed}/derta/config/shipped.py", template]
    same = "import derta, importlib.metadata as m; print(derta.__version__ == m.version('derta'))"
    assert anywhere("-c", same) == "True\n"

    before = {file.relative_to(installed) for file in source_files(installed)}
    anywhere("-m", "derta.launch.build_data", "recipe=miniature", "output=rows", "limit=20")
    anywhere("-m", "derta.launch.build_data", "recipe=miniature_eval", "output=prompts", "limit=2")
    anywhere("-m", "derta.miniature.model", "output=fresh")
    train = ["model=miniature", "model.name_or_path=fresh", "data.path=rows", *QUICK]
    anywhere(*TORCHRUN, "-m", "derta.launch.train", *train, "output_dir=trained")
    anywhere(
        *TORCHRUN, "-m", "derta.launch.evaluate", "model.name_or_path=trained", *EVALUATION, "output_dir=evaluated"
    )
    summary = json.loads((anywhere.folder / "evaluated" / "summary.json").read_text())
    assert summary["run"]["command"].startswith("-m derta.launch.evaluate model.name_or_path=trained ")
    anywhere("-m", "derta.launch.report", "runs=[evaluated]", "output=report")
    assert "derta.launch.report" in (anywhere.folder / "report" / "report.html").read_text()

    # Commands that start others: the sweep's training is a torchrun of the installed package, too.
    anywhere("-m", "derta.launch.sweep", "-m", *train, "objective=vanilla")
    [swept] = (anywhere.folder / "runs" / "sweep").glob("vanilla-seed*")
    assert (swept / "finished.json").is_file()
    after = {file.relative_to(installed) for file in source_files(installed)}
    assert after == before, "what a command writes belongs in the working directory"
