"""The tests that transformers applies to its own models, from the source distribution of the installed version.

PyPI's source distribution of transformers holds the mixins (`tests/test_modeling_common.py` and its neighbours) but
not everything that they import. pip downloads it once for each version into a cache outside the repository, where
stand-ins take the places of the modules that are missing. There the folder is called `transformers_tests`: this
repository has a `tests` of its own.
"""

import os
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import transformers
from transformers import testing_utils

PACKAGE = "transformers_tests"
DOWNLOAD_TIMEOUT_S = 600

# What the source distribution lacks, by path in the cache. The mixins of the first two have no tests for a model that
# is neither exported nor generates text; `test_pipeline.py` says what it puts in the tiny models' place.
STAND_INS = {
    f"{PACKAGE}/__init__.py": "",
    f"{PACKAGE}/exporters/__init__.py": "",
    f"{PACKAGE}/exporters/test_export.py": "class ExportTesterMixin:\n    pass\n",
    f"{PACKAGE}/fixtures/sample_text.txt": "the quick brown fox jumps over the lazy dog\n",
    f"{PACKAGE}/generation/__init__.py": "",
    f"{PACKAGE}/generation/test_utils.py": "class GenerationTesterMixin:\n    pass\n",
    f"{PACKAGE}/utils/__init__.py": "",
    f"{PACKAGE}/utils/test_configuration_utils.py": "config_common_kwargs = {}\n",
    "src/transformers/__init__.py": "",
    "tests/utils/tiny_model_summary.json": "{}\n",
    "utils/fetch_hub_objects_for_ci.py": "def url_to_local_path(url):\n    return url\n",
}


class SourceUnavailableError(Exception):
    """pip could not download the source distribution."""


def cache_folder() -> Path:
    """Folder that holds one downloaded test suite for each version of transformers."""
    default = Path.home() / ".cache" / "hf_speechft"
    return Path(os.environ.get("HF_SPEECHFT_CACHE", default)).expanduser()


def get_source() -> Path:
    """Return the folder to import `transformers_tests` from, after downloading it where it is not cached.

    Raises:
        SourceUnavailableError: With the last lines that pip wrote.
    """
    folder = cache_folder() / f"transformers-{transformers.__version__}-tests"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as work:
            prepared = Path(work) / "prepared"
            extract_tests(download(transformers.__version__, Path(work)), prepared)
            try:
                prepared.rename(folder)  # in one step: another process sees all of it or nothing
            except OSError:
                if not folder.is_dir():  # otherwise another process was faster
                    raise
    for path, text in STAND_INS.items():
        stand_in = folder / path
        if not stand_in.is_file() or stand_in.read_text(encoding="utf-8") != text:
            stand_in.parent.mkdir(parents=True, exist_ok=True)
            stand_in.write_text(text, encoding="utf-8")
    return folder


def download(version: str, folder: Path) -> Path:
    """Let pip, with whatever index it is configured for, fetch the archive of one version."""
    command = [sys.executable, "-m", "pip", "download", f"transformers=={version}", "--dest", str(folder)]
    command += ["--no-deps", "--no-binary", "transformers", "--disable-pip-version-check"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=DOWNLOAD_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise SourceUnavailableError(f"pip did not finish within {DOWNLOAD_TIMEOUT_S} s") from error
    archives = list(folder.glob("transformers-*.tar.gz"))
    if result.returncode or not archives:
        raise SourceUnavailableError(" ".join(result.stderr.strip().splitlines()[-3:]))
    return archives[0]


def extract_tests(archive: Path, folder: Path) -> None:
    """Unpack the archive's `tests/` as `folder/transformers_tests`."""
    with tarfile.open(archive) as tar:
        for member in tar:
            top, *parts = Path(member.name).parts
            if member.isfile() and parts[:1] == ["tests"]:
                member.name = str(Path(PACKAGE, *parts[1:]))
                tar.extract(member, folder, filter="data")


def marker_names(folder: Path) -> set[str]:
    """Names of the pytest markers that the mixins use; `--strict-markers` needs to know them."""
    sources = [*(folder / PACKAGE).glob("test_*.py"), Path(testing_utils.__file__)]
    return {name for path in sources for name in re.findall(r"\bmark\.(\w+)", path.read_text(encoding="utf-8"))}
