"""Judge models with hand-set answers (keyword_model.py), and a real chat-completions server on this machine."""

import copy
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from keyword_model import save_judge

from derta.config.endpoint import EndpointConfig
from derta.config.judging import JudgingConfig
from derta.config.model import ModelConfig
from derta.evaluation.records import Response

PROMPT = "harmful request 3"


class JudgeServer(ThreadingHTTPServer):
    """Answers each question with what `script` makes of its text: a text, or a status."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script: Callable[[str], str | int] = lambda question: "no"
        self.questions: list[str] = []

    def judging(self, **changes: Any) -> JudgingConfig:
        url = f"http://127.0.0.1:{self.server_address[1]}/v1"
        endpoint = EndpointConfig(url=url, model="judge", timeout=5, retries=2, backoff=0.01)
        return JudgingConfig(endpoint=endpoint, **changes)


class _Handler(BaseHTTPRequestHandler):
    server: JudgeServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        question = body["messages"][-1]["content"]
        self.server.questions.append(question)
        answer = self.server.script(question)
        message = {"role": "assistant", "content": answer}
        reply = json.dumps({"choices": [{"index": 0, "message": message}]}).encode()
        self.send_response(answer if isinstance(answer, int) else 200)
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *args: Any) -> None:
        """Quiet."""


@pytest.fixture
def judge_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[JudgeServer]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = JudgeServer()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="session")
def judge_model(llama3_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., JudgingConfig]:
    """Makes the settings of a local judge: judge_model({keyword: answer}, default, template=, ...)."""

    def make(
        answers: dict[str, str], default: str, *, chat_template: str | None = None, context: int = 4096, **settings: Any
    ) -> JudgingConfig:
        tokenizer = copy.deepcopy(llama3_tokenizer)
        tokenizer.chat_template = chat_template
        directory: Path = tmp_path_factory.mktemp("judge")
        save_judge(tokenizer, directory, answers, default, context=context)
        return JudgingConfig(model=ModelConfig(name_or_path=str(directory)), **settings)

    return make


@pytest.fixture(scope="session")
def respond() -> Callable[..., Response]:
    """Makes a response: respond(text, harmful=, prefill=, prompt=)."""

    def make(text: str, *, harmful: bool = True, prefill: str = "", prompt: str | None = PROMPT) -> Response:
        messages = [] if prompt is None else [{"role": "user", "content": prompt}]
        row = {"id": "row-1", "source": "test", "kind": "safety", "prompt": messages, "chosen": None, "rejected": None}
        return Response(row, "direct", text, prefill, harmful, finished=True)

    return make
