"""Tests that no request and no WebSocket passes the guard of the dashboard without the right host, origin and token."""

import asyncio
from typing import Any

import pytest

from bulletlm.dashboard import guard as guard_module
from bulletlm.dashboard.guard import COOKIE, MAX_FORM_BYTES, Guard, local_names
from bulletlm.dashboard.options import DashboardOptions
from bulletlm.dashboard.workspace import Workspace
from bulletlm.errors import ConfigError

TOKEN = "a-long-token"


async def _app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        return
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"secret"})


def ask(
    guard: Guard, *, kind: str = "http", method: str = "GET", path: str = "/", query: str = "", body: bytes = b"", **headers: str
) -> Any:
    """Status, headers and body of the answer; 101 for an accepted and 403 for a refused WebSocket."""
    sent: list[Any] = []
    scope = {
        "type": kind,
        "method": method,
        "path": path,
        "query_string": query.encode(),
        "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()],
    }

    async def receive() -> Any:
        return {"type": "http.request", "body": body}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(guard(scope, receive, send))
    if kind == "websocket":
        return 101 if sent[0]["type"] == "websocket.accept" else 403
    if not sent:
        return 0, {}, b""
    return sent[0]["status"], {name.decode(): value.decode() for name, value in sent[0]["headers"]}, sent[-1].get("body", b"")


@pytest.fixture
def local() -> Guard:
    return Guard(_app, token=None, hosts=local_names("127.0.0.1"), upload_path="/upload")


@pytest.fixture
def remote(monkeypatch: pytest.MonkeyPatch) -> Guard:
    monkeypatch.setattr(guard_module, "WRONG_TOKEN_SECONDS", 0.0)
    return Guard(_app, token=TOKEN, hosts=(), upload_path="/upload")


@pytest.mark.parametrize("host", ["127.0.0.1:8090", "localhost", "[::1]:8090"])
@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_this_computer_gets_in(local: Guard, host: str, kind: str) -> None:
    answer = ask(local, kind=kind, host=host, origin=f"http://{host}")
    assert answer == 101 or (answer[0] == 200 and "default-src 'self'" in answer[1]["content-security-policy"])


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"host": "evil.example:8090", "origin": "http://evil.example:8090"},
        {},
        {"host": "127.0.0.1:8090", "origin": "http://evil.example"},
        {"host": "127.0.0.1:8090", "origin": "http://127.0.0.1:9999"},
        {"host": "127.0.0.1:8090", "origin": "null"},
    ],
)
def test_other_names_and_other_pages_are_refused(local: Guard, kind: str, headers: dict[str, str]) -> None:
    answer = ask(local, kind=kind, **headers)
    assert (answer if kind == "websocket" else answer[0]) == 403


@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_cross_site_posts_without_an_origin_are_refused(local: Guard, kind: str) -> None:
    answer = ask(local, kind=kind, method="POST", host="localhost", sec_fetch_site="cross-site")
    assert (answer if kind == "websocket" else answer[0]) == 403


@pytest.mark.parametrize("path", ["/", "/files/a/model.bullet", "/_nicegui/3/static/nicegui.js", "/upload", "/nothing"])
@pytest.mark.parametrize("method", ["GET", "POST", "PUT"])
@pytest.mark.parametrize("cookie", ["", f"{COOKIE}=wrong", f"{COOKIE}={TOKEN}", f"{COOKIE}="])
def test_without_the_token_nothing_is_shown(remote: Guard, path: str, method: str, cookie: str) -> None:
    status, _, body = ask(remote, method=method, path=path, host="192.168.0.9", cookie=cookie)
    assert status == 401 and b"secret" not in body
    assert ask(remote, kind="websocket", path=path, host="192.168.0.9", cookie=cookie) == 403


@pytest.mark.parametrize("way", ["query", "form"])
def test_the_token_gives_a_cookie_that_scripts_cannot_read(remote: Guard, way: str) -> None:
    if way == "query":
        status, headers, _ = ask(remote, host="x", query=f"token={TOKEN}&y=1", path="//evil.example")
        assert headers["location"] == "/evil.example?y=1"
    else:
        status, headers, _ = ask(remote, method="POST", path="/login", host="x", body=f"token={TOKEN}".encode())
    cookie = headers["set-cookie"]
    assert status == 303 and "HttpOnly" in cookie and "samesite=strict" in cookie.lower() and TOKEN not in cookie
    value = cookie.partition(";")[0]
    assert ask(remote, host="x", cookie=value)[2] == b"secret"
    assert ask(remote, kind="websocket", host="x", cookie=value) == 101
    assert ask(remote, host="x", query="token=wrong")[0] == 401


def test_only_uploads_may_be_large(local: Guard) -> None:
    large = b"x" * (MAX_FORM_BYTES + 1)
    assert ask(local, method="POST", host="localhost", path="/other", body=large)[0] == 0
    assert ask(local, method="POST", host="localhost", path="/upload", body=large)[0] == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "my-computer"])
def test_other_addresses_need_a_token(tmp_path: Any, host: str) -> None:
    with pytest.raises(ConfigError, match="--token"):
        DashboardOptions(workspace=Workspace(tmp_path), host=host)
    with pytest.raises(ConfigError, match="characters"):
        DashboardOptions(workspace=Workspace(tmp_path), host=host, token="short")
    assert DashboardOptions(workspace=Workspace(tmp_path), host=host, token=TOKEN).host == host
