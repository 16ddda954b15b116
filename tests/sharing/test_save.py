"""Saving: a failure at any moment leaves the files of the previous save loadable."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from hf_speechft.sharing import save
from hf_speechft.sharing.save import SaveError, save_atomically

ROOT = Path(__file__).resolve().parents[2]


def write_model(value):
    """Return a writer of a folder like a model's: a configuration and weights, all of them `value`."""

    def write(folder):
        (folder / "config.json").write_text(f'{{"value": {value}}}')
        save_file({"weight": torch.full((100, 100), float(value))}, folder / "model.safetensors")

    return write


def assert_holds(folder, value):
    assert (folder / "config.json").read_text() == f'{{"value": {value}}}'
    assert (load_file(folder / "model.safetensors")["weight"] == value).all()
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]


@pytest.fixture
def target(tmp_path):
    """A folder with a good save in it."""
    folder = tmp_path / "run"
    save_atomically(folder, write_model(1))
    return folder


def test_save_atomically_new_folder_holds_files(tmp_path):
    save_atomically(tmp_path / "a" / "b", write_model(3))
    assert_holds(tmp_path / "a" / "b", 3)


def test_save_atomically_second_save_replaces(target):
    save_atomically(target, write_model(2))
    assert_holds(target, 2)


def test_save_atomically_sub_folders_and_other_files_stay(target):
    (target / "metrics.json").write_text("{}")
    (target / "checkpoint-5").mkdir()
    (target / "checkpoint-5" / "optimizer.pt").write_text("state")

    def write(folder):
        (folder / "nested").mkdir()
        (folder / "nested" / "file.txt").write_text("new")

    save_atomically(target, write)
    assert (target / "nested" / "file.txt").read_text() == "new"
    assert (target / "metrics.json").read_text() == "{}"
    assert (target / "checkpoint-5" / "optimizer.pt").read_text() == "state"
    assert not list(target.glob(".saving-*"))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_save_atomically_full_disk_raises_and_keeps_old_files(target, number):
    def write(folder):
        (folder / "config.json").write_text('{"value": 2}')
        (folder / "model.safetensors").write_bytes(b"x" * 5000)
        raise OSError(number, os.strerror(number))

    with pytest.raises(
        SaveError, match=r"the disk is full.* saving to .*run needs more than the [\d,]+ bytes"
    ) as caught:
        save_atomically(target, write)
    assert caught.value.errno == errno.ENOSPC
    there = sum(path.stat().st_size for path in target.iterdir())
    assert f"(the files there now take {there:,} bytes)" in str(caught.value)
    assert_holds(target, 1)


def test_save_atomically_full_disk_without_error_number_raises_and_keeps_old_files(target, monkeypatch):
    # torch.save's words on a full disk, as seen on a small tmpfs; they don't mention it.
    def write(folder):
        (folder / "model.pt").write_bytes(b"part")
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534")

    with pytest.raises(RuntimeError, match="unexpected pos"):
        save_atomically(target, write)
    monkeypatch.setattr(save.shutil, "disk_usage", lambda _: SimpleNamespace(free=4096))
    with pytest.raises(SaveError, match="needs more than the 4,096 bytes that are free"):
        save_atomically(target, write)
    assert_holds(target, 1)


def test_save_atomically_full_disk_of_safetensors_raises_and_keeps_old_files(target):
    def write(folder):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    with pytest.raises(SaveError, match="the disk is full"):
        save_atomically(target, write)
    assert_holds(target, 1)


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="needs POSIX file size limits")
def test_save_atomically_write_refused_by_system_raises_and_keeps_old_files(target):
    script = f"""
import resource, signal, sys, torch
sys.path.insert(0, {str(ROOT)!r})
from safetensors.torch import save_file
from hf_speechft.sharing.save import SaveError, save_atomically
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
def write(folder):
    with open(folder / "model.safetensors", "wb") as file:
        file.write(bytes(40_000))
try:
    save_atomically({str(target)!r}, write)
except SaveError as error:
    print(error)
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "cannot save to" in ran.stdout
    assert "File too large" in ran.stdout
    assert_holds(target, 1)


def test_save_atomically_folder_is_a_file_raises(tmp_path):
    (tmp_path / "run").write_text("not a folder")
    with pytest.raises(SaveError, match="cannot save to .*run: .*choose another --output_dir"):
        save_atomically(tmp_path / "run", write_model(1))
    assert (tmp_path / "run").read_text() == "not a folder"


def test_save_atomically_other_error_passes_and_keeps_old_files(target):
    def write(folder):
        (folder / "config.json").write_text("broken")
        raise KeyError("bug")

    with pytest.raises(KeyError, match="bug"):
        save_atomically(target, write)
    assert_holds(target, 1)


def test_save_atomically_interrupted_by_keyboard_keeps_old_files(target):
    def write(folder):
        (folder / "config.json").write_text("broken")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_atomically(target, write)
    assert_holds(target, 1)


def test_save_atomically_killed_while_writing_keeps_old_files(target):
    script = f"""
import sys, time
sys.path.insert(0, {str(ROOT)!r})
from hf_speechft.sharing.save import save_atomically
def write(folder):
    (folder / "config.json").write_text("new")
    with open(folder / "model.safetensors", "wb") as file:
        file.write(bytes(1000))
        file.flush()
        print("writing", flush=True)
        time.sleep(60)
save_atomically({str(target)!r}, write)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "writing\n"
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    leftovers = list(target.glob(".saving-*"))
    assert len(leftovers) == 1
    assert (target / "config.json").read_text() == '{"value": 1}'
    assert (load_file(target / "model.safetensors")["weight"] == 1).all()
    save_atomically(target, write_model(2))
    assert_holds(target, 2)
