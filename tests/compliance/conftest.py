"""Makes the tests of the installed transformers importable as `transformers_tests`, or skips this folder."""

import sys

import pytest
import torch

from tests.compliance.source import SourceUnavailableError, get_source, marker_names

UNAVAILABLE = pytest.StashKey[str]()


def pytest_configure(config):
    try:
        source = get_source()
    except SourceUnavailableError as error:
        config.stash[UNAVAILABLE] = f"pip cannot download the source distribution of transformers: {error}"
        return
    if str(source) not in sys.path:
        sys.path.append(str(source))
    for name in marker_names(source):
        config.addinivalue_line("markers", f"{name}: set by the tests of transformers")


class UnavailableModule(pytest.Module):
    """Stands for a test file that cannot be imported without the tests of transformers."""

    def collect(self):
        pytest.skip(self.config.stash[UNAVAILABLE], allow_module_level=True)


def pytest_pycollect_makemodule(module_path, parent):
    if UNAVAILABLE in parent.config.stash:
        return UnavailableModule.from_parent(parent, path=module_path)
    return None


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Models this small run ten times slower on several threads when other processes use the processor too."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
