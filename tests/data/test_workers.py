"""Workers of a data loader and SIGTERM, from a cluster and from the process that they work for."""

import multiprocessing
import signal
import subprocess

from torch.utils.data import DataLoader

from hf_speechft.data.workers import heed_parent_only


def collate(rows):
    heed_parent_only()
    return rows


def test_worker_outlives_sigterm_of_others_and_ends_by_its_parents():
    batches = iter(DataLoader(range(20), batch_size=1, num_workers=1, collate_fn=collate))
    assert next(batches) == [0]
    (worker,) = multiprocessing.active_children()
    subprocess.run(["kill", "-TERM", str(worker.pid)], check=True)  # from a process that is not its parent
    assert [batch[0] for batch in batches] == list(range(1, 20))
    batches = iter(DataLoader(range(20), batch_size=1, num_workers=1, collate_fn=collate))
    next(batches)
    (worker,) = multiprocessing.active_children()
    worker.terminate()
    worker.join(timeout=30)
    assert worker.exitcode == 0


def test_process_that_is_no_worker_is_left_alone():
    heed_parent_only()
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, set())
