"""The README is what a newcomer starts from: the commands it names are there."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_commands_of_the_readme_exist():
    commands = {
        word for word in README.replace("`", " ").split() if word.startswith("launch/") and word.endswith(".py")
    }
    assert {"launch/train.py", "launch/build_data.py", "launch/evaluate.py"} <= commands
    assert [name for name in commands if not (ROOT / name).is_file()] == []
