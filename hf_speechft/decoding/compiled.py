"""`compiled`: functions compiled by numba, kept on disk as long as no source file of this folder changes.

numba's own cache looks only at the file of the function itself. A function that calls one of another file would go on
with the old version of it after an upgrade. So the cache lies in a folder that is named by a fingerprint of all files.
Where no folder can be written to, as in some containers, each process compiles anew.
"""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numba

__all__ = ["compiled", "compiled_small", "compiled_sums"]


def _cache_folder() -> Path:
    sources = sorted(Path(__file__).parent.glob("*.py"))
    fingerprint = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]
    parent = os.environ.get("NUMBA_CACHE_DIR")
    parent = Path(parent) if parent else Path.home() / ".cache" / "hf_speechft" / "numba"
    return parent / fingerprint


CACHE_FOLDER = str(_cache_folder())


def compiled(function: Callable) -> Callable:
    """Let numba compile a function at its first call, without Python's lock, and keep the result on disk.

    Args:
        function: It calls only numpy, `math` and other compiled functions.

    Returns:
        The compiled function; the original is its attribute `py_func`.
    """
    return _compiled(function)


def compiled_small(function: Callable) -> Callable:
    """As `compiled`, for a function that makes no array and is called too often to count references to its arguments.

    numba counts references to every array that a function gets. For the search's 25 arrays that takes half a
    microsecond a call, ten times what extending a prefix by a token takes.

    Args:
        function: It makes no array and calls only functions that make none.

    Returns:
        The compiled function.
    """
    return _compiled(function, _nrt=False)


def compiled_sums(function: Callable) -> Callable:
    """As `compiled`, for a function whose sums may be taken in any order, which processors do several at a time.

    Args:
        function: It calls only numpy, `math` and other compiled functions.

    Returns:
        The compiled function.
    """
    return _compiled(function, fastmath={"reassoc", "contract"})


def _compiled(function: Callable, **options: object) -> Callable:
    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = CACHE_FOLDER  # read when a function is decorated, and by others afterwards
    try:
        return numba.njit(cache=True, nogil=True, **options)(function)
    except RuntimeError:  # "cannot cache function: no locator available"
        return numba.njit(nogil=True, **options)(function)
    finally:
        numba.config.CACHE_DIR = before
