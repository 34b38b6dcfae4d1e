"""A real tiny model of the miniature with random weights, and rows of its evaluation sets."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from derta.config.model import EndpointConfig, ModelConfig
from derta.miniature.model import write_fresh_model
from derta.miniature.rows import Row, generate
from derta.models.target import TargetModel, load_target

torch.set_num_threads(1)  # several threads on a model this small only wait for each other


@pytest.fixture(scope="session")
def sources() -> dict[str, str]:
    """Every module of derta/ and launch/: its path below the repository's root -> its text."""
    root = Path(__file__).resolve().parents[2]
    files = [*(root / "derta").rglob("*.py"), *(root / "launch").rglob("*.py")]
    return {file.relative_to(root).as_posix(): file.read_text(encoding="utf-8") for file in files}


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_fresh_model(tmp_path_factory.mktemp("models") / "fresh", seed=0)


@pytest.fixture(scope="session")
def target(model_dir: Path) -> TargetModel:
    return load_target(ModelConfig(name_or_path=str(model_dir)), device="cpu")


@pytest.fixture(scope="session")
def harmful_rows() -> list[Row]:
    return list(generate("eval_harmful", 6, seed=3))


@pytest.fixture(scope="session")
def benign_rows() -> list[Row]:
    return list(generate("eval_benign", 6, seed=3))


Answer = str | int | bytes | dict[str, Any] | None


class ChatServer(ThreadingHTTPServer):
    """Answers each request with what `script` makes of its body.

    A script returns the assistant's text, a status (int), a raw body (bytes), a JSON body (dict), or None to close the
    connection without an answer.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script: Callable[[dict[str, Any]], Answer] = lambda body: f"echo {body['messages'][-1]['content']}"
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.response_headers: dict[str, str] = {}
        self.drip = 0.0  # seconds between the bytes of an answer
        self.busy = self.most_busy = 0
        self.lock = threading.Lock()

    def config(self, **changes: Any) -> EndpointConfig:
        settings: dict[str, Any] = {"model": "tiny", "timeout": 5.0, "backoff": 0.01, "retries": 2} | changes
        return EndpointConfig(url=f"http://127.0.0.1:{self.server_address[1]}/v1", **settings)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are what some tests are about."""


class _Handler(BaseHTTPRequestHandler):
    server: ChatServer
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.requests.append(body)
            self.server.headers.append(dict(self.headers) | {"path": self.path})
            self.server.busy += 1
            self.server.most_busy = max(self.server.most_busy, self.server.busy)
            answer = self.server.script(body)
        time.sleep(0.01)
        with self.server.lock:
            self.server.busy -= 1
        self._answer(answer)

    def _answer(self, answer: Answer) -> None:
        self.close_connection = True
        if answer is None:
            return
        status = answer if isinstance(answer, int) else 200
        if isinstance(answer, str):
            message = {"role": "assistant", "content": answer}
            answer = {"id": "1", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
        elif isinstance(answer, int):
            answer = {"error": {"message": "secret words of the request"}}
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        for name, value in {**self.server.response_headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if not self.server.drip:
            self.wfile.write(data)
            return
        for i in range(len(data)):
            self.wfile.write(data[i : i + 1])
            self.wfile.flush()
            time.sleep(self.server.drip)

    def log_message(self, *args: Any) -> None:
        """Quiet."""


@pytest.fixture
def chat_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ChatServer]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = ChatServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
