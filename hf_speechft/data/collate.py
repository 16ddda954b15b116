"""Rows of a corpus become one padded batch: the only place that pads, through the processor's own padding."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from hf_speechft.data.audio import load_audio


class SpeechCollator:
    """Decode, augment and pad rows `{audio, text}` for the Trainer (`remove_unused_columns=False`).

    A row with the column `speed` (`augment.expand_speeds`) is played at that speed.

    It holds no open files and no lambdas of its own, hence data loader workers can pickle it.

    Args:
        processor: Called as `processor(audio=[...], text=[...], sampling_rate=...)`; its feature extractor names the
            rate at which clips are decoded.
        augment: Applied to each waveform `(samples,)`; None for evaluation.
    """

    def __init__(self, processor: Any, augment: Callable[[np.ndarray], np.ndarray] | None = None) -> None:
        self.processor = processor
        self.augment = augment

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        """Make a batch of rows.

        Returns:
            What the processor returns: `input_features (batch, frames, mels)`, `attention_mask (batch, frames)`, and
            `labels (batch, tokens)` unless the rows have no text.

        Raises:
            ValueError: A clip cannot be decoded or a transcript cannot be written with the vocabulary; the message
                begins with the utterance's id.
        """
        waveforms = [self._waveform(row) for row in rows]
        texts = [row["text"] for row in rows] if rows and "text" in rows[0] else None
        try:
            return self._process(waveforms, texts)
        except ValueError as error:
            raise ValueError(self._blame(rows, waveforms, texts, error)) from error

    @property
    def sampling_rate_hz(self) -> int:
        """Rate at which clips are decoded."""
        return self.processor.feature_extractor.sampling_rate

    def _waveform(self, row: Mapping[str, Any]) -> np.ndarray:
        try:
            waveform = load_audio(row["audio"], self.sampling_rate_hz)
            if row.get("speed", 1.0) != 1.0:
                from hf_speechft.data.augment import change_speed  # imports datasets, which most users can do without

                waveform = change_speed(waveform, row["speed"], self.sampling_rate_hz)
            return waveform if self.augment is None else np.asarray(self.augment(waveform), dtype=np.float32)
        except ValueError as error:
            raise ValueError(f"utterance {_name(row)}: {error}") from error

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


def _name(row: Mapping[str, Any]) -> str:
    path = row["audio"].get("path") if isinstance(row.get("audio"), dict) else None
    return str(row.get("utterance_id") or path or "without an id")
