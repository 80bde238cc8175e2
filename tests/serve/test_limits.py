"""Tests limits and access rules, and what happens if a client exceeds them or disconnects."""

import http.client
import json
import signal
import socket
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import openai
import psutil
import pytest
from running_server import TEST_TIMEOUT, Server, running

from bulletlm.cli.app import main
from bulletlm.text.tokenizer import END, EOS

NAME = "seed-like"
FOREVER = {str(END): -100, str(EOS): -100}
ENDLESS = {"model": "endless", "prompt": "a", "n": 16, "max_tokens": 1 << 20, "logit_bias": FOREVER, "seed": 1}
"""Sixteen answers that do not end by themselves."""

SHORT = {"model": NAME, "prompt": "a", "max_tokens": 2}


@pytest.fixture(scope="module")
def guarded(endless_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with tight limits and a key."""
    options = ["--concurrency", "1", "--queue", "2", "--max-request-bytes", "3000", "--max-prompt-tokens", "20", "--threads", "1"]
    more = ["--name", "mine", "--cors", "http://localhost:3000", "--timeout", "3600"]
    with running(endless_file, tmp_path_factory.mktemp("log") / "guarded.log", *options, *more, env={"BULLET_API_KEY": "secret"}) as server:
        yield server


KEY = {"Authorization": "Bearer secret"}


@pytest.fixture(scope="module")
def busy(slow_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for answers that do not end by themselves."""
    log = tmp_path_factory.mktemp("log") / "busy.log"
    with running(slow_file, log, "--concurrency", "16", "--threads", "1", "--timeout", "3600") as server:
        yield server


def head(path: str, length: int, **headers: str) -> bytes:
    """The head of a POST request with a body of `length` bytes."""
    given = {"Host": "localhost", "Content-Type": "application/json", "Content-Length": str(length), **headers}
    return "\r\n".join([f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in given.items()), "", ""]).encode()


def connected(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=TEST_TIMEOUT)


@contextmanager
def asking(server: Server, path: str, body: object, headers: Mapping[str, str] | None = None) -> Iterator[socket.socket]:
    """A client that has sent a request, and disconnects at the end of the block without having read the answer."""
    data = json.dumps(body).encode()
    with connected(server) as connection:
        connection.sendall(head(path, len(data), **(headers or {})) + data)
        yield connection


def all_of(connection: socket.socket) -> bytes:
    """Everything that the server sends until it closes the connection."""
    return b"".join(iter(lambda: connection.recv(65536), b""))


def test_every_route_except_health_needs_the_key(guarded: Server) -> None:
    paths = ["/v1/models", "/v1/models/mine", "/api/tags", "/metrics", "/openapi.json", "/v1/nothing", "/nothing"]
    for path in paths:
        status, body, headers = guarded.ask(path)
        assert (status, headers["WWW-Authenticate"]) == (401, "Bearer"), path
        assert "no API key" in str(body["error"])
    for path in ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/tokenize", "/detokenize"):
        assert guarded.ask(path, {})[0] == 401, path
        assert guarded.ask(path, {}, {"Authorization": "Bearer wrong"})[1]["error"]["code"] == "invalid_api_key"
        assert guarded.ask(path, {}, {"Authorization": "Bearer secret "})[0] in (400, 401)  # HTTP removes white space at the end
        assert guarded.ask(path, {}, KEY)[0] == 400, path
    assert guarded.ask("/health")[:2] == (200, {"status": "ok"})
    with guarded.client("wrong") as client, pytest.raises(openai.AuthenticationError):
        client.models.list()
    with guarded.client("secret") as client:
        assert [card.id for card in client.models.list()] == ["mine"]


def test_the_size_of_a_request_is_limited(guarded: Server) -> None:
    for size in (3_001, 20_000, 2_000_000):
        status, body, _ = guarded.ask("/tokenize", b" " * size, KEY)
        assert (status, body["error"]["code"]) == (413, "request_too_large")
        assert "the limit is 3,000" in body["error"]["message"]
    assert guarded.ask("/tokenize", json.dumps({"content": "a" * 2_900}).encode(), KEY)[0] == 200
    # Without a Content-Length header:
    connection = http.client.HTTPConnection("127.0.0.1", guarded.port, timeout=TEST_TIMEOUT)
    connection.request("POST", "/tokenize", iter([b" " * 1000] * 5), {"Content-Type": "application/json", **KEY}, encode_chunked=True)
    assert connection.getresponse().status == 413
    connection.close()


@pytest.mark.parametrize("chunked", [False, True])
def test_a_request_that_is_too_large_takes_no_memory(guarded: Server, chunked: bool) -> None:
    process = psutil.Process(guarded.process.pid)
    guarded.ask("/tokenize", b" " * 100_000, KEY)
    before, parts = process.memory_info().rss, [b" " * (1 << 20)] * 32
    connection = http.client.HTTPConnection("127.0.0.1", guarded.port, timeout=TEST_TIMEOUT)
    length = {} if chunked else {"Content-Length": str(32 << 20)}
    connection.request("POST", "/tokenize", iter(parts), {**KEY, **length}, encode_chunked=chunked)
    assert connection.getresponse().status == 413
    assert process.memory_info().rss - before < 16 << 20
    connection.close()


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/tokenize", {"Authorization": "Bearer wrong"}, 401),
        ("/tokenize", {}, 401),
        ("/tokenize", {**KEY, "Origin": "https://evil.example"}, 403),
        ("/tokenize", KEY, 413),
        ("/nothing", KEY, 413),
    ],
)
def test_a_request_is_refused_only_after_it_has_arrived(guarded: Server, path: str, headers: dict[str, str], status: int) -> None:
    """If the server closes the connection while the client sends, the client gets a reset instead of the answer."""
    with connected(guarded) as connection:
        connection.sendall(head(path, 500_000, Connection="close", **headers) + b" " * 250_000)
        connection.settimeout(0.2)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        connection.settimeout(TEST_TIMEOUT)
        connection.sendall(b" " * 250_000)
        assert all_of(connection).startswith(f"HTTP/1.1 {status} ".encode())


def test_the_length_of_a_prompt_is_limited(guarded: Server) -> None:
    status, body, _ = guarded.ask("/v1/completions", {"model": "mine", "prompt": [300] * 21}, KEY)
    assert (status, body["error"]["code"], body["error"]["param"]) == (400, "context_length_exceeded", "prompt")
    assert guarded.ask("/v1/completions", {"model": "mine", "prompt": [300] * 20, "max_tokens": 1}, KEY)[0] == 200


def test_a_full_queue_refuses(guarded: Server) -> None:
    short = {**SHORT, "model": "mine"}
    with asking(guarded, "/v1/completions", {**ENDLESS, "model": "mine", "n": 3}, KEY), guarded.client("secret") as client:
        guarded.wait_for("bulletlm_waiting", 2)
        status, body, headers = guarded.ask("/v1/completions", short, KEY)
        assert (status, body["error"]["type"], headers["Retry-After"]) == (429, "rate_limit_error", "1")
        with pytest.raises(openai.RateLimitError):
            client.completions.create(**short)
        assert guarded.ask("/health")[0] == 200
    guarded.wait_for("bulletlm_running", 0)
    assert guarded.ask("/v1/completions", short, KEY)[0] == 200
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
def test_local_host_names_are_accepted(server: Server, host: str) -> None:
    assert server.ask("/v1/models", headers={"Host": host})[0] == 200


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "JSON object"),
        (b"[]", "JSON object"),
        (b"{", "is not JSON"),
        (b'{"model": "seed-like", "prompt": "\\ud800"}', "surrogate"),
        (b'{"\\ud800": 1, "model": "seed-like", "prompt": "a"}', ""),
        (b'{"model": "seed-like", "prompt": "a", "temperature": NaN}', "finite"),
        (b'{"model": "seed-like", "prompt": "a", "seed": ' + b"9" * 5000 + b"}", ""),
        (b"[" * 100_000, ""),
        (b'{"model": "seed-like", "prompt": "a' + "\u0301\u0323".encode() * 200_000 + b'"}', "combining marks"),
        (b"\xff\xfe", ""),
    ],
)
def test_broken_bodies(server: Server, body: bytes, message: str) -> None:
    status, answer, _ = server.ask("/v1/completions", body, method="POST")
    assert status in (400, 404)
    assert message in answer["error"]["message"]


@pytest.mark.parametrize(("start", "end"), [("[", "]"), ('{"a":', "}")])
@pytest.mark.parametrize("field", ["prompt", "metadata", "stop", "unknown"])
def test_nesting_is_limited(server: Server, field: str, start: str, end: str) -> None:
    """Also where Python's JSON parser still accepts it. `running` checks that the server's log stays empty."""
    for depth in (32, 480, 500, 600, 700, 800, 900, 990):
        body = f'{{"model": "{NAME}", "prompt": "a", "max_tokens": 1, "{field}": {start * depth}1{end * depth}}}'
        assert server.ask("/v1/completions", body.encode())[0] == 400, depth
    shallow = f'{{"model": "{NAME}", "prompt": "a", "max_tokens": 1, "metadata": {start * 31}1{end * 31}}}'
    assert server.ask("/v1/completions", shallow.encode())[0] == 200


TALK = {"model": NAME, "messages": [{"role": "user", "content": "a"}]}


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/completions", {"model": NAME, "prompt": [-1] * 300_000}, "prompt[0]"),
        ("/v1/completions", {"model": NAME, "prompt": [[-1] * 300_000]}, "prompt[0][0]"),
        ("/v1/completions", {"model": NAME, "prompt": [[]] * 200_000}, "prompt[0]"),
        ("/v1/embeddings", {"model": NAME, "input": [-1] * 300_000}, "input[0]"),
        ("/detokenize", {"tokens": [-1] * 300_000}, "tokens[0]"),
        ("/v1/chat/completions", {**TALK, "messages": [{}] * 200_000}, "messages[0].role"),
        ("/v1/chat/completions", {**TALK, "messages": [{"role": "user", "content": [1] * 300_000}]}, "messages[0].content[0]"),
        ("/v1/chat/completions", {**TALK, "stop": [1] * 300_000}, "stop[0]"),
        ("/v1/chat/completions", {**TALK, "logit_bias": {f"{token}": 101 for token in range(70_000)}}, "logit_bias.0"),
        ("/v1/chat/completions", {**TALK, **{f"x{number}": 1 for number in range(70_000)}}, "x0"),
    ],
)
def test_only_the_first_of_many_errors_is_reported(server: Server, path: str, body: dict[str, object], param: str) -> None:
    """A request with a megabyte of errors does not take hundreds of megabytes of memory."""
    process = psutil.Process(server.process.pid)
    before = process.memory_info().rss
    status, answer, _ = server.ask(path, json.dumps(body, separators=(",", ":")).encode())
    assert (status, answer["error"]["param"]) == (400, param)
    assert process.memory_info().rss - before < 48 << 20


def test_unknown_paths_and_methods(server: Server) -> None:
    status, body, _ = server.ask("/v1/nothing")
    assert (status, body["error"]["message"]) == (404, f"there is nothing at /v1/nothing: see {server.root}/ for what there is")
    status, body, headers = server.ask("/v1/completions")
    assert (status, headers["Allow"]) == (405, "POST")
    assert body["error"]["type"] == "invalid_request_error"
    assert server.ask("/docs")[0] == 404


@pytest.mark.parametrize("stream", [False, True])
def test_a_disconnect_ends_the_completions(busy: Server, stream: bool) -> None:
    abandoned = busy.metric("bulletlm_abandoned_total")
    with asking(busy, "/v1/completions", {**ENDLESS, "stream": stream}) as connection:
        busy.wait_for("bulletlm_running", 16)
        if stream:
            assert connection.recv(15, socket.MSG_WAITALL) == b"HTTP/1.1 200 OK"
    busy.wait_for("bulletlm_running", 0)
    assert busy.metric("bulletlm_abandoned_total") == abandoned + 1


def test_openai_client_that_closes_its_stream(busy: Server) -> None:
    with busy.client() as client:
        stream = client.completions.create(stream=True, **ENDLESS)
        next(iter(stream))
        stream.close()
        busy.wait_for("bulletlm_running", 0)


LONG_PROMPT = {**ENDLESS, "n": 1, "prompt": [300] * 190_000}
"""Reading it takes minutes."""


def test_a_disconnect_ends_the_reading_of_the_prompt(busy: Server) -> None:
    made = busy.metric('bulletlm_tokens_total{kind="completion"}')
    with asking(busy, "/v1/completions", LONG_PROMPT):
        busy.wait_for("bulletlm_running", 1)
        # Other requests are answered at the same time.
        assert busy.ask("/v1/completions", {**SHORT, "model": "endless"})[0] == 200
        assert busy.metric("bulletlm_running") == 1
    busy.wait_for("bulletlm_running", 0)
    assert busy.metric('bulletlm_tokens_total{kind="completion"}') - made <= 2


@pytest.fixture(scope="module")
def hasty(slow_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a timeout of one second."""
    log = tmp_path_factory.mktemp("log") / "hasty.log"
    with running(slow_file, log, "--concurrency", "16", "--threads", "1", "--timeout", "1") as server:
        yield server


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_ends_at_the_timeout(hasty: Server, stream: bool) -> None:
    status = 504
    while status == 504:  # a busy computer may not even begin within a second
        status, body, _ = hasty.ask("/v1/completions", {**ENDLESS, "stream": stream})
    assert status == 200
    if stream:
        assert body.endswith("data: [DONE]\n\n")
        assert body.count('"finish_reason":"length"') == 16
    else:
        assert [choice["finish_reason"] for choice in body["choices"]] == ["length"] * 16
        assert body["usage"]["completion_tokens"] > 0


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_that_is_not_read_before_the_timeout(hasty: Server, stream: bool) -> None:
    status, body, _ = hasty.ask("/v1/completions", {**LONG_PROMPT, "prompt": [300 + stream] * 190_000, "stream": stream})
    assert (status, body["error"]["code"]) == (504, "timeout")
    hasty.wait_for("bulletlm_running", 0)


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_that_is_not_scored_before_the_timeout(hasty: Server, stream: bool) -> None:
    """Half of the log-probabilities are of no use, so the client must get an error."""
    body = {**LONG_PROMPT, "prompt": [310 + stream] * 190_000, "stream": stream, "echo": True, "logprobs": 1, "max_tokens": 0}
    status, answer, _ = hasty.ask("/v1/completions", body)
    if status == 200:
        assert stream and '"code":"timeout"' in answer.replace(" ", "") and "[DONE]" not in answer
    else:
        assert (status, answer["error"]["code"]) == (504, "timeout")
    hasty.wait_for("bulletlm_running", 0)


def test_a_disconnect_ends_the_scoring_of_a_prompt(busy: Server) -> None:
    with asking(busy, "/v1/completions", {**LONG_PROMPT, "echo": True, "logprobs": 1}):
        busy.wait_for("bulletlm_running", 1)
        assert busy.ask("/v1/completions", {**SHORT, "model": "endless"})[0] == 200
    busy.wait_for("bulletlm_running", 0)


def test_the_timeout_begins_when_the_request_arrives(hasty: Server) -> None:
    """The time until the body has arrived counts, and so does everything before the answer begins."""
    for path, body in (
        ("/v1/completions", {**SHORT, "model": "endless", "prompt": [300]}),
        ("/v1/embeddings", {"model": "endless", "input": [300]}),
    ):
        data = json.dumps(body).encode()
        with connected(hasty) as connection:
            connection.sendall(head(path, len(data), Connection="close"))
            time.sleep(1.2)
            connection.sendall(data)
            assert all_of(connection).startswith(b"HTTP/1.1 504 ")


LONG_TEXT = {"model": "endless", "input": [300] * 190_000}
"""Reading it takes minutes."""


def test_embeddings_at_the_timeout(hasty: Server) -> None:
    """Both the request that is computed and the one that waits for it."""
    with ThreadPoolExecutor(2) as others:
        answers = [others.submit(hasty.ask, "/v1/embeddings", LONG_TEXT) for _ in range(2)]
        assert [(answer.result()[0], answer.result()[1]["error"]["code"]) for answer in answers] == [(504, "timeout")] * 2


def test_a_disconnect_ends_embeddings(busy: Server) -> None:
    abandoned = busy.metric("bulletlm_abandoned_total")
    with asking(busy, "/v1/embeddings", LONG_TEXT):
        time.sleep(0.5)
    busy.wait_for("bulletlm_abandoned_total", abandoned + 1)
    assert busy.ask("/v1/embeddings", {**LONG_TEXT, "input": [300]})[0] == 200


def test_shutdown_ends_answers_properly(endless_file: Path, tmp_path: Path) -> None:
    """A running stream ends early but completely, a waiting request gets 503, and the exit code is 0."""
    with running(endless_file, tmp_path / "log", "--concurrency", "16", "--threads", "1") as server, ThreadPoolExecutor(2) as others:
        streams = [others.submit(lambda: server.ask("/v1/completions", {**ENDLESS, "stream": True})) for _ in range(2)]
        server.wait_for("bulletlm_waiting", 16)
        assert server.stop(signal.SIGTERM) == 0
        answers = [stream.result()[:2] for stream in streams]
    finished = next(body for status, body in answers if status == 200)
    assert finished.endswith("data: [DONE]\n\n")
    assert finished.count('"finish_reason":"length"') == 16
    assert next(body for status, body in answers if status == 503)["error"]["code"] == "server_stopping"


def test_the_second_ctrl_c_stops_at_once(endless_file: Path, tmp_path: Path) -> None:
    with (
        running(endless_file, tmp_path / "log") as server,
        asking(server, "/v1/completions", {**ENDLESS, "stream": True}),
        asking(server, "/v1/completions", ENDLESS),
    ):
        server.wait_for("bulletlm_waiting", 16)
        server.process.send_signal(signal.SIGINT)
        with pytest.raises(ConnectionError):
            while True:
                connected(server).close()
        assert server.stop(signal.SIGINT) == 0


def test_idle_connections_do_not_delay_shutdown(bullet_file: Path, tmp_path: Path) -> None:
    with running(bullet_file, tmp_path / "log") as server, connected(server), connected(server) as half:
        half.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Le")
        server.wait_for("bulletlm_connections", 3)  # including the connection of this query
        assert server.stop(signal.SIGINT) == 0


GET = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"


def test_connections_are_limited(tiny_file: Path, tmp_path: Path) -> None:
    before = "import bulletlm.serve.connections as c; c.HEAD_SECONDS, c.REFUSED_CONNECTIONS = 3600, 1"
    with running(tiny_file, tmp_path / "log", "--connections", "2", before=before) as server, connected(server):
        with connected(server):
            for request in (GET, head("/tokenize", 2_000_000) + b" " * 2_000_000):
                with connected(server) as third:
                    third.sendall(request)
                    answer, _, body = all_of(third).partition(b"\r\n\r\n")
                    assert answer.startswith(b"HTTP/1.1 503 ") and b"\r\nretry-after: 1\r\n" in answer.lower()
                    assert json.loads(body)["error"]["code"] == "too_many_connections"
            with connected(server) as third, connected(server) as fourth:
                assert all_of(fourth) == b""
                third.sendall(GET)
                assert all_of(third).startswith(b"HTTP/1.1 503 ")
        while (status := server.ask("/health")[0]) == 503:  # until the server has noticed the disconnects
            pass
        assert status == 200


@pytest.fixture(scope="module")
def strict(endless_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with short timeouts for slow clients."""
    before = "import bulletlm.serve.connections as c, bulletlm.serve.guard as g; c.HEAD_SECONDS, c.STALL_SECONDS, g.BODY_SECONDS = 2, 1, 1"
    log = tmp_path_factory.mktemp("log") / "strict.log"
    with running(endless_file, log, "--timeout", "3600", before=before) as server:
        yield server


def test_the_head_of_a_request_must_arrive_in_time(strict: Server) -> None:
    with connected(strict) as silent, connected(strict) as half, connected(strict) as second:
        half.sendall(GET[:-2])
        second.sendall(GET)
        assert second.recv(15, socket.MSG_WAITALL) == b"HTTP/1.1 200 OK"
        with pytest.raises(ConnectionError):  # also for a later request, and when it arrives byte by byte
            while True:
                second.sendall(b"G")
                time.sleep(0.05)
        assert all_of(silent) == b""
        answer = all_of(half)
        assert answer.startswith(b"HTTP/1.1 408 ") and b"head of the request did not arrive" in answer


def test_the_body_of_a_request_must_arrive_in_time(strict: Server) -> None:
    with connected(strict) as connection:
        connection.sendall(head("/tokenize", 100) + b"{")
        assert all_of(connection).startswith(b"HTTP/1.1 408 ")


def test_an_answer_may_take_longer_than_the_head_timeout(strict: Server) -> None:
    with asking(strict, "/v1/completions", {**ENDLESS, "n": 1, "stream": True}) as connection:
        until = time.monotonic() + 3
        while time.monotonic() < until:
            assert connection.recv(65536)
    strict.wait_for("bulletlm_running", 0)


def test_a_client_that_does_not_read_is_disconnected(strict: Server) -> None:
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", strict.port))
        body = json.dumps({**ENDLESS, "stream": True, "logprobs": 5}).encode()
        connection.sendall(head("/v1/completions", len(body)) + body)
        strict.wait_for("bulletlm_running", 16)
        strict.wait_for("bulletlm_running", 0)


@pytest.mark.parametrize("start", [b"what is this\r\n\r\n", GET[:-2] + b"X: " + b"x" * 20_000])
def test_data_that_is_not_http(server: Server, start: bytes) -> None:
    with connected(server) as connection:
        connection.sendall(start)
        answer = all_of(connection)
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["message"] == "this is not a valid HTTP request"


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--host", "0.0.0.0"], 2, "--host 0.0.0.0 opens the server to the network: set a key with --api-key, or in BULLET_API_KEY"),
        (["--api-key", ""], 2, "must not be empty"),
        (["--api-key", "with space"], 2, "without spaces"),
        (["--concurrency", "0"], 2, "--concurrency is 0"),
        (["--threads", "-1"], 2, "--threads is -1: it must be from 1 to 1024"),
        (["--threads", "0"], 2, "--threads is 0"),
        (["--max-prompt-tokens", "513"], 2, "from 1 to 512"),
        (["--port", "99999"], 2, "--port is 99999"),
        (["--connections", "0"], 2, "--connections is 0"),
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
    assert routes <= {*server.ask("/openapi.json")[1]["paths"], "/openapi.json", "other"}
