"""trainer.push_to_hub against a server that speaks the hub's few endpoints; secrets and permissions of a real run."""

import base64
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from training_cases import ENVIRONMENT, TRAIN, contents, metrics, says_text

from derta.errors import InputError

SECRETS = {"HF_TOKEN": "hf_" + "q7" * 17, "WANDB_API_KEY": "b5" * 20}
MODEL_FILES = {
    "README.md", "chat_template.jinja", "config.json", "derta_config.json", "generation_config.json",
    "model.safetensors", "tokenizer.json", "tokenizer_config.json",
}  # fmt: skip


@dataclass
class Hub:
    """Repositories by id, and every request: method, path, Authorization, body."""

    address: str = ""
    private: dict[str, bool] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str, str, bytes]] = field(default_factory=list)
    refuses: int = 0  # this status instead of a commit

    def answer(self, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        if path == "/api/repos/create":
            wanted = json.loads(body)
            name = f"{wanted.get('organization') or 'somebody'}/{wanted['name']}"
            found = name in self.private
            private = wanted.get("visibility") == "private" or wanted.get("private") is True
            self.private.setdefault(name, private)
            return 409 if found else 200, {"url": f"{self.address}/{name}"}
        if path.startswith("/api/models/"):
            name = "/".join(path.split("/")[3:5])
            if "/preupload/" in path:
                asked = json.loads(body)["files"]
                return 200, {
                    "files": [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in asked]
                }
            if "/commit/" in path:
                if self.refuses:
                    return self.refuses, {"error": "no"}
                for line in map(json.loads, body.splitlines()):
                    if line["key"] == "file":
                        self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                return 200, {"commitUrl": f"{self.address}/{name}/commit/abc", "commitOid": "abc"}
            if name in self.private:
                return 200, {"id": name, "private": self.private[name], "sha": "abc", "siblings": [], "tags": []}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        return 404, {"error": "not found"}


@pytest.fixture
def hub() -> Iterator[Hub]:
    served = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def respond(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            served.requests.append((self.command, self.path, self.headers.get("Authorization", ""), body))
            status, content = served.answer(self.path.partition("?")[0], body)
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":  # else the next answer on this connection would begin with it
                self.wfile.write(data)

        do_GET = do_POST = do_HEAD = do_PUT = respond

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: Any) -> None:
            """A client that leaves without a word."""

    server = Server(("127.0.0.1", 0), Handler)
    served.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield served
    server.shutdown()
    server.server_close()


@pytest.fixture
def here(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """The hub of this process."""
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.address)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", SECRETS["HF_TOKEN"])
    return hub


def sent(hub: Hub) -> list[tuple[str, str, str, bytes]]:
    """Requests that carry something. (The client asks every hub once for a list that it names itself after.)"""
    return [request for request in hub.requests if request[:3] != ("GET", "/api/agent-harnesses", "") or request[3]]


def test_nothing_leaves_unless_asked_for(arguments: Callable[..., list[str]], hub: Hub, tmp_path: Path) -> None:
    """Two keys in the environment, a strict umask: a real run, and then the same command with push_to_hub."""
    run, settings = tmp_path / "run", ("logging.wandb_mode=offline", "trainer.save_steps=2")
    environment = {**ENVIRONMENT, **SECRETS, "HF_ENDPOINT": hub.address, "HF_HUB_OFFLINE": "0"}

    def launch(*overrides: str) -> str:
        result = subprocess.run(
            [sys.executable, str(TRAIN), *arguments(run, *settings, *overrides)],
            cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, umask=0o027,
        )  # fmt: skip
        assert result.returncode == 0, result.stderr[-3000:]
        return result.stdout + result.stderr

    printed = launch()
    assert sent(hub) == []
    printed += launch("trainer.push_to_hub=true")
    assert hub.private == {"somebody/run": True}, "private unless that is said, too"
    assert set(hub.files) == MODEL_FILES
    assert all(hub.files[name] == (run / name).read_bytes() for name in MODEL_FILES)
    assert {name: words for name, data in hub.files.items() if (words := says_text(data))} == {}
    assert {authorization for _, _, authorization, _ in sent(hub)} == {f"Bearer {SECRETS['HF_TOKEN']}"}

    everything = contents(tmp_path) | {"console": printed.encode()}
    everything |= {f"request {number}": request[3] for number, request in enumerate(hub.requests)}
    [curves] = run.glob("wandb/offline-run-*/*.wandb")
    everything["W&B"] = subprocess.run(
        [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(curves)],
        env=ENVIRONMENT, check=True, capture_output=True,
    ).stdout  # fmt: skip
    assert b"train/loss" in everything["W&B"]
    shown = {name for name, data in everything.items() for secret in SECRETS.values() if secret.encode() in data}
    assert shown == set()
    wrong = {
        str(path.relative_to(run)): oct(path.stat().st_mode & 0o777)
        for path in run.rglob("*")
        if not path.is_symlink() and path.stat().st_mode & 0o777 != (0o750 if path.is_dir() else 0o640)
    }
    assert wrong == {}


def test_pushed_after_training(here: Hub, train: Callable[..., Path], tmp_path: Path) -> None:
    """An adapter, to a repository that is meant to be public; the same command again sends nothing more."""
    overrides = (
        "trainer.push_to_hub=true", "trainer.hub_model_id=team/guard", "trainer.hub_private_repo=false", "peft=lora",
    )  # fmt: skip
    run = train(tmp_path / "run", *overrides)
    assert here.private == {"team/guard": False}
    assert {"adapter_model.safetensors", "adapter_config.json", "README.md"} <= set(here.files)
    assert "model.safetensors" not in here.files and b"library_name: peft" in here.files["README.md"]
    assert json.loads((run / "pushed.json").read_text())["repository"] == "team/guard"
    before = len(sent(here))
    train(tmp_path / "run", *overrides)
    assert len(sent(here)) == before


def test_refused_before_training(here, train, tmp_path, monkeypatch):
    here.private["team/guard"] = False
    with pytest.raises(InputError, match=r"team/guard is on the hub already and public.*hub_private_repo=false"):
        train(tmp_path / "run", "trainer.push_to_hub=true", "trainer.hub_model_id=team/guard")
    with pytest.raises(InputError, match="NAME or ACCOUNT/NAME"):
        train(tmp_path / "run", "trainer.push_to_hub=true", "trainer.hub_model_id='a/b/c'")
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(InputError, match="push_to_hub=true: run cannot be made"):
        train(tmp_path / "run", "trainer.push_to_hub=true")
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(InputError, match="needs an account: hf auth login"):
        train(tmp_path / "run", "trainer.push_to_hub=true")
    assert not (tmp_path / "run").exists(), "nothing was trained"


def test_a_hub_that_refuses_costs_no_model(here: Hub, train: Callable[..., Path], tmp_path: Path) -> None:
    here.refuses = 403
    with pytest.raises(InputError, match=r"the model is complete in .*run, but somebody/run does not take it"):
        train(tmp_path / "run", "trainer.push_to_hub=true")
    assert (tmp_path / "run" / "finished.json").exists() and not (tmp_path / "run" / "pushed.json").exists()
    here.refuses = 0
    train(tmp_path / "run", "trainer.push_to_hub=true")
    assert set(here.files) == MODEL_FILES and [line["step"] for line in metrics(tmp_path / "run")] == [1, 2, 3, 3]
