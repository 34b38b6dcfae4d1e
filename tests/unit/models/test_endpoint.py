"""The endpoint client against a real HTTP server that behaves, and one that misbehaves in every way servers do."""

import logging
import socket
import time

import pytest

from derta.config.model import EndpointConfig
from derta.errors import InputError
from derta.models.endpoint import Endpoint, NoAnswer

ASK = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "harmful request 3"}]


def in_turn(*answers):
    """A script that gives one answer after the other, the last one for ever."""
    left = list(answers)
    return lambda body: left.pop(0) if len(left) > 1 else left[0]


def test_request_and_answer_follow_the_protocol(chat_server):
    endpoint = Endpoint(chat_server.config())
    answer = endpoint.complete(ASK, max_tokens=7, temperature=0.5, top_p=0.9, seed=3)
    assert answer == "echo harmful request 3"
    settings = {"max_tokens": 7, "temperature": 0.5, "top_p": 0.9, "seed": 3}
    assert chat_server.requests == [{"model": "tiny", "messages": ASK, **settings}]
    assert chat_server.headers[0]["path"] == "/v1/chat/completions"
    assert "Authorization" not in chat_server.headers[0]


@pytest.mark.parametrize("failure", [429, 500, 503, None, b"<html>", {"choices": []}, b"[1]", b'{"choices": [{}]}'])
def test_failures_that_may_pass_are_tried_again(chat_server, failure):
    chat_server.script = in_turn(failure, failure, "at last")
    assert Endpoint(chat_server.config()).complete(ASK) == "at last"
    assert len(chat_server.requests) == 3


@pytest.mark.parametrize(
    ("failure", "reason", "tries"),
    [
        (429, "status 429 (3 tries)", 3),
        (500, "status 500 (3 tries)", 3),
        (None, "connection failed (RemoteDisconnected) (3 tries)", 3),
        (b"not json", "the answer is not a chat completion (3 tries)", 3),
        (400, "status 400", 1),
        (302, "status 302", 1),
    ],
)
def test_retries_are_bounded_and_the_reason_holds_no_text(chat_server, failure, reason, tries):
    """What the server refuses is not tried again, and no redirect is followed."""
    chat_server.script, chat_server.response_headers = lambda body: failure, {"Location": "/v1/other"}
    assert Endpoint(chat_server.config()).complete(ASK) == NoAnswer(reason)
    assert len(chat_server.requests) == tries


@pytest.mark.parametrize("status", [401, 403, 404])
def test_wrong_settings_are_an_error_that_names_them(chat_server, status):
    chat_server.script = lambda body: status
    with pytest.raises(InputError, match=rf"status {status}.*eval\.judge\.endpoint\.url") as error:
        Endpoint(chat_server.config(), "eval.judge.endpoint").complete(ASK)
    assert "secret" not in str(error.value) and len(chat_server.requests) == 1


@pytest.mark.parametrize("content", [None, [], {"text": "x"}])
def test_an_answer_without_text_says_why(chat_server, content):
    choice = {"message": {"content": content}, "finish_reason": "content_filter"}
    chat_server.script = lambda body: {"choices": [choice]}
    assert Endpoint(chat_server.config()).complete(ASK) == NoAnswer("the answer holds no text (content_filter)")


def test_an_answer_that_drips_is_given_up_when_its_whole_time_is_over(chat_server):
    chat_server.drip = 0.05  # each byte comes in time; all of them together do not
    start = time.monotonic()
    answer = Endpoint(chat_server.config(timeout=0.2, retries=1)).complete(ASK)
    assert answer == NoAnswer("no answer within 0.2 seconds (2 tries)")
    assert time.monotonic() - start < 2


def test_a_server_that_never_answers(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        config = EndpointConfig(url=f"http://127.0.0.1:{silent.getsockname()[1]}/v1", model="m", timeout=0.1, retries=0)
        assert Endpoint(config).complete(ASK) == NoAnswer("no answer within 0.1 seconds (1 try)")
    config.retries = 1
    config.backoff = 0.0
    assert Endpoint(config).complete(ASK) == NoAnswer("connection failed (ConnectionRefusedError) (2 tries)")


def test_waits_double_and_honour_what_the_server_asks_for(chat_server, monkeypatch):
    waits: list[float] = []
    monkeypatch.setattr("derta.models.endpoint.time.sleep", waits.append)
    chat_server.script = lambda body: 500
    for headers, settings, expected in (
        ({}, {"retries": 7, "backoff": 1.0}, [1, 2, 4, 8, 16, 32, 60]),
        ({"Retry-After": "5"}, {"retries": 1, "backoff": 1.0}, [5]),
        ({"Retry-After": "Wed, 21 Oct 2065 07:28:00 GMT"}, {"retries": 1, "backoff": 2.0}, [2]),
    ):
        waits.clear()
        chat_server.response_headers = headers
        Endpoint(chat_server.config(**settings)).complete(ASK)
        assert [wait for wait in waits if wait >= 1] == expected  # the server sleeps too, for a hundredth of a second


def test_the_key_is_sent_and_never_shown(chat_server, monkeypatch, caplog, capsys):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("TINY_KEY", "very-secret-key")
    endpoint = Endpoint(chat_server.config(api_key_env="TINY_KEY", retries=0))
    assert endpoint.complete(ASK) == "echo harmful request 3"
    assert chat_server.headers[0]["Authorization"] == "Bearer very-secret-key"
    chat_server.script = lambda body: 401
    with pytest.raises(InputError) as error:
        endpoint.complete(ASK)
    shown = f"{error.value} {endpoint.config} {vars(endpoint)} {caplog.text} {capsys.readouterr()}"
    assert "very-secret-key" not in shown and "harmful request" not in shown


def test_a_key_that_is_not_set_is_an_error_before_anything_is_sent(chat_server, monkeypatch):
    monkeypatch.delenv("TINY_KEY", raising=False)
    with pytest.raises(InputError, match="api_key_env=TINY_KEY"):
        Endpoint(chat_server.config(api_key_env="TINY_KEY"))
    assert chat_server.requests == []


def test_many_answers_come_in_order_and_a_failure_stands_alone(chat_server):
    chat_server.script = lambda body: 400 if body["seed"] == 3 else f"{body['messages'][0]['content']}"
    asked = [[{"role": "user", "content": f"question {i}"}] for i in range(12)]
    answers = Endpoint(chat_server.config(concurrency=3)).complete_many(asked, seeds=range(12), max_tokens=5)
    assert answers[3] == NoAnswer("status 400")
    assert [a for i, a in enumerate(answers) if i != 3] == [f"question {i}" for i in range(12) if i != 3]
    assert 1 < chat_server.most_busy <= 3
    assert {body["max_tokens"] for body in chat_server.requests} == {5}


def test_every_wrong_setting_is_named():
    config = EndpointConfig(url="ftp://user:key@host/v1?key=1", timeout=0, backoff=-1, retries=-1, concurrency=0)
    problems = " ".join(config.problems("eval.x"))
    for key in ("url: expected", "url holds", "model", "timeout", "backoff", "retries", "concurrency"):
        assert f"eval.x.{key}" in problems
    assert "user:key" not in problems
    assert EndpointConfig().problems("eval.x") == []
    with pytest.raises(InputError, match="url is empty"):
        Endpoint(EndpointConfig())
