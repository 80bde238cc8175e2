"""Tests the variants of paths and headers that clients send, and the access rules."""

import http.client
import socket
from pathlib import Path

import pytest
from running_server import TEST_TIMEOUT, Server, running

BODY = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 1}


def status_of(server: Server, method: str, path: str, headers: dict[str, str] | None = None) -> tuple[int, bytes, dict[str, str]]:
    """Status, body and headers (with names in lower case) of a request without a body."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=TEST_TIMEOUT)
    connection.request(method, path, headers=headers or {})
    answer = connection.getresponse()
    found = answer.status, answer.read(), {name.lower(): value for name, value in answer.getheaders()}
    connection.close()
    return found


@pytest.mark.parametrize("path", ["/v1/models/", "//v1/models", "/v1//models//", "/v1/models/seed-like/", "/health/", "/api/tags/"])
def test_slashes_do_not_matter(server: Server, path: str) -> None:
    assert server.ask(path)[0] == 200


@pytest.mark.parametrize(
    "path", ["/v1/chat/completions/", "//v1/chat/completions", "/v1/responses/", "/v1/completions/", "/v1/embeddings/"]
)
def test_slashes_do_not_matter_for_posts(server: Server, path: str) -> None:
    kind = path.strip("/").split("/")[1]
    body = {"chat": BODY, "responses": {"input": "a", "max_output_tokens": 1}, "completions": {"prompt": "a"}, "embeddings": {"input": "a"}}
    assert server.ask(path, body[kind])[0] == 200


@pytest.mark.parametrize("path", ["/", "/v1/models", "/v1/models/", "/health", "/metrics", "/api/tags", "/api/version", "/openapi.json"])
def test_head(server: Server, path: str) -> None:
    status, body, headers = status_of(server, "HEAD", path)
    assert (status, body) == (200, b"")
    assert headers["content-type"] == status_of(server, "GET", path)[2]["content-type"]


def test_head_of_what_is_not_there(server: Server) -> None:
    assert status_of(server, "HEAD", "/nothing")[:2] == (404, b"")
    status, body, headers = status_of(server, "HEAD", "/v1/completions")
    assert (status, body, headers["allow"]) == (405, b"", "POST")


def test_the_page_says_what_this_is(server: Server) -> None:
    status, page, headers = status_of(server, "GET", "/")
    assert status == 200 and headers["content-type"] == "text/html; charset=utf-8"
    text = page.decode()
    assert "BulletLM" in text and "seed-like" in text and f"http://127.0.0.1:{server.port}/v1<" in text
    assert "<script" not in text and "src=" not in text


def test_the_page_needs_no_key_and_then_hides_the_model(tiny_file: Path, tmp_path: Path) -> None:
    with running(tiny_file, tmp_path / "log", "--name", "<private>", env={"BULLET_API_KEY": "secret"}) as server:
        status, page, _ = status_of(server, "GET", "/")
        assert status == 200 and b"private" not in page and b"Authorization: Bearer KEY" in page
        assert status_of(server, "GET", "//")[0] == 200
        assert status_of(server, "GET", "/v1/models")[0] == 401


def test_the_name_of_a_model_is_escaped(tiny_file: Path, tmp_path: Path) -> None:
    with running(tiny_file, tmp_path / "log", "--name", "<b>/x:1") as server:
        assert b"&lt;b&gt;/x:1" in status_of(server, "GET", "/")[1]
        assert server.ask("/v1/models/%3Cb%3E/x:1")[1]["id"] == "<b>/x:1"
        assert server.ask("/api/tags")[1]["models"][0]["name"] == "<b>/x:1"


def test_bearer_in_any_case(tiny_file: Path, tmp_path: Path) -> None:
    with running(tiny_file, tmp_path / "log", env={"BULLET_API_KEY": "secret"}) as server:
        for scheme in ("Bearer", "bearer", "BEARER", "Bearer "):
            assert server.ask("/v1/models", headers={"Authorization": f"{scheme} secret"})[0] == 200
        for wrong in ("Bearer Secret", "Bearersecret", "Bearer", "secret", "Basic secret", "Bearer secret secret", "Bearer\xa0secret"):
            status, body, headers = server.ask("/v1/models", headers={"Authorization": wrong})
            assert (status, body["error"]["code"], headers["WWW-Authenticate"]) == (401, "invalid_api_key", "Bearer"), wrong


def test_further_host_names(tiny_file: Path, tmp_path: Path) -> None:
    with running(tiny_file, tmp_path / "log", "--allowed-host", "Host.docker.internal", "--allowed-host", "bullet") as server:
        for host in ("host.docker.internal:8000", "HOST.DOCKER.INTERNAL", "bullet", "localhost", "127.0.0.1:1"):
            assert server.ask("/v1/models", headers={"Host": host})[0] == 200, host
        status, body, _ = server.ask("/v1/models", headers={"Host": "evil.example:80"})
        assert (status, body["error"]["code"]) == (400, "invalid_host")
        assert "--allowed-host evil.example" in body["error"]["message"]


def test_a_server_answers_under_the_address_at_which_it_listens(tiny_file: Path, tmp_path: Path) -> None:
    """127.0.0.2 is this computer too; some systems answer only at 127.0.0.1."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.2", 0))
        except OSError as error:
            pytest.skip(str(error))
    with running(tiny_file, tmp_path / "log", "--host", "127.0.0.2") as server:
        assert server.root.startswith("http://127.0.0.2:") and server.ask("/v1/models")[0] == 200
        assert server.ask("/v1/models", headers={"Host": "evil.example"})[0] == 400


def test_allowed_hosts_restrict_a_server_on_the_network(tiny_file: Path, tmp_path: Path) -> None:
    with running(tiny_file, tmp_path / "log", "--host", "0.0.0.0", "--allowed-host", "bullet", env={"BULLET_API_KEY": "k"}) as server:
        key = {"Authorization": "Bearer k"}
        assert server.ask("/v1/models", headers={**key, "Host": "bullet:8000"})[0] == 200
        assert server.ask("/v1/models", headers={**key, "Host": "other"})[0] == 400


@pytest.mark.parametrize("private", [{}, {"Access-Control-Request-Private-Network": "true"}])
def test_preflights_of_allowed_pages(tiny_file: Path, tmp_path: Path, private: dict[str, str]) -> None:
    origin = "https://app.example"
    with running(tiny_file, tmp_path / "log", "--cors", origin, env={"BULLET_API_KEY": "k"}) as server:
        asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type", **private}
        status, _, headers = status_of(server, "OPTIONS", "/v1/chat/completions", {"Origin": origin, **asked})
        assert (status, headers["access-control-allow-origin"]) == (200, origin)
        assert headers.get("access-control-allow-private-network") == ("true" if private else None)
        assert "authorization" in headers["access-control-allow-headers"]
        status, _, headers = status_of(server, "OPTIONS", "/v1/chat/completions", {"Origin": "https://evil.example", **asked})
        assert status == 400 and "access-control-allow-origin" not in headers
        assert "access-control-allow-private-network" not in headers
