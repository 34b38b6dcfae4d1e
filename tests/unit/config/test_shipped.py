"""Where conf/, data_recipes/ and launch/ are, and how their commands read (installed: test_installed.py)."""

from pathlib import Path

import pytest

from derta.config import shipped

ROOT = Path(__file__).resolve().parents[3]


def test_in_a_checkout_they_lie_beside_the_package() -> None:
    assert not shipped.INSTALLED
    names = ("conf", "data_recipes", "launch")
    assert (shipped.CONF_DIR, shipped.RECIPES, shipped.LAUNCH) == tuple(ROOT / name for name in names)


def test_a_shipped_file_is_found_from_anywhere_and_ones_own_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = "conf/model/templates/inst.jinja"
    assert shipped.shipped_file(name) == ROOT / name
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).touch()
    assert shipped.shipped_file(name).resolve() == tmp_path / name
    assert shipped.shipped_file("derta/errors.py") == Path("derta/errors.py"), "only what is under conf/"


@pytest.mark.parametrize(
    ("text", "installed"),
    [
        ("run launch/export.py to the end first", "run python -m derta.launch.export to the end first"),
        ("use: python launch/sweep.py -m a=b,c", "use: python -m derta.launch.sweep -m a=b,c"),
        (
            "torchrun --nproc_per_node N launch/train.py a=b\npython launch/plan.py",
            "torchrun --nproc_per_node N -m derta.launch.train a=b\npython -m derta.launch.plan",
        ),
        ("sbatch launch/slurm/train.sh", f"sbatch {ROOT}/launch/slurm/train.sh"),
    ],
)
def test_commands_read_as_this_process_was_started(text: str, installed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert shipped.as_typed(text) == text
    monkeypatch.setattr(shipped, "started_module", lambda: "derta.launch.train")
    assert shipped.as_typed(text) == installed
