"""Pushing over real HTTP to a loopback Hub with the real client: what arrives, and what a failure says."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download
from safetensors.torch import load_file, save_file

from hf_speechft.sharing.push import HubError, check_token, push_folder, upload_command
from tests.hub_server import HubServer

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "hf_valid"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    # The client reads these at import, and the tests' environment is offline.
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    with HubServer(token=TOKEN) as server:
        yield server


@pytest.fixture
def run_folder(tmp_path):
    """A finished run: 1.2 MB of weights, small files, and much that must not be uploaded."""
    folder = tmp_path / "run"
    (folder / "checkpoint-10").mkdir(parents=True)
    (folder / "runs" / "Nov23").mkdir(parents=True)
    (folder / ".saving-abc").mkdir()
    save_file({"weight": torch.randn(300_000)}, folder / "model.safetensors")
    (folder / "config.json").write_text('{"model_type": "speechbert"}')
    (folder / "README.md").write_text("---\nlibrary_name: transformers\n---\n# Card\n")
    (folder / "checkpoint-10" / "model.safetensors").write_bytes(b"checkpoint")
    (folder / "runs" / "Nov23" / "events").write_bytes(b"log")
    (folder / ".saving-abc" / "model.safetensors").write_bytes(b"part")
    for name in ("optimizer.pt", "scheduler.pt", "training_args.bin", "scratch.tmp", "rng_state_0.pth"):
        (folder / name).write_bytes(b"\0state")
    for place in ("unevaluated/checkpoint-7", "stream"):
        (folder / place).mkdir(parents=True)
        (folder / place / "training_args.bin").write_bytes(b"\0state")
    (folder / "unreadable.jsonl").write_text("{}")
    return folder


UPLOADED = {"model.safetensors", "config.json", "README.md"}


def test_check_token_valid_returns_full_id(hub):
    assert check_token("user/name", TOKEN, endpoint=hub.url) == "user/name"
    assert check_token("name", TOKEN, endpoint=hub.url) == "user/name"
    assert check_token("lab/name", TOKEN, endpoint=hub.url) == "lab/name"


def test_check_token_from_environment_works(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert check_token("name", endpoint=hub.url) == "user/name"


def test_check_token_wrong_raises_without_showing_it(hub):
    with pytest.raises(
        HubError, match=r"refused the token given as an argument \(HTTP 401\).*hf auth login"
    ) as caught:
        check_token("user/name", "hf_secret_wrong", endpoint=hub.url)
    assert "hf_secret_wrong" not in str(caught.value)
    assert "user/name" in str(caught.value)


def test_check_token_wrong_in_environment_raises(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(HubError, match="refused the token from HF_TOKEN or `hf auth login`"):
        check_token("user/name", endpoint=hub.url)


@pytest.mark.parametrize("token", [None, ""])
def test_check_token_absent_raises(hub, token):
    with pytest.raises(HubError, match="no Hugging Face token found.*HF_TOKEN to a token with write permission"):
        check_token("user/name", token, endpoint=hub.url)
    assert hub.requests == []


def test_check_token_read_only_raises(hub):
    with pytest.raises(HubError, match="the token of 'user' has read permission.*needs write permission"):
        check_token("user/name", hub.read_token, endpoint=hub.url)


def test_check_token_foreign_namespace_raises(hub):
    with pytest.raises(HubError, match=r"cannot write to 'google/name'; choose a namespace among \['user', 'lab'\]"):
        check_token("google/name", TOKEN, endpoint=hub.url)


def test_check_token_malformed_id_raises(hub):
    with pytest.raises(HubError, match="'a/b/c' is no repository id.*give 'name' or 'namespace/name'"):
        check_token("a/b/c", TOKEN, endpoint=hub.url)


def test_check_token_unreachable_hub_raises(hub):
    # Port 9 (discard) is closed on any machine that runs tests.
    with pytest.raises(HubError, match="the Hub at http://127.0.0.1:9 cannot be reached.*without --push_to_hub"):
        check_token("user/name", TOKEN, endpoint="http://127.0.0.1:9")


def test_check_token_offline_mode_raises(hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="cannot be reached.*HF_HUB_OFFLINE"):
        check_token("user/name", TOKEN, endpoint=hub.url)


def test_check_token_hub_broken_raises(hub):
    hub.failures["whoami"] = 418
    with pytest.raises(HubError, match="answered HTTP 418 when asked whose token it is"):
        check_token("user/name", TOKEN, endpoint=hub.url)


def test_push_folder_round_trips(hub, run_folder, tmp_path):
    url = push_folder(run_folder, "user/name", token=TOKEN, endpoint=hub.url, commit_message="First run")
    assert url == f"{hub.url}/user/name"
    assert set(hub.files("user/name")) == UPLOADED
    snapshot = Path(snapshot_download("user/name", endpoint=hub.url, cache_dir=tmp_path / "cache"))
    for name in UPLOADED:
        assert (snapshot / name).read_bytes() == (run_folder / name).read_bytes()
    weights = hf_hub_download("user/name", "model.safetensors", endpoint=hub.url, cache_dir=tmp_path / "other")
    expected = load_file(run_folder / "model.safetensors")["weight"]
    assert torch.equal(load_file(weights)["weight"], expected)
    assert [commit.title for commit in HfApi(endpoint=hub.url).list_repo_commits("user/name")][0] == "First run"


def test_push_folder_weights_go_through_lfs(hub, run_folder):
    push_folder(run_folder, "user/name", token=TOKEN, endpoint=hub.url)
    tree = {entry.path: entry for entry in HfApi(endpoint=hub.url).list_repo_tree("user/name")}
    assert tree["model.safetensors"].lfs.size == (run_folder / "model.safetensors").stat().st_size
    assert tree["config.json"].lfs is None
    assert [method for method, path in hub.requests if path.startswith("/_lfs/")] == ["PUT"]
    assert ("POST", "/user/name.git/info/lfs/verify") in hub.requests


def test_push_folder_second_push_changes_one_file(hub, run_folder, tmp_path):
    push_folder(run_folder, "user/name", token=TOKEN, endpoint=hub.url)
    before, hub.requests[:] = hub.files("user/name"), []
    (run_folder / "config.json").write_text('{"model_type": "speechbert", "subsampling": 8}')
    push_folder(run_folder, "user/name", token=TOKEN, endpoint=hub.url)
    after = hub.files("user/name")
    assert {name for name in after if after[name] != before.get(name)} == {"config.json"}
    assert not [path for _, path in hub.requests if path.startswith("/_lfs/")]
    downloaded = hf_hub_download("user/name", "config.json", endpoint=hub.url, cache_dir=tmp_path / "cache")
    assert Path(downloaded).read_text() == (run_folder / "config.json").read_text()


def test_push_folder_unchanged_makes_no_commit(hub, run_folder):
    for _ in range(2):
        push_folder(run_folder, "user/name", token=TOKEN, endpoint=hub.url)
    # The Hub's own first commit and ours.
    assert len(hub.repositories["user/name"].commits) == 2


def test_push_folder_private_is_hidden_from_strangers(hub, run_folder, tmp_path):
    push_folder(run_folder, "user/name", token=TOKEN, private=True, endpoint=hub.url)
    options = {"endpoint": hub.url, "cache_dir": tmp_path / "cache"}
    assert hf_hub_download("user/name", "config.json", token=TOKEN, **options)
    with pytest.raises(OSError, match="401"):
        hf_hub_download("user/name", "README.md", token=False, **options)


def test_push_folder_name_alone_goes_to_own_namespace(hub, run_folder):
    assert push_folder(run_folder, "name", token=TOKEN, endpoint=hub.url) == f"{hub.url}/user/name"


@pytest.mark.parametrize(
    ("refused", "status"), [("/commit/", 413), ("/_lfs/", 403), ("/preupload/", 404), ("/repos/create", 403)]
)
def test_push_folder_failing_step_says_run_is_safe(hub, run_folder, refused, status):
    hub.failures[refused] = status
    before = {path: path.read_bytes() for path in run_folder.rglob("*") if path.is_file()}
    with pytest.raises(HubError, match="uploading .*run to 'user/name' failed: .*refused by the test") as caught:
        push_folder(run_folder, "user/name", token=TOKEN, endpoint=hub.url)
    assert f"The run is safe in {run_folder}; upload it later with: " in str(caught.value)
    assert f"hf upload user/name {run_folder} . --exclude" in str(caught.value)
    assert {path: path.read_bytes() for path in run_folder.rglob("*") if path.is_file()} == before


def test_push_folder_wrong_token_raises(hub, run_folder):
    with pytest.raises(HubError, match="Invalid credentials in Authorization header"):
        push_folder(run_folder, "user/name", token="hf_wrong", endpoint=hub.url)
    assert hub.repositories == {}


def test_push_folder_read_only_token_says_so(hub, run_folder):
    push_folder(run_folder, "user/name", token=TOKEN, endpoint=hub.url)
    with pytest.raises(HubError, match="this token has read access only"):
        push_folder(run_folder, "user/name", token=hub.read_token, endpoint=hub.url)


def test_push_folder_invalid_card_raises(hub, run_folder):
    (run_folder / "README.md").write_text("---\n- a list\n---\n")
    with pytest.raises(HubError, match=r"Invalid metadata in README.md \(metadata should be a mapping\)"):
        push_folder(run_folder, "user/name", token=TOKEN, endpoint=hub.url)


def test_push_folder_missing_folder_raises(tmp_path):
    with pytest.raises(HubError, match="absent is not a folder"):
        push_folder(tmp_path / "absent", "user/name")


def test_push_folder_only_checkpoints_raises(tmp_path):
    (tmp_path / "checkpoint-1").mkdir()
    (tmp_path / "checkpoint-1" / "model.safetensors").write_bytes(b"x")
    with pytest.raises(HubError, match="holds nothing to upload besides checkpoints"):
        push_folder(tmp_path, "user/name")


def test_upload_command_uploads_the_same_files(hub, run_folder):
    HfApi(endpoint=hub.url, token=TOKEN).create_repo("user/name")
    program = "from huggingface_hub.cli.hf import main; main()"
    arguments = shlex.split(upload_command(run_folder, "user/name"))[1:]
    environment = {key: value for key, value in os.environ.items() if key != "HF_HUB_OFFLINE"}
    environment |= {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
    subprocess.run(
        [sys.executable, "-c", program, *arguments], env=environment, check=True, capture_output=True, cwd=ROOT
    )
    assert set(hub.files("user/name")) == UPLOADED


def test_push_folder_with_endpoint_from_environment_round_trips(hub, run_folder, tmp_path):
    script = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from hf_speechft.sharing.push import check_token, push_folder
from huggingface_hub import snapshot_download
repo_id = check_token("name")
print(push_folder({str(run_folder)!r}, repo_id))
print(snapshot_download(repo_id))
"""
    environment = {key: value for key, value in os.environ.items() if key != "HF_HUB_OFFLINE"}
    environment |= {
        "HF_ENDPOINT": hub.url,
        "HF_TOKEN": TOKEN,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(tmp_path / "home"),
    }
    ran = subprocess.run([sys.executable, "-c", script], env=environment, check=True, capture_output=True, text=True)
    url, snapshot = ran.stdout.splitlines()
    assert url == f"{hub.url}/user/name"
    assert (Path(snapshot) / "model.safetensors").read_bytes() == (run_folder / "model.safetensors").read_bytes()
