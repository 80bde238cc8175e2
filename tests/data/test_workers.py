"""Tests of the processes that clean text."""

import operator
import os
import signal

import pytest

from bulletlm.data.workers import ordered_map


class CtrlC:
    """Settings at whose arrival a new process receives Ctrl-C."""

    def __reduce__(self) -> object:
        return signal.raise_signal, (signal.SIGINT,)


@pytest.mark.skipif(os.name != "posix", reason="this system cannot keep signals from new processes")
def test_ctrl_c_does_not_reach_processes_that_are_being_started(capfd: pytest.CaptureFixture[str]) -> None:
    """A terminal sends it to all processes of the command. These must leave it to their parent, which says what is kept."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    found = [answer for _, answer in ordered_map(operator.is_not, CtrlC(), range(8), 2)]
    assert found == [True] * 8
    assert capfd.readouterr().err == ""
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
