"""Tests the endpoint backend with a real server on the loopback interface."""

import socket
import threading
from itertools import count

import pytest
from loopback_endpoint import loopback

from bulletlm.config.schema import AugmentConfig
from bulletlm.data.augment import endpoint
from bulletlm.data.augment.backends import Backend, open_backend
from bulletlm.errors import BulletError, ConfigError


def opened(url: str, **settings: object) -> Backend:
    return open_backend(url, AugmentConfig(**settings), "augment.paraphrase_models.mr")  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint.time, "sleep", lambda seconds: None)


def test_sentences_are_asked_one_by_one_and_answered_in_order() -> None:
    with loopback(lambda sentence: sentence.upper()) as server:
        sentences = [f"sentence number {n}" for n in range(30)]
        assert opened(server.url + "/", endpoint_model="tiny").rewrite(sentences, "en", "en") == [s.upper() for s in sentences]
        assert sorted(server.asked) == sorted(sentences)
        assert {request["path"] for request in server.requests} == {"/v1/chat/completions"}
        request = server.requests[0]
        assert (request["model"], request["temperature"]) == ("tiny", 0)
        assert "in other words" in request["messages"][0]["content"] and "English" in request["messages"][0]["content"]
        assert "Authorization" not in server.headers[0]
        opened(server.url).rewrite(["x"], "en", "mr")
        assert "from English into Marathi" in server.requests[-1]["messages"][0]["content"]


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("  two\nlines ", "two lines"),
        ('"quoted."', "quoted."),
        ("“तो आला.”", "तो आला."),
        ('"A" and "B"', '"A" and "B"'),
        ("it's", "it's"),
        ('"', '"'),
        ("", ""),
    ],
)
def test_answers_are_made_one_plain_line(said: str, kept: str) -> None:
    with loopback(lambda sentence: said) as server:
        assert opened(server.url).rewrite(["x"], "en", "en") == [kept]


def test_the_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with loopback(lambda sentence: "yes") as server:
        backend = opened(server.url, endpoint_key_variable="BULLETLM_TEST_KEY")
        monkeypatch.delenv("BULLETLM_TEST_KEY", raising=False)
        with pytest.raises(ConfigError, match="no environment variable BULLETLM_TEST_KEY"):
            backend.rewrite(["x"], "en", "en")
        monkeypatch.setenv("BULLETLM_TEST_KEY", "not-a-secret")
        assert backend.rewrite(["x"], "en", "en") == ["yes"]
        assert server.headers[-1]["Authorization"] == "Bearer not-a-secret"
        assert backend.identity == opened(server.url).identity, "another key asks the same model"
        assert backend.identity != opened(server.url, endpoint_model="other").identity


def test_a_busy_server_is_asked_again() -> None:
    tries = count(1)
    with loopback(lambda sentence: (503, b"busy") if next(tries) < endpoint.TRIES else "at last") as server:
        assert opened(server.url).rewrite(["x"], "en", "en") == ["at last"]
        server.answer = lambda sentence: (429, b"too many requests")
        with pytest.raises(BulletError, match=r"429 .*too many requests"):
            opened(server.url).rewrite(["x"], "en", "en")


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (401, b"", "requires a key: set augment.endpoint_key_variable"),
        (403, b"", "the key is not accepted"),
        (404, b"", "is this the base URL .* is there a model 'tiny'"),
        (400, b'{"error": "context too short"}', "400 .*context too short"),
        (200, b"<html>hello</html>", "does not answer as an OpenAI-compatible endpoint does, but with '<html>"),
        (200, b'{"choices": []}', "does not answer as an OpenAI-compatible"),
        (200, b"\xff\xfe", "does not answer as an OpenAI-compatible"),
        (200, b"[]", "does not answer as an OpenAI-compatible"),
    ],
)
def test_a_wrong_answer_is_one_clear_line(status: int, body: bytes, message: str) -> None:
    with loopback(lambda sentence: (status, body)) as server:
        with pytest.raises(BulletError, match=message) as caught:
            opened(server.url, endpoint_model="tiny").rewrite(["x"], "en", "en")
        assert str(caught.value).startswith(server.url + "/chat/completions")
        assert "\n" not in str(caught.value)


def test_an_answer_without_text_counts_as_none() -> None:
    with loopback(lambda sentence: (200, b'{"choices": [{"message": {"content": null}}]}')) as server:
        assert opened(server.url).rewrite(["x"], "en", "en") == [""]


def test_nobody_there() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(BulletError, match=r"cannot be reached \(Connection refused\): is the server running"):
        opened(f"http://127.0.0.1:{port}/v1").rewrite(["x"], "en", "en")
    with pytest.raises(BulletError, match="cannot be reached"):
        opened("http://no-such-host.invalid/v1").rewrite(["x"], "en", "en")


def test_a_server_that_does_not_answer() -> None:
    over = threading.Event()

    def late(sentence: str) -> str:
        over.wait()
        return "late"

    with loopback(late) as server:
        with pytest.raises(BulletError, match=r"gave no answer in 0.2 s: raise augment.endpoint_timeout"):
            opened(server.url, endpoint_timeout=0.2).rewrite(["x"] * 50, "en", "en")
        assert len(server.asked) < 20, "after the first failure the rest is not asked"
        over.set()


def test_a_server_that_hangs_up() -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        threading.Thread(target=lambda: listening.accept()[0].close(), daemon=True).start()
        with pytest.raises(BulletError, match="cannot be reached"):
            opened(f"http://127.0.0.1:{listening.getsockname()[1]}/v1").rewrite(["x"], "en", "en")
