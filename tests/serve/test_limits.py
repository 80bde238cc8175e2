"""What clients may not do, and what happens when they do it or leave."""

import http.client
import json
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest
from running_server import Server, running

from bulletlm.cli import main
from bulletlm.tokenizer import END, EOS

NAME = "seed-like"
FOREVER = {str(END): -100, str(EOS): -100}
LONG = {"model": NAME, "prompt": ["a"] * 16, "max_tokens": 500, "logit_bias": FOREVER, "seed": 1}
"""Sixteen times 500 tokens: seconds of work."""

SHORT = {"model": NAME, "prompt": "a", "max_tokens": 2}


@pytest.fixture(scope="module")
def guarded(bullet_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with tight limits and a key."""
    options = ["--concurrency", "1", "--queue", "2", "--max-request-bytes", "3000", "--max-prompt-tokens", "20", "--threads", "1"]
    more = ["--name", "mine", "--cors", "http://localhost:3000"]
    with running(bullet_file, tmp_path_factory.mktemp("log") / "guarded.log", *options, *more, env={"BULLET_API_KEY": "secret"}) as server:
        yield server


KEY = {"Authorization": "Bearer secret"}


def test_a_key_is_needed_everywhere_but_for_health(guarded: Server) -> None:
    paths = ["/v1/models", "/v1/models/mine", "/metrics", "/openapi.json", "/v1/nothing", "/nothing"]
    for path in paths:
        status, body, headers = guarded.ask(path)
        assert (status, body["error"]["code"], headers["WWW-Authenticate"]) == (401, "missing_api_key", "Bearer"), path
    for path in ("/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize"):
        assert guarded.ask(path, {})[0] == 401, path
        assert guarded.ask(path, {}, {"Authorization": "Bearer wrong"})[1]["error"]["code"] == "invalid_api_key"
        assert guarded.ask(path, {}, {"Authorization": "Bearer secret "})[0] in (400, 401)  # HTTP takes white space off the end
        assert guarded.ask(path, {}, KEY)[0] == 400, path
    assert guarded.ask("/health")[:2] == (200, {"status": "ok"})
    with guarded.client("wrong") as client, pytest.raises(openai.AuthenticationError):
        client.models.list()
    with guarded.client("secret") as client:
        assert [card.id for card in client.models.list()] == ["mine"]


def test_a_request_may_not_be_large(guarded: Server) -> None:
    for size in (3_001, 20_000, 2_000_000):
        status, body, _ = guarded.ask("/tokenize", b" " * size, KEY)
        assert (status, body["error"]["code"]) == (413, "request_too_large")
        assert "at most 3,000" in body["error"]["message"]
    assert guarded.ask("/tokenize", json.dumps({"content": "a" * 2_900}).encode(), KEY)[0] == 200
    # Without a length said before:
    connection = http.client.HTTPConnection("127.0.0.1", guarded.port, timeout=30)
    connection.request("POST", "/tokenize", iter([b" " * 1000] * 5), {"Content-Type": "application/json", **KEY}, encode_chunked=True)
    assert connection.getresponse().status == 413
    connection.close()


def test_a_prompt_may_not_be_long(guarded: Server) -> None:
    status, body, _ = guarded.ask("/v1/completions", {"model": "mine", "prompt": [300] * 21}, KEY)
    assert (status, body["error"]["code"], body["error"]["param"]) == (400, "context_length_exceeded", "prompt")
    assert guarded.ask("/v1/completions", {"model": "mine", "prompt": [300] * 20, "max_tokens": 1}, KEY)[0] == 200


def test_a_full_queue_refuses(guarded: Server) -> None:
    long = {**LONG, "model": "mine", "prompt": "a"}
    short = {**SHORT, "model": "mine"}
    with ThreadPoolExecutor(1) as other, guarded.client("secret") as client:
        busy = other.submit(guarded.ask, "/v1/completions", {**long, "n": 3}, KEY)
        guarded.wait_for("bulletlm_waiting", 2)
        status, body, headers = guarded.ask("/v1/completions", short, KEY)
        assert (status, body["error"]["type"], headers["Retry-After"]) == (429, "rate_limit_error", "1")
        with pytest.raises(openai.RateLimitError):
            client.completions.create(**short)
        assert guarded.ask("/health")[0] == 200
        assert busy.result()[0] == 200
    status, body, _ = guarded.ask("/v1/completions", {**short, "n": 4}, KEY)
    assert (status, body["error"]["message"]) == (400, "4 completions at once: this server has room for 3")


def test_pages_of_other_origins(server: Server, guarded: Server) -> None:
    assert server.ask("/v1/models", headers={"Origin": "https://evil.example"})[0] == 403
    assert guarded.ask("/v1/models", headers={"Origin": "https://evil.example", **KEY})[0] == 403
    status, _, headers = guarded.ask("/v1/models", headers={"Origin": "http://localhost:3000", **KEY})
    assert (status, headers["Access-Control-Allow-Origin"]) == (200, "http://localhost:3000")
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
    status, _, headers = guarded.ask("/v1/chat/completions", headers={"Origin": "http://localhost:3000", **asked}, method="OPTIONS")
    assert (status, headers["Access-Control-Allow-Origin"]) == (200, "http://localhost:3000")
    assert server.ask("/v1/models")[2]["Access-Control-Allow-Origin"] is None
    assert server.ask("/v1/completions", json.dumps({**SHORT}).encode(), {"Content-Type": "text/plain"})[0] == 400


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "", "[::2]:80"])
def test_other_names_of_this_computer_are_refused(server: Server, host: str) -> None:
    status, body, _ = server.ask("/v1/models", headers={"Host": host})
    assert status == 400
    assert body["error"]["code"] == "invalid_host"


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:8000", "[::1]:8000"])
def test_its_own_names_are_not(server: Server, host: str) -> None:
    assert server.ask("/v1/models", headers={"Host": host})[0] == 200


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "JSON object"),
        (b"[]", "JSON object"),
        (b"{", "is not JSON"),
        (b'{"model": "seed-like", "prompt": "\\ud800"}', "surrogate"),
        (b'{"model": "\\ud800", "prompt": "a"}', "does not exist"),
        (b'{"\\ud800": 1, "model": "seed-like", "prompt": "a"}', ""),
        (b'{"model": "seed-like", "prompt": "a", "temperature": NaN}', "finite"),
        (b'{"model": "seed-like", "prompt": "a", "seed": ' + b"9" * 5000 + b"}", ""),
        (b"[" * 100_000, ""),
        (b'{"model": "seed-like", "prompt": "a' + "\u0301\u0323".encode() * 200_000 + b'"}', "combining signs"),
        (b"\xff\xfe", ""),
    ],
)
def test_broken_bodies(server: Server, body: bytes, message: str) -> None:
    status, answer, _ = server.ask("/v1/completions", body, method="POST")
    assert status in (400, 404)
    assert message in answer["error"]["message"]


def test_what_is_not_there(server: Server) -> None:
    status, body, _ = server.ask("/v1/nothing")
    assert (status, body["error"]["message"]) == (404, "there is nothing at /v1/nothing")
    status, body, headers = server.ask("/v1/completions")
    assert (status, headers["Allow"]) == (405, "POST")
    assert body["error"]["type"] == "invalid_request_error"
    assert server.ask("/docs")[0] == 404


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_ends_its_work(server: Server, stream: bool) -> None:
    abandoned, made = server.metric("bulletlm_abandoned_total"), server.metric('bulletlm_tokens_total{kind="completion"}')
    body = json.dumps({**LONG, "stream": stream}).encode()
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        if stream:
            assert connection.recv(15) == b"HTTP/1.1 200 OK"
        else:
            server.wait_for("bulletlm_running", 16)
    server.wait_for("bulletlm_running", 0)
    assert server.metric("bulletlm_abandoned_total") == abandoned + 1
    assert server.metric('bulletlm_tokens_total{kind="completion"}') - made < 16 * 500


def test_openai_client_that_closes_its_stream(server: Server) -> None:
    with server.client() as client:
        stream = client.completions.create(stream=True, **LONG)
        next(iter(stream))
        stream.close()
        server.wait_for("bulletlm_running", 0)


@pytest.fixture(scope="module")
def hasty(bullet_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that gives a request 0.4 seconds."""
    with running(
        bullet_file, tmp_path_factory.mktemp("log") / "hasty.log", "--concurrency", "16", "--threads", "1", "--timeout", "0.4"
    ) as server:
        yield server


def test_a_late_answer_ends_where_it_is(hasty: Server) -> None:
    hasty.ask("/v1/completions", SHORT)
    status, body, _ = hasty.ask("/v1/completions", LONG)
    assert status == 200
    assert {choice["finish_reason"] for choice in body["choices"]} == {"length"}
    assert 0 < body["usage"]["completion_tokens"] < 16 * 500
    with hasty.client() as client:
        chunks = list(client.completions.create(stream=True, **LONG))
    assert [chunk.choices[0].finish_reason for chunk in chunks].count("length") == 16


def test_it_leaves_in_good_order(bullet_file: Path, tmp_path: Path) -> None:
    """A running stream is cut after some seconds but whole, a waiting request gets 503, and the exit code is 0."""
    with running(bullet_file, tmp_path / "log", "--concurrency", "16", "--threads", "1") as server, ThreadPoolExecutor(2) as others:
        long = {**LONG, "stream": True}
        streams = [others.submit(lambda: server.ask("/v1/completions", long)) for _ in range(2)]
        server.wait_for("bulletlm_waiting", 16)
        started = time.monotonic()
        assert server.stop(signal.SIGTERM) == 0
        assert time.monotonic() - started < 20
        answers = [stream.result()[:2] for stream in streams]
    finished = next(body for status, body in answers if status == 200)
    assert finished.endswith("data: [DONE]\n\n")
    assert finished.count('"finish_reason":"length"') == 16
    assert next(body for status, body in answers if status == 503)["error"]["code"] == "server_stopping"


def test_idle_and_silent_connections_do_not_keep_it(bullet_file: Path, tmp_path: Path) -> None:
    with running(bullet_file, tmp_path / "log") as server:
        idle, half = (socket.create_connection(("127.0.0.1", server.port)) for _ in range(2))
        half.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Le")
        time.sleep(0.1)
        started = time.monotonic()
        assert server.stop(signal.SIGINT) == 0
        assert time.monotonic() - started < 15
        idle.close()
        half.close()


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--host", "0.0.0.0"], 2, "--host 0.0.0.0 lets the network in: set a key with --api-key, or in BULLET_API_KEY"),
        (["--api-key", ""], 2, "not empty"),
        (["--api-key", "with space"], 2, "without spaces"),
        (["--concurrency", "0"], 2, "--concurrency is 0"),
        (["--max-prompt-tokens", "513"], 2, "from 1 to 512"),
        (["--port", "99999"], 2, "--port is 99999"),
        (["--host", "192.0.2.1", "--api-key", "k"], 1, "cannot listen at 192.0.2.1:8000"),
    ],
)
def test_wrong_options(capsys: pytest.CaptureFixture[str], bullet_file: Path, options: list[str], code: int, message: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["serve", str(bullet_file), *options])
    assert caught.value.code == code
    assert message in capsys.readouterr().err


def test_a_port_that_is_taken(capsys: pytest.CaptureFixture[str], bullet_file: Path, server: Server) -> None:
    with pytest.raises(SystemExit):
        main(["serve", str(bullet_file), "--port", str(server.port)])
    assert "choose another --port" in capsys.readouterr().err


def test_text_to_tokens_and_back(server: Server) -> None:
    text = "मैत्री म्हणजे काय? \u2581 ok"
    tokens = server.ask("/tokenize", {"content": text})[1]["tokens"]
    assert server.ask("/detokenize", {"tokens": tokens})[1] == {"content": text}
    pieces = server.ask("/tokenize", {"content": text, "with_pieces": True, "add_special": True})[1]["tokens"]
    assert [piece["id"] for piece in pieces] == [1, *tokens]
    assert pieces[0]["piece"] == "<s>"
    raw = b"".join(piece["piece"].encode() if isinstance(piece["piece"], str) else bytes(piece["piece"]) for piece in pieces[1:])
    assert raw.decode() == text
    assert server.ask("/detokenize", {"tokens": [700]})[0] == 400


def test_metrics_are_prometheus(server: Server) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    families = {family.name: family for family in text_string_to_metric_families(server.ask("/metrics")[1])}
    assert {"bulletlm_requests", "bulletlm_request_seconds", "bulletlm_tokens", "bulletlm_running", "bulletlm_waiting"} <= set(families)
    routes = {sample.labels["route"] for sample in families["bulletlm_requests"].samples}
    assert routes <= {
        "/v1/models",
        "/v1/models/{model}",
        "/v1/completions",
        "/v1/chat/completions",
        "/tokenize",
        "/detokenize",
        "/health",
        "/metrics",
        "/openapi.json",
        "other",
    }
