"""A program in its own pseudo-terminal, for tests that type and read."""

import codecs
import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import termios
import time


class Nothing(Exception):
    """The expected output did not arrive."""


class Terminal:
    """A program in its own pseudo-terminal."""

    def __init__(self, words: list[str], columns: int = 80, **environment: str) -> None:
        self.pid, self.screen = pty.fork()
        if self.pid == 0:
            os.environ.update({"TERM": "xterm", **environment})
            os.execv(words[0], words)
        self.resize(columns)
        self.seen, self.ended = "", False
        self.decode = codecs.getincrementaldecoder("utf-8")(errors="replace").decode  # a read may end inside a character

    def resize(self, columns: int) -> None:
        """Change the width of the terminal and notify the program."""
        fcntl.ioctl(self.screen, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def exit_code(self) -> int:
        """Wait for its end."""
        _, status = os.waitpid(self.pid, 0)
        self.ended = True
        return os.waitstatus_to_exitcode(status)

    def read_until(self, pattern: str, seconds: float = 90) -> str:
        """Return the output since the last match, up to this one."""
        end = time.monotonic() + seconds
        while not (found := re.search(pattern, self.seen)):
            if time.monotonic() > end:
                raise Nothing(f"no {pattern} in {self.seen!r}")
            if select.select([self.screen], [], [], 0.1)[0]:
                try:
                    self.seen += self.decode(os.read(self.screen, 4096))
                except OSError:  # the program has ended
                    assert re.search(pattern, self.seen), f"ended without {pattern}: {self.seen!r}"
        text, self.seen = self.seen[: found.end()], self.seen[found.end() :]
        return text

    def type_until(self, text: str, pattern: str) -> str:
        """Type a text, and repeat it every second until there is output."""
        for _ in range(240):
            self.type(text)
            with contextlib.suppress(Nothing):
                return self.read_until(pattern, 1)
        raise Nothing(pattern)

    def close(self) -> None:
        """End the program if it still runs."""
        if not self.ended:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.screen)

    def type(self, text: str) -> None:
        os.write(self.screen, text.encode())
