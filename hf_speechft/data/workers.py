"""Workers of a data loader on a cluster, which sends SIGTERM to all processes of a job before it ends it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading

from torch.utils.data import get_worker_info


def heed_parent_only() -> None:
    """In a worker, take SIGTERM from the process that trains only, which has an update to finish and needs its data.

    A worker that ignored the signal altogether would keep its parent from ending. Elsewhere, and on systems that do
    not say who sent a signal (macOS, Windows), nothing happens.
    """
    if get_worker_info() is None or not hasattr(signal, "sigwaitinfo"):
        return
    if signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM}):
        return  # done for an earlier batch
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != multiprocessing.parent_process().pid:
        pass
    os._exit(0)
