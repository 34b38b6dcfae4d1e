"""An OpenAI-compatible chat endpoint: an attacker, a rewriter or a judge that runs elsewhere."""

from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from derta.config.settings import Count, Name, NotNegative, Positive, Settings, Whole


@dataclass(kw_only=True, slots=True)
class EndpointConfig(Settings):
    """A server that speaks the chat-completions protocol. Whatever it is asked leaves this process: prompts, and for
    a judge responses too."""

    url: str = ""
    """Base address, up to and including the version, for example http://localhost:8000/v1; empty: no endpoint."""
    model: str = ""
    """The name the server knows the model by."""
    api_key_env: str = ""
    """*Name* of the environment variable that holds the key (empty: no key is sent)."""
    timeout: Positive = 120.0
    """Seconds for one whole answer."""
    retries: Whole = 4
    """Further tries after a failure that may pass (429, 408, 409, 5xx, a closed connection, no answer in time, an
    unreadable answer)."""
    backoff: NotNegative = 1.0
    """Seconds before the first retry, doubled for each further one, at most a minute; a server's Retry-After is
    honoured up to a minute."""
    concurrency: Count = 8
    """Requests under way at the same time."""

    def conflicts(self, key: Name) -> Iterator[str]:
        """An endpoint that is not set has none."""
        if not self.url.strip():
            return
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            yield f"{key('url')}: expected http://HOST:PORT/v1 or https://..."
        if parts.username is not None or parts.query:  # it would end up in the record of the evaluation
            yield f"{key('url')} holds a user name or a query: give a key through {key('api_key_env')}"
        if not self.model.strip():
            yield f"{key('model')} is empty: give the name the server knows the model by"
