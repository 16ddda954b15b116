"""`hf-speechft augment-preview`: what the arguments of augmentation do to a clip, in a picture and to listen to."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import numpy as np

    from hf_speechft import SpeechBertConfig
    from hf_speechft.data.augment import Augmentation

RATE_HZ = 16_000
ROW_INCHES = 1.7
WARPED, MASKED = "frequency warp", "SpecAugment"  # of the clip, in the spectrogram only: the model does both


def augment_preview(
    clip: Annotated[str, typer.Argument(metavar="CLIP", help="Audio file, of any format.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="PNG", help="Picture.")] = Path("preview.png"),
    noise_dir: Annotated[str | None, typer.Option(metavar="DIR", help="Noises; none without it.")] = None,
    noise_prob: Annotated[float, typer.Option(help="0 leaves noise out, as for the others below.")] = 1.0,
    noise_snr_db: Annotated[tuple[float, float], typer.Option(help="Lowest and highest ratio in dB.")] = (5.0, 25.0),
    reverb_prob: Annotated[float, typer.Option(help="Of a room.")] = 1.0,
    room_dir: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Impulse responses. Default: synthetic ones."),
    ] = None,
    gain_db: Annotated[float, typer.Option(help="Up to so many dB, more or less.")] = 6.0,
    telephone_prob: Annotated[float, typer.Option(help="Of the telephone band.")] = 1.0,
    silence_share: Annotated[float, typer.Option(help="Of clips without speech.")] = 1.0,
    speed_factors: Annotated[list[float] | None, typer.Option(help="Give it once for each speed.")] = None,
    frequency_warp: Annotated[float, typer.Option(help="Largest share, up or down; 0 is none.")] = 0.0,
    mask_time_prob: Annotated[float, typer.Option(help="SpecAugment: share of frames; 0 is none.")] = 0.1,
    mask_time_length: Annotated[int, typer.Option(min=1, help="Frames in a time mask.")] = 20,
    mask_feature_prob: Annotated[float, typer.Option(help="Share of mel bins; 0 is none.")] = 0.2,
    mask_feature_length: Annotated[int, typer.Option(min=1, help="Mel bins in a mask.")] = 10,
    seed: Annotated[int, typer.Option(help="Another one draws other places, rooms, ratios and gains.")] = 42,
    audio_dir: Annotated[
        Path | None, typer.Option("--audio-dir", metavar="DIR", help="Write a WAV file of each there, to listen to.")
    ] = None,
) -> None:
    """Draw a clip and what each augmentation makes of it: waveforms and log-mel spectrograms.

    The options are those of a run (`run_finetune.py`). A probability above 0 shows its augmentation, alone and then
    together with the others.
    """
    from hf_speechft import SpeechBertConfig
    from hf_speechft.training.augmentation import AugmentationArguments, make_augmentation

    try:
        if output.suffix.lower() != ".png":
            raise ValueError(f"--output {output} does not end in .png; the picture is a PNG file")
        arguments = AugmentationArguments(
            noise_dir=noise_dir,
            noise_prob=noise_prob,
            noise_snr_db=list(noise_snr_db),
            reverb_prob=reverb_prob,
            room_dir=room_dir,
            gain_db=gain_db,
            telephone_prob=telephone_prob,
            silence_share=silence_share,
        )
        clips = _make_clips(clip, make_augmentation(arguments, RATE_HZ), speed_factors or [1.0], seed)
        if audio_dir is not None:
            _write_audio(clips, audio_dir)
        if frequency_warp > 0:
            clips[WARPED] = clips["clip"]
        if mask_time_prob > 0 or mask_feature_prob > 0:
            clips[MASKED] = clips["clip"]
        config = SpeechBertConfig(
            frequency_warp=frequency_warp,
            mask_time_prob=mask_time_prob,
            mask_time_length=mask_time_length,
            mask_feature_prob=mask_feature_prob,
            mask_feature_length=mask_feature_length,
        )
        _draw(clips, output, config, seed)
    except (ValueError, OSError, ImportError) as error:
        typer.echo(f"hf-speechft: {error}", err=True)
        raise typer.Exit(1) from None
    typer.echo(f"{output}: {', '.join(clips)}")


def _make_clips(
    clip: str, augmentation: "Augmentation | None", speeds: list[float], seed: int
) -> "dict[str, np.ndarray]":
    """The clip and its variants `(samples,)`, by name."""
    import numpy as np

    from hf_speechft.data.audio import load_audio
    from hf_speechft.data.augment import change_speed, check_speed_factors, draw_generator

    check_speed_factors(speeds)
    waveform = load_audio(clip, RATE_HZ)
    clips = {"clip": waveform}
    clips |= {f"speed {speed:g}": change_speed(waveform, speed, RATE_HZ) for speed in speeds if speed != 1.0}
    if augmentation is None:
        return clips
    alone = _one_at_a_time(augmentation)
    for name, part in alone.items():
        clips[name] = part(waveform, RATE_HZ, draw_generator(seed, 0, name))
    if len(alone) > 1:
        clips["all of these"] = _always(augmentation)(waveform, RATE_HZ, draw_generator(seed, 0, "all"))
    if augmentation.silence_share:
        silence = np.zeros_like(waveform)
        clips["no speech"] = _always(augmentation)(silence, RATE_HZ, draw_generator(seed, 0, "silence"))
    return clips


def _one_at_a_time(augmentation: "Augmentation") -> "dict[str, Augmentation]":
    """What is on, each alone and certain."""
    from dataclasses import replace

    off = {"noise_prob": 0.0, "reverb_prob": 0.0, "gain_db": 0.0, "telephone_prob": 0.0}
    parts = {
        "noise": ("noise_prob", 1.0, augmentation.noises and augmentation.noise_prob),
        "room": ("reverb_prob", 1.0, augmentation.reverb_prob),
        "telephone": ("telephone_prob", 1.0, augmentation.telephone_prob),
        "gain": ("gain_db", augmentation.gain_db, augmentation.gain_db),
    }
    return {
        name: replace(augmentation, **(off | {field: value})) for name, (field, value, is_on) in parts.items() if is_on
    }


def _always(augmentation: "Augmentation") -> "Augmentation":
    """What is on, all of it certain."""
    from dataclasses import replace

    names = ("noise_prob", "reverb_prob", "telephone_prob")
    return replace(augmentation, **{name: float(getattr(augmentation, name) > 0) for name in names})


def _draw(clips: "dict[str, np.ndarray]", path: Path, config: "SpeechBertConfig", seed: int) -> None:
    """Draw a row for each clip; all rows have the axes and the colours that suit the first one and the longest."""
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from hf_speechft.scoring.curves import COLOURS

    features = _log_mel(clips, config, seed)
    colours = {"vmin": features["clip"].min(), "vmax": features["clip"].max(), "cmap": "magma"}
    loudest = max(float(np.abs(waveform).max()) for waveform in clips.values()) or 1.0
    figure = Figure(figsize=(11, ROW_INCHES * len(clips) + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    rows = figure.subplots(len(clips), 2, squeeze=False)
    for (wave, spectrum), (name, waveform) in zip(rows, clips.items(), strict=True):
        wave.plot(np.arange(len(waveform)) / RATE_HZ, waveform, color=COLOURS[0], linewidth=0.4)
        wave.set(ylabel=name, ylim=(-loudest, loudest))
        duration_s = len(waveform) / RATE_HZ
        extent = (0.0, duration_s, 0, len(features[name].T))
        spectrum.imshow(features[name].T, origin="lower", aspect="auto", extent=extent, **colours)
        spectrum.set_ylabel("mel")
    for panel in rows.flat:
        panel.set_xlim(0, max(map(len, clips.values())) / RATE_HZ)
    for panel in rows[-1]:
        panel.set_xlabel("seconds")
    figure.savefig(path, format="png", dpi=110)


def _log_mel(clips: "dict[str, np.ndarray]", config: "SpeechBertConfig", seed: int) -> "dict[str, np.ndarray]":
    """Features `(frames, mels)`, by name; what the model itself does in training is done to them here."""
    import torch

    from hf_speechft.model.feature_extraction_speechbert import SpeechBertFeatureExtractor
    from hf_speechft.model.spec_augment_speechbert import mask_features, warp_frequencies

    extractor = SpeechBertFeatureExtractor(feature_type="log_mel", normalize="none")
    features = {
        name: extractor(waveform, sampling_rate=RATE_HZ, return_tensors="pt")["input_features"]
        for name, waveform in clips.items()
    }
    torch.manual_seed(seed)
    if WARPED in features:
        features[WARPED] = warp_frequencies(features[WARPED], config.frequency_warp, RATE_HZ)
    if MASKED in features:
        clip = features[MASKED]
        mean = clip.mean(dim=1, keepdim=True)  # what masks leave of normalised features
        features[MASKED] = mask_features(clip - mean, torch.tensor([clip.shape[1]]), config) + mean
    return {name: rows[0].numpy() for name, rows in features.items()}


def _write_audio(clips: "dict[str, np.ndarray]", folder: Path) -> None:
    import soundfile

    folder.mkdir(parents=True, exist_ok=True)
    for name, waveform in clips.items():
        soundfile.write(folder / f"{name.replace(' ', '_')}.wav", waveform, RATE_HZ, "PCM_16")
