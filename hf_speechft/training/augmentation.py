"""The augmentation of a run's training clips: its arguments, its epochs and what the model card says of it."""

from dataclasses import dataclass, field

from hf_speechft.data.augment import Augmentation
from hf_speechft.data.sounds import SoundFolder


@dataclass
class AugmentationArguments:
    """What training clips are changed by. Those of the stage on synthetic speech stay as they are."""

    noise_dir: str | None = field(
        default=None, metadata={"help": "Folder with audio files, in it or below it, of noises that are added."}
    )
    noise_prob: float = field(default=0.5, metadata={"help": "Share of training clips that get noise."})
    noise_snr_db: list[float] = field(
        default_factory=lambda: [5.0, 25.0],
        metadata={"help": "Lowest and highest signal-to-noise ratio in dB, such as 5 25."},
    )
    reverb_prob: float = field(default=0.0, metadata={"help": "Share of training clips that sound as in a room."})
    room_dir: str | None = field(
        default=None,
        metadata={"help": "Folder with impulse responses of rooms; without it they are synthetic, RT60 0.2 to 0.8 s."},
    )
    gain_db: float = field(
        default=0.0, metadata={"help": "Training clips are made louder or softer by up to so many dB."}
    )
    telephone_prob: float = field(
        default=0.0, metadata={"help": "Share of training clips that keep a telephone's band only, 300 to 3400 Hz."}
    )
    silence_share: float = field(
        default=0.0,
        metadata={
            "help": "So many clips without speech, as a share of the training clips, are added with an empty "
            "transcript: hiss, and noise from --noise_dir."
        },
    )


def make_augmentation(arguments: AugmentationArguments, sampling_rate_hz: int) -> Augmentation | None:
    """Check the arguments and read the folders of noises and rooms.

    Args:
        arguments: The arguments.
        sampling_rate_hz: Of the clips.

    Returns:
        None where no argument asks for any.

    Raises:
        ValueError: An argument is out of range, or a folder or a file in it cannot be used.
    """
    numbers = {
        "noise_prob": arguments.noise_prob,
        "noise_snr_db": tuple(arguments.noise_snr_db),
        "reverb_prob": arguments.reverb_prob,
        "gain_db": arguments.gain_db,
        "telephone_prob": arguments.telephone_prob,
        "silence_share": arguments.silence_share,
    }
    try:
        Augmentation(**numbers)  # before folders are read, which can take minutes
    except ValueError as error:
        raise ValueError(f"--{error}") from None
    if arguments.room_dir is not None and not arguments.reverb_prob:
        raise ValueError(f"--room_dir {arguments.room_dir} needs --reverb_prob above 0, such as 0.3")
    augmentation = Augmentation(
        **numbers,
        noises=_read_folder("noise_dir", arguments.noise_dir, sampling_rate_hz),
        rooms=_read_folder("room_dir", arguments.room_dir, sampling_rate_hz),
    )
    return augmentation if augmentation.does_something else None


def _read_folder(argument: str, folder: str | None, sampling_rate_hz: int) -> SoundFolder | None:
    try:
        return None if folder is None else SoundFolder(folder, sampling_rate_hz)
    except ValueError as error:
        raise ValueError(f"--{argument}: {error}") from error


def describe_augmentation(arguments: AugmentationArguments) -> list[str]:
    """Say in words, one phrase for each, what of the augmentation is on."""
    phrases = []
    if arguments.noise_dir is not None and arguments.noise_prob:
        low_db, high_db = arguments.noise_snr_db
        phrases.append(f"noise in {arguments.noise_prob:.0%} of clips at {low_db:g} to {high_db:g} dB SNR")
    if arguments.reverb_prob:
        rooms = "synthetic" if arguments.room_dir is None else "recorded"
        phrases.append(f"{rooms} rooms in {arguments.reverb_prob:.0%}")
    if arguments.gain_db:
        phrases.append(f"gain up to ±{arguments.gain_db:g} dB")
    if arguments.telephone_prob:
        phrases.append(f"telephone band in {arguments.telephone_prob:.0%}")
    if arguments.silence_share:
        phrases.append(f"{arguments.silence_share:.0%} more clips without speech")
    return phrases
