"""A real HTTP server on the loopback interface that answers like an OpenAI-compatible endpoint."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Loopback:
    """The requests that it received, and its answers: `answer` receives the sentence and returns text, or a status and a body."""

    def __init__(self, answer: Callable[[str], str | tuple[int, bytes]]) -> None:
        self.answer = answer
        self.asked: list[str] = []
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.url = ""


@contextmanager
def loopback(answer: Callable[[str], str | tuple[int, bytes]]) -> Iterator[Loopback]:
    state = Loopback(answer)
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            sentence = request["messages"][0]["content"].split("\n\n", 1)[1]
            with lock:
                state.asked.append(sentence)
                state.requests.append({"path": self.path, **request})
                state.headers.append(dict(self.headers))
            said = state.answer(sentence)
            if isinstance(said, str):
                said = 200, json.dumps({"choices": [{"message": {"role": "assistant", "content": said}}]}).encode()
            self.send_response(said[0])
            self.send_header("Content-Length", str(len(said[1])))
            self.end_headers()
            self.wfile.write(said[1])

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client that has gone away
    state.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
