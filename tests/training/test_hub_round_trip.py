"""Train, push over HTTP to a loopback Hub, and load by id in a process that has neither the folder nor hf_speechft."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from huggingface_hub import ModelCard
from transformers import AutoModelForCTC, AutoProcessor

from tests.hub_server import HubServer
from tests.stranger import MODEL_FILES, WITHOUT_HF_SPEECHFT

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "hf_valid"
PUSHED = MODEL_FILES | {
    "README.md",
    "arguments.json",
    "decoder/decoder_config.json",
    "decoder/lm.safetensors",
    "metrics.json",
    "predictions.jsonl",
    "training_curves.png",
}

# Run where hf_speechft cannot be imported; leaves the logits and the text.
STRANGER = (
    WITHOUT_HF_SPEECHFT
    + """
import numpy as np
import torch
from transformers import AutoModelForCTC, AutoProcessor

torch.set_num_threads(1)
model = AutoModelForCTC.from_pretrained("user/name", trust_remote_code=True)
processor = AutoProcessor.from_pretrained("user/name", trust_remote_code=True)
batch = processor(audio=np.load("clip.npy"), sampling_rate=16_000)
with torch.no_grad():
    torch.save(model(**batch).logits, "logits.pt")
print(processor.batch_decode(model.generate(**batch), skip_special_tokens=True)[0])
assert type(model).__module__.startswith("transformers_modules."), type(model).__module__
assert "hf_speechft" not in sys.modules
"""
)


def environment_of(hub, work):
    """An environment without the tests' settings and without anybody's cache or token."""
    hidden = ("HF_", "PYTHON", "HUGGING_FACE_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    own = {"HF_ENDPOINT": hub.url, "HF_HOME": str(work / "home"), "HF_HUB_DISABLE_XET": "1", "OMP_NUM_THREADS": "1"}
    return environment | own | {"HF_HUB_DISABLE_TELEMETRY": "1"}


@pytest.fixture(scope="module")
def hub():
    with HubServer(token=TOKEN) as server:
        yield server


@pytest.fixture(scope="module")
def pushed(hub, argv, tmp_path_factory):
    """A run that was pushed when it ended: its folder, and what it printed."""
    work = tmp_path_factory.mktemp("pushed")
    options = {"push_to_hub": True, "hub_model_id": "user/name", "hub_token": TOKEN, "max_steps": 1}
    command = [sys.executable, "run_finetune.py", *argv(work / "run", **options)]
    ran = subprocess.run(command, cwd=ROOT, env=environment_of(hub, work), capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return work / "run", ran.stdout + ran.stderr


def test_pushed_repository_holds_the_run_without_checkpoints(hub, pushed):
    folder, printed = pushed
    files = hub.files("user/name")
    assert set(files) == PUSHED
    for name, content in files.items():
        assert content == (folder / name).read_bytes()
    assert list(folder.glob("checkpoint-*"))
    assert f"pushed to {hub.url}/user/name" in printed


def test_pushed_files_do_not_hold_the_token(hub, pushed):
    assert not [name for name, content in hub.files("user/name").items() if TOKEN.encode() in content]


def test_token_is_checked_before_anything_else_and_nothing_is_pushed_meanwhile(hub, pushed):
    paths = [path for _, path in hub.requests]
    assert paths[0] == "/api/whoami-v2"
    assert paths.count("/api/repos/create") == 1
    assert len(hub.repositories["user/name"].commits) == 2  # the Hub's own first one and ours


def test_pushed_card_names_the_repository(hub, pushed, tmp_path):
    (tmp_path / "README.md").write_bytes(hub.files("user/name")["README.md"])
    card = ModelCard.load(tmp_path / "README.md")
    metrics = json.loads(hub.files("user/name")["metrics.json"])
    assert card.data.eval_results[0].metric_value == round(100 * metrics["test"]["wer"], 2)
    assert 'model="user/name"' in card.text


def test_stranger_loads_the_model_by_its_id_and_reproduces_it(hub, pushed, corpus, tmp_path):
    folder, _ = pushed
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    row = max(rows, key=lambda row: len(row["hypothesis"]))
    clip, _ = soundfile.read(corpus / "test" / row["utterance_id"], dtype="float32")
    np.save(tmp_path / "clip.npy", clip)
    hub.requests.clear()
    ran = subprocess.run(
        [sys.executable, "-I", "-c", STRANGER],
        cwd=tmp_path,
        env=environment_of(hub, tmp_path),
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    assert any("/resolve/" in path and path.endswith("modeling_speechbert.py") for _, path in hub.requests)
    assert ran.stdout.rstrip("\n") == row["hypothesis"]
    assert row["hypothesis"]
    model, processor = AutoModelForCTC.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    with torch.no_grad():
        expected = model(**processor(audio=clip, sampling_rate=16_000)).logits
    assert torch.equal(torch.load(tmp_path / "logits.pt"), expected)


def test_push_that_fails_keeps_the_run_and_says_how_to_go_on(hub, pushed, argv, tmp_path):
    hub.failures["/commit/"] = 413
    try:
        options = {"push_to_hub": True, "hub_model_id": "user/other", "hub_token": TOKEN, "max_steps": 1}
        command = [sys.executable, "run_finetune.py", *argv(tmp_path / "run", **options)]
        ran = subprocess.run(command, cwd=ROOT, env=environment_of(hub, tmp_path), capture_output=True, text=True)
    finally:
        hub.failures.clear()
    assert ran.returncode == 1
    assert "Traceback" not in ran.stderr
    last = ran.stderr.splitlines()[-1]
    assert last.startswith("error: uploading ")
    assert "The run is safe in" in last
    assert "hf upload user/other" in last
    assert (tmp_path / "run" / "metrics.json").exists()
