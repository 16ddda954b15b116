"""Workers of a data loader and SIGTERM, from a cluster and from the process that they work for."""

import multiprocessing
import os
import signal
import subprocess

from torch.utils.data import DataLoader

from hf_speechft.data.workers import heed_parent_only, sigterm_held_back


def collate(rows):
    heed_parent_only()
    return rows


def start_worker():
    """Start a loader and give its batches after the first one and its worker: the child that this process gained."""
    others = set(multiprocessing.active_children())  # an earlier test's loader may not have been collected yet
    batches = iter(DataLoader(range(20), batch_size=1, num_workers=1, collate_fn=collate))
    assert next(batches) == [0]
    (worker,) = set(multiprocessing.active_children()) - others
    return batches, worker


def test_worker_outlives_sigterm_of_others_and_ends_by_its_parents():
    batches, worker = start_worker()
    subprocess.run(["kill", "-TERM", str(worker.pid)], check=True)  # from a process that is not its parent
    assert [batch[0] for batch in batches] == list(range(1, 20))
    batches, worker = start_worker()
    worker.terminate()
    worker.join(timeout=30)
    assert worker.exitcode == 0


def end_self(worker):
    os.kill(os.getpid(), signal.SIGTERM)


def test_worker_outlives_sigterm_before_its_first_batch_where_it_started_with_it_held_back():
    loader = DataLoader(range(3), batch_size=1, num_workers=1, collate_fn=collate, worker_init_fn=end_self)
    with sigterm_held_back():
        batches = iter(loader)
    assert [batch[0] for batch in batches] == [0, 1, 2]


def test_sigterm_held_back_comes_afterwards():
    came = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: came.append(number))
    try:
        with sigterm_held_back():
            signal.raise_signal(signal.SIGTERM)
            assert came == []
        assert came == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_process_that_is_no_worker_is_left_alone():
    heed_parent_only()
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, set())
