"""Sessions that remember what they have read, so that the next turn of a conversation only reads what is new."""

from collections.abc import Sequence
from dataclasses import dataclass

from bulletlm.runtime import Model, Session


@dataclass(eq=False)
class Idle:
    session: Session
    client: str
    held: Sequence[int]


class SessionPool:
    """Up to `size` sessions, made when they are needed; their memory is the KV cache of `size` full contexts at most.

    Not for more than one thread at a time.
    """

    def __init__(self, model: Model, size: int) -> None:
        self.model, self.size = model, size
        self._idle: list[Idle] = []  # the one used longest ago first
        self._made = 0

    def take(self, client: str, prompt: Sequence[int]) -> Session:
        """A session for `prompt`: the one that has most of it already, else a new one, else the one used longest ago.

        A session that would have to forget more than half of what it holds for it is left to whoever comes back for that.
        What one client has sent never makes another one's answer quicker, since that could be measured.
        """
        best, most = None, 0
        for idle in self._idle:
            common = _in_common(idle.held, prompt) if idle.client == client else 0
            if 2 * common > len(idle.held) and common > most:
                best, most = idle, common
        if best is None:
            if self._made < self.size:
                self._made += 1
                return Session(self.model, shift=False)
            best = self._idle[0]
            if best.client != client:
                self._idle.remove(best)
                return Session(self.model, shift=False)
        self._idle.remove(best)
        return best.session

    def give_back(self, session: Session, client: str, held: Sequence[int] | None) -> None:
        """Take back a session that has read `held`; None: it failed, and is thrown away."""
        if held is None:
            self._made -= 1
        else:
            self._idle.append(Idle(session, client, held))


def _in_common(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the longest common beginning."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
