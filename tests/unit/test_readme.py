"""The README is what a newcomer starts from: the commands it names are there."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_commands_of_the_readme_exist():
    commands = {
        word for word in README.replace("`", " ").split() if word.startswith("launch/") and word.endswith(".py")
    }
    assert {"launch/train.py", "launch/build_data.py", "launch/evaluate.py"} <= commands
    assert [name for name in commands if not (ROOT / name).is_file()] == []


def test_the_front_page_stays_a_front_page():
    assert len(README.splitlines()) <= 220
    assert len(README.encode("utf-8")) <= 16 * 1024


def test_every_folder_names_its_modules():
    for folder in sorted({file.parent for file in (ROOT / "derta").rglob("*.py")} - {ROOT / "derta"}):
        modules = sorted(file.stem for file in folder.glob("*.py") if file.stem != "__init__")
        listed = re.findall(r"^- `(\w+)`: ", (folder / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
        assert listed == modules, f"{folder.relative_to(ROOT)}/README.md"
