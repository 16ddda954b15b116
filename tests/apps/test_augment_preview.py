"""`hf-speechft augment-preview`: the picture, what it shows, what is written to listen to, and mistakes."""

import numpy as np
import pytest
import soundfile
from matplotlib import image
from typer.testing import CliRunner

from hf_speechft.apps.augment_preview import ROW_INCHES
from hf_speechft.apps.command import app

RATE_HZ = 16_000


@pytest.fixture
def noise_dir(tmp_path):
    folder = tmp_path / "noises"
    folder.mkdir()
    noise = 0.1 * np.random.default_rng(0).standard_normal(RATE_HZ)
    soundfile.write(folder / "a.wav", noise, RATE_HZ)
    return folder


def preview(*arguments):
    return CliRunner().invoke(app, ["augment-preview", *map(str, arguments)], prog_name="hf-speechft")


def test_augment_preview_draws_the_clip_and_each_augmentation(clip, tmp_path, noise_dir):
    picture = tmp_path / "all.png"
    result = preview(clip, "--noise-dir", noise_dir, "--speed-factors", "0.9", "--speed-factors", "1.0", "-o", picture)
    assert result.exit_code == 0, result.stderr
    names = "clip, speed 0.9, noise, room, telephone, gain, all of these, no speech, SpecAugment"
    assert result.stdout == f"{picture}: {names}\n"
    height, width, _ = image.imread(picture).shape
    assert (width, height) == (1_210, round(110 * (9 * ROW_INCHES + 0.4)))


def test_augment_preview_takes_the_options_of_a_run(clip, tmp_path, noise_dir):
    options = ["--noise_dir", noise_dir, "--noise_prob", "0.5", "--noise_snr_db", "0", "3"]
    off = ["--reverb_prob", "0", "--gain_db", "0", "--telephone_prob", "0", "--silence_share", "0"]
    off += ["--mask_time_prob", "0", "--mask_feature_prob", "0", "--frequency_warp", "0.1"]
    picture = tmp_path / "noise.png"
    result = preview(clip, *options, *off, "-o", picture)
    assert (result.exit_code, result.stdout) == (0, f"{picture}: clip, noise, frequency warp\n")
    assert picture.stat().st_size > 10_000


def test_augment_preview_writes_audio_to_listen_to(clip, tmp_path, noise_dir):
    off = ["--telephone-prob", "0", "--reverb-prob", "0", "--silence-share", "0", "--gain-db", "0"]
    options = ["--noise-dir", noise_dir, "--noise-snr-db", "10", "10"]
    result = preview(clip, *options, *off, "-o", tmp_path / "a.png", "--audio-dir", tmp_path / "wav")
    assert result.exit_code == 0, result.stderr
    original, noisy = (soundfile.read(tmp_path / "wav" / name)[0] for name in ("clip.wav", "noise.wav"))
    ratio_db = 10 * np.log10(np.mean(original**2) / np.mean((noisy - original) ** 2))
    assert ratio_db == pytest.approx(10, abs=0.1)


def test_augment_preview_is_the_same_for_the_same_seed(clip, tmp_path):
    written = {}
    for name, seed in {"one": 1, "again": 1, "other": 2}.items():
        result = preview(clip, "--seed", seed, "-o", tmp_path / "a.png", "--audio-dir", tmp_path / name)
        assert result.exit_code == 0, result.stderr
        written[name] = (tmp_path / name / "all_of_these.wav").read_bytes()
    assert written["one"] == written["again"] != written["other"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--reverb-prob", "1.5"], "--reverb_prob is 1.5; it needs to be from 0 to 1"),
        (["--noise-snr-db", "25", "5"], "--noise_snr_db is 25 5; give two numbers in dB, the lowest first"),
        (["--noise-dir", "absent"], "--noise_dir: absent is no folder"),
        (["--speed-factors", "3"], "speed factors are [3.0]; give distinct numbers from 0.5 to 2.0"),
        (["--frequency-warp", "1"], "frequency_warp is 1.0; it needs to be a share from 0 to below 1"),
        (["-o", "a.jpg"], "--output a.jpg does not end in .png"),
        (["-o", "absent/a.png"], "No such file or directory"),
    ],
)
def test_augment_preview_mistake_exits_with_1(clip, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    result = preview(clip, *options)
    assert (result.exit_code, result.stdout) == (1, "")
    assert message in result.stderr


def test_augment_preview_unreadable_clip_exits_with_1(tmp_path):
    result = preview(tmp_path / "absent.wav", "-o", tmp_path / "a.png")
    assert result.exit_code == 1
    assert "absent.wav does not exist" in result.stderr
