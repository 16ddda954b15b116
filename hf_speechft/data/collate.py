"""Rows of a corpus become one padded batch: the only place that pads, through the processor's own padding."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from hf_speechft.data.audio import AudioError, load_audio
from hf_speechft.data.unreadable import UnreadableClip, UnreadableClips
from hf_speechft.data.workers import heed_parent_only


class SpeechCollator:
    """Decode, augment and pad rows `{audio, text}` for the Trainer (`remove_unused_columns=False`).

    A row with the column `speed` (`augment.expand_speeds`) is played at that speed; one that is `augmented`
    (`augment.mark_augmented`), hence no row of an evaluation, is augmented. A row of a stream names its own `epoch`.

    A worker of a data loader that collates outlives the SIGTERM of a cluster (`workers.py`).

    It holds no open files and no lambdas of its own, hence data loader workers can pickle it.

    Args:
        processor: Called as `processor(audio=[...], text=[...], sampling_rate=...)`; its feature extractor names the
            rate at which clips are decoded.
        augment: Called as `augment(waveform, sampling_rate_hz, generator)` with samples `(samples,)` and a generator
            of its own for each utterance in each epoch, such as an `Augmentation`.
        seed: Of the generators.
        unreadable: Notes clips that cannot be decoded, and the batch goes on with silence in their place, marked in
            its mask `unreadable`; without it such a clip is an error.
    """

    def __init__(
        self,
        processor: Any,
        augment: Callable[[np.ndarray, int, np.random.Generator], np.ndarray] | None = None,
        seed: int = 0,
        unreadable: UnreadableClips | None = None,
    ) -> None:
        self.processor = processor
        self.augment = augment
        self.seed = seed
        self.unreadable = unreadable
        # In shared memory, for workers that outlive an epoch hold a copy of everything else.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._is_clean = torch.zeros((), dtype=torch.bool).share_memory_()

    def set_epoch(self, epoch: int, is_clean: bool = False) -> None:
        """Say which epoch begins: the augmentation draws anew, in workers that are running too.

        Args:
            epoch: Its number.
            is_clean: Whether clips with words are not augmented; silence still becomes background sound.
        """
        self._epoch.fill_(epoch)
        self._is_clean.fill_(is_clean)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        """Make a batch of rows.

        Returns:
            What the processor returns: `input_features (batch, frames, mels)`, `attention_mask (batch, frames)`, and
            `labels (batch, tokens)` unless the rows have no text. A batch with clips that cannot be decoded has the
            mask `unreadable (batch,)` too, and for those no labels.

        Raises:
            ValueError: A transcript cannot be written with the vocabulary, or a clip cannot be decoded and there is no
                `unreadable` to note it; the message begins with the utterance's id.
        """
        heed_parent_only()
        waveforms = [self._waveform(row) for row in rows]
        texts = [row["text"] for row in rows] if rows and "text" in rows[0] else None
        lost = [index for index, waveform in enumerate(waveforms) if waveform is None]
        for index in lost:
            waveforms[index] = self._silence(rows[index])
            if texts is not None:
                texts[index] = ""
        try:
            batch = self._process(waveforms, texts)
        except ValueError as error:
            raise ValueError(self._blame(rows, waveforms, texts, error)) from error
        if lost:
            batch["unreadable"] = torch.zeros(len(rows), dtype=torch.bool)
            batch["unreadable"][lost] = True
        return batch

    @property
    def sampling_rate_hz(self) -> int:
        """Rate at which clips are decoded."""
        return self.processor.feature_extractor.sampling_rate

    def _waveform(self, row: Mapping[str, Any]) -> np.ndarray | None:
        """Decode a clip, at its speed and augmented; None where it cannot be decoded, which is noted."""
        try:
            waveform = load_audio(row["audio"], self.sampling_rate_hz)
        except (AudioError, OSError) as error:
            if self.unreadable is None:
                raise ValueError(f"utterance {_name(row)}: {error}") from error
            self.unreadable.note(UnreadableClip(_name(row), _path(row) or _name(row), str(error)))
            return None
        try:
            if row.get("speed", 1.0) != 1.0:
                from hf_speechft.data.augment import change_speed  # imports datasets, which most users can do without

                waveform = change_speed(waveform, row["speed"], self.sampling_rate_hz)
            if self.augment is None or not row.get("augmented", False) or (self._is_clean and row.get("text")):
                return waveform
            from hf_speechft.data.augment import draw_generator

            generator = draw_generator(self.seed, int(row.get("epoch", self._epoch)), _name(row))
            return np.asarray(self.augment(waveform, self.sampling_rate_hz, generator), dtype=np.float32)
        except ValueError as error:
            raise ValueError(f"utterance {_name(row)}: {error}") from error

    def _silence(self, row: Mapping[str, Any]) -> np.ndarray:
        """As long as the clip should be, so that the batch is as large as was planned, `(samples,)`."""
        return np.zeros(round(row.get("duration_s", 1.0) * self.sampling_rate_hz), dtype=np.float32)

    def _process(self, waveforms: list[np.ndarray], texts: list[str] | None) -> Mapping[str, Any]:
        text = {} if texts is None else {"text": texts}
        return self.processor(audio=waveforms, **text, sampling_rate=self.sampling_rate_hz, return_tensors="pt")

    def _blame(
        self,
        rows: Sequence[Mapping[str, Any]],
        waveforms: list[np.ndarray],
        texts: list[str] | None,
        error: ValueError,
    ) -> str:
        """Find the row that fails by itself, since a processor sees a batch without names."""
        for index, row in enumerate(rows):
            try:
                self._process(waveforms[index : index + 1], None if texts is None else texts[index : index + 1])
            except ValueError as row_error:
                return f"utterance {_name(row)}: {row_error}"
        return f"batch of utterances {', '.join(_name(row) for row in rows)}: {error}"


def _path(row: Mapping[str, Any]) -> str | None:
    return row["audio"].get("path") if isinstance(row.get("audio"), dict) else None


def _name(row: Mapping[str, Any]) -> str:
    return str(row.get("utterance_id") or _path(row) or "without an id")
