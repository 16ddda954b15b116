import subprocess
import sys
from pathlib import Path

import numba
from numba.core import caching

from hf_speechft.decoding.compiled import CACHE_FOLDER, compiled, compiled_small, compiled_sums

PACKAGE = Path(__file__).resolve().parents[2] / "hf_speechft"

CALL = "from decoding.caller import call; print(call(1), sum(call.stats.cache_hits.values()))"


def test_compiled_leaves_numbas_own_cache_folder_alone():
    before = numba.config.CACHE_DIR

    @compiled
    def add_one(number):
        return number + 1

    assert add_one(1) == 2
    assert before == numba.config.CACHE_DIR
    assert str(add_one.stats.cache_path).startswith(CACHE_FOLDER)


def test_compiled_where_no_folder_can_be_written_to_compiles_in_each_process(monkeypatch):
    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])  # each of them found its folder unusable
    for decorate in (compiled, compiled_small, compiled_sums):

        @decorate
        def add_one(number):
            return number + 1

        assert add_one(1) == 2
        assert add_one.stats.cache_path is None


def test_compiled_function_notices_a_change_in_another_file(tmp_path):
    """The caller's own file stays as it is; with numba's own cache it would go on adding 1."""
    folder = tmp_path / "decoding"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "compiled.py").write_text((PACKAGE / "decoding" / "compiled.py").read_text())
    imports = "from decoding.compiled import compiled\n"
    body = "from decoding.callee import add\n@compiled\ndef call(number):\n    return add(number)\n"
    (folder / "caller.py").write_text(imports + body)

    def run(added):
        (folder / "callee.py").write_text(f"{imports}@compiled\ndef add(number):\n    return number + {added}\n")
        # Python's own cache takes two versions of one size and second for the same.
        environment = {"PYTHONPATH": str(tmp_path), "HOME": str(tmp_path), "PATH": "", "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(
            [sys.executable, "-c", CALL], env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout.split()

    assert run(1) == ["2", "0"]
    assert run(1) == ["2", "1"]  # from the cache
    assert run(2) == ["3", "0"]
