"""A client for OpenAI-compatible servers: POST {url}/chat/completions, and whatever else `post` is asked for.

    {"model", "messages", "max_tokens", "temperature", ...}  ->  {"choices": [{"message": {"content": text}}]}

What goes wrong with one request comes back as a `NoAnswer`, a value that the caller counts (a judge's verdict is
then unscored, an attack's turn failed); it never raises in the middle of an evaluation. What no retry can mend and
the user can (a wrong address, a missing key) raises. Neither the key nor any text that was sent or received stands in
an error.
"""

import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from derta.config.model import EndpointConfig
from derta.errors import InputError

Messages = Sequence[Mapping[str, Any]]
Answer = TypeVar("Answer")

_MAX_WAIT = 60.0  # seconds between two tries
_MAX_ANSWER = 16 << 20  # bytes
_PASSING = (408, 409, 425, 429)  # and every 5xx
_SETTINGS = {  # what a user can mend -> how
    401: "it asks for a key, or refuses the one that it got",
    403: "the key may not use it",
    404: "there is no such address, or no such model",
    405: "this is not the address of a chat-completions server",
}


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """Why there is no answer, in words that hold neither prompt nor response."""

    reason: str


class Passing(Exception):
    """A failure that another try may not meet. `wait`: seconds the server asked for."""

    def __init__(self, reason: str, wait: float = 0.0):
        super().__init__(reason)
        self.wait = wait


class _Refused(Exception):
    """The server will not answer this request, however often it is asked."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to an address that nobody named."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


class Endpoint:
    """One model behind one address; safe to use from several threads.
    Raises InputError: no url or model, or the environment variable of the key is not set."""

    def __init__(self, config: EndpointConfig, key: str = "endpoint"):
        """`key`: where in the configuration it stands, for messages."""
        problems = config.problems(key) if config.url.strip() else [f"{key}.url is empty: give http://HOST:PORT/v1"]
        if config.api_key_env and not os.environ.get(config.api_key_env):
            problems.append(f"{key}.api_key_env={config.api_key_env}: this environment variable is not set")
        if problems:
            raise InputError.listing("the endpoint cannot be used:", problems)
        self.config = config
        self._key = key
        self._opener = urllib.request.build_opener(_NoRedirect())

    def complete(
        self,
        messages: Messages,
        *,
        max_tokens: int = 512,
        temperature: float = 0.0,
        top_p: float | None = None,
        seed: int | None = None,
    ) -> str | NoAnswer:
        """The content of the first choice. messages: [{"role", "content"}, ...].
        Raises InputError: 401, 403, 404, 405: the address, the model or the key is wrong."""
        body: dict[str, Any] = {
            "model": self.config.model,
            "messages": [dict(message) for message in messages],
            "max_tokens": max_tokens,
            "temperature": temperature,
        }
        body |= {name: value for name, value in (("top_p", top_p), ("seed", seed)) if value is not None}
        return self.post("/chat/completions", body, _content)

    def post(self, path: str, body: Mapping[str, Any], read: Callable[[bytes], Answer | NoAnswer]) -> Answer | NoAnswer:
        """What `read` makes of the answer to `body`, with the configured number of tries.
        Raises InputError: as `complete`."""
        data, reason = json.dumps(body).encode(), ""
        for attempt in range(self.config.retries + 1):
            try:
                return read(self._ask(path, data))
            except _Refused as refused:
                return NoAnswer(str(refused))
            except Passing as failure:
                reason = str(failure)
                if attempt < self.config.retries:
                    time.sleep(min(max(self.config.backoff * 2**attempt, failure.wait), _MAX_WAIT))
        tries = self.config.retries + 1
        return NoAnswer(f"{reason} ({tries} {'try' if tries == 1 else 'tries'})")

    def complete_many(
        self, conversations: Sequence[Messages], *, seeds: Sequence[int | None] | None = None, **settings: Any
    ) -> list[str | NoAnswer]:
        """`complete` for each conversation, `concurrency` of them at a time; answers in their order."""
        given = list(seeds) if seeds is not None else [None] * len(conversations)
        pairs = list(zip(conversations, given, strict=True))
        with ThreadPoolExecutor(self.config.concurrency) as pool:
            return list(pool.map(lambda pair: self.complete(pair[0], seed=pair[1], **settings), pairs))

    def _ask(self, path: str, data: bytes) -> bytes:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        request = urllib.request.Request(self.config.url.rstrip("/") + path, data=data, headers=headers)
        if self.config.api_key_env:
            key = os.environ.get(self.config.api_key_env, "")
            request.add_unredirected_header("Authorization", f"Bearer {key}")
        try:
            return self._read(request)
        except urllib.error.HTTPError as error:
            with error:
                raise self._refused(error) from None
        except (OSError, http.client.HTTPException) as error:
            cause = error.reason if isinstance(error, urllib.error.URLError) else error
            late = f"no answer within {self.config.timeout:g} seconds"
            failed = f"connection failed ({type(cause).__name__})"
            raise Passing(late if isinstance(cause, TimeoutError) else failed) from None

    def _read(self, request: urllib.request.Request) -> bytes:
        """The body, within the time for the *whole* answer: a socket's own timeout starts anew with every byte."""
        end = time.monotonic() + self.config.timeout
        with self._opener.open(request, timeout=self.config.timeout) as response:
            body = bytearray()
            while block := response.read1(1 << 16):
                body += block
                if time.monotonic() > end:
                    raise TimeoutError
                if len(body) > _MAX_ANSWER:
                    raise Passing(f"the answer is longer than {_MAX_ANSWER >> 20} MiB")
            return bytes(body)

    def _refused(self, error: urllib.error.HTTPError) -> Exception:
        """What to raise for a status that is no answer."""
        status = error.code
        if status in _PASSING or status >= 500:
            return Passing(f"status {status}", _seconds(error.headers.get("Retry-After")))
        if status in _SETTINGS:
            fields = ", ".join(f"{self._key}.{name}" for name in ("url", "model", "api_key_env"))
            return InputError(
                f"{self._key}: the endpoint answers with status {status}: {_SETTINGS[status]}; check {fields}"
            )
        return _Refused(f"status {status}")


def _content(answer: bytes) -> str | NoAnswer:
    try:
        choice = json.loads(answer)["choices"][0]
        content = choice["message"]["content"]
    except (ValueError, LookupError, TypeError):
        raise Passing("the answer is not a chat completion") from None
    if isinstance(content, str):
        return content
    ended = choice.get("finish_reason")
    why = f" ({ended})" if ended in ("content_filter", "tool_calls", "length") else ""
    return NoAnswer(f"the answer holds no text{why}")


def _seconds(header: str | None) -> float:
    """Retry-After in seconds; its other form, a date, is left to the backoff."""
    try:
        return max(float(header or 0), 0.0)
    except ValueError:
        return 0.0
