"""Online only where a key is configured; a run id that stays with the directory."""

import json
from pathlib import Path

import pytest

from derta.errors import InputError
from derta.training.wandb_run import _run_id, resolve_mode


@pytest.fixture(autouse=True)
def no_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("WANDB_MODE", "WANDB_API_KEY", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_a_key_in_the_environment_or_in_netrc_means_online(no_account: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_mode("auto") == "offline", "without one the run stays here"
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert resolve_mode("auto") == "online"
    monkeypatch.delenv("WANDB_API_KEY")
    for content, mode in (
        ("machine example.org login user password x\n", "offline"),
        ("machine api.wandb.ai login user password x\n", "online"),
        ("not a netrc file {", "offline"),
    ):
        (no_account / ".netrc").write_text(content)
        (no_account / ".netrc").chmod(0o600)
        assert resolve_mode("auto") == mode


@pytest.mark.parametrize("mode", ["online", "offline", "disabled"])
def test_what_is_asked_for_is_done(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_mode(mode) == mode
    monkeypatch.setenv("WANDB_MODE", mode)
    assert resolve_mode("auto") == mode
    assert resolve_mode("disabled") == "disabled"


def test_the_id_stays_with_the_directory(tmp_path: Path) -> None:
    first = _run_id(tmp_path, "project")
    assert _run_id(tmp_path, "project") == first
    assert json.loads((tmp_path / "wandb_run.json").read_text()) == {"id": first, "project": "project"}
    for content in ("", "{", "[]", "{}", "null"):
        (tmp_path / "wandb_run.json").write_text(content)
        with pytest.raises(InputError, match="wandb_run.json holds no W&B run id: remove it"):
            _run_id(tmp_path, "project")
