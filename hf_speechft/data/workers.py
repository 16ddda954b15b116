"""Workers of a data loader on a cluster, which sends SIGTERM to all processes of a job before it ends it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from torch.utils.data import get_worker_info

CAN_TELL_SENDERS = hasattr(signal, "sigwaitinfo")  # not so on macOS and Windows


@contextmanager
def sigterm_held_back() -> Iterator[None]:
    """Let SIGTERM wait, for this thread and for workers that start meanwhile, where these can tell who sent it.

    Without it a worker would end by a signal that comes before its first batch.
    """
    if not CAN_TELL_SENDERS:
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def heed_parent_only() -> None:
    """In a worker, take SIGTERM from the process that trains only, which has an update to finish and needs its data.

    A worker that ignored the signal altogether would keep its parent from ending. Elsewhere, and on systems that do
    not say who sent a signal, nothing happens.
    """
    if CAN_TELL_SENDERS and get_worker_info() is not None:
        _listen_for_parent()


@cache  # once in a worker, not for each batch
def _listen_for_parent() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != multiprocessing.parent_process().pid:
        pass
    os._exit(0)
