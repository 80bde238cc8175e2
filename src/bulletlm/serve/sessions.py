"""Sessions that remember what they have read, so that the next turn of a conversation reads only the new tokens."""

from collections.abc import Sequence
from dataclasses import dataclass

from bulletlm.runtime import Model, Session


@dataclass(eq=False)
class Idle:
    """A session that is not in use, with the client it last served and the tokens that it has read."""

    session: Session
    client: str
    tokens: Sequence[int]


class SessionPool:
    """Up to `size` sessions, created when they are needed. They use the memory of at most `size` full KV caches.

    For use by one thread at a time.
    """

    def __init__(self, model: Model, size: int) -> None:
        self.model, self.size = model, size
        self._idle: list[Idle] = []  # least recently used first
        self._created = 0

    def take(self, client: str, prompt: Sequence[int]) -> Session:
        """A session for `prompt`: the one that has read most of it, else a new one, else the least recently used one.

        A session that would lose more than half of its tokens is kept for the conversation that it holds. A session is never
        reused for another client, because the time until the first token would then reveal what that client had sent.
        """
        best, longest = None, 0
        for idle in self._idle:
            common = _common_length(idle.tokens, prompt) if idle.client == client else 0
            if 2 * common > len(idle.tokens) and common > longest:
                best, longest = idle, common
        if best is None:
            if self._created < self.size:
                self._created += 1
                return Session(self.model, shift=False)
            best = self._idle[0]
            if best.client != client:
                self._idle.remove(best)
                return Session(self.model, shift=False)
        self._idle.remove(best)
        return best.session

    def give_back(self, session: Session, client: str, tokens: Sequence[int] | None) -> None:
        """Take back a session that has read `tokens`; None means that it failed, and discards it."""
        if tokens is None:
            self._created -= 1
        else:
            self._idle.append(Idle(session, client, tokens))


def _common_length(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the longest common prefix."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
