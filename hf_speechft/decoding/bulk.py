"""Many recordings to text: the longest first, short ones in batches of like duration, long ones chunk by chunk.

    durations (recordings,) -> batches of indices -> sound, loaded ahead in threads -> a row for each recording

What cannot be read or is too short gets a row that says so, and stops nothing.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_speechft.data.audio import load_audio, stream_audio
from hf_speechft.data.batching import cut_buckets

from .longform import plan_chunks, transcribe, transcribe_batch
from .passages import PASSAGE_S

if TYPE_CHECKING:
    from hf_speechft.model.modeling_speechbert import SpeechBertForCTC
    from hf_speechft.model.processing_speechbert import SpeechBertProcessor

    from .decoder import CTCDecoder

__all__ = ["BulkTranscriber", "plan_batches"]

BLOCK_S = 30.0  # of a long recording, decoded at once
LOADING_THREADS = 4
BATCHES_AHEAD = 2  # loaded while the model computes

Recording = Mapping[str, Any]  # audio, duration_s, utterance_id and, where it is known, reference


def plan_batches(
    durations_s: Sequence[float], indices: Sequence[int], *, longest_s: float, batch_seconds: float
) -> list[list[int]]:
    """Sort recordings by duration, the longest first, and cut them into batches.

    Args:
        durations_s: Seconds of each recording, `(recordings,)`; NaN where they are unknown.
        indices: The recordings that are to be transcribed.
        longest_s: Recordings up to this are batched; a longer one, or one of unknown duration, is by itself.
        batch_seconds: Seconds of a batch, padding included.

    Returns:
        Indices of each batch. Those of unknown duration come last.
    """
    indices = np.asarray(indices, dtype=np.int64)
    chosen_s = np.asarray(durations_s, dtype=np.float64)[indices]
    is_long, is_short = chosen_s > longest_s, (chosen_s > 0) & (chosen_s <= longest_s)  # NaN is neither
    long, short = np.flatnonzero(is_long), np.flatnonzero(is_short)
    single = [*long[np.argsort(-chosen_s[long], kind="stable")], *np.flatnonzero(~is_long & ~is_short)]
    batches = [
        short[clips[start : start + size]]
        for clips, size in cut_buckets(chosen_s[short], batch_seconds)
        for start in range(0, len(clips), size)
    ]
    places = [[place] for place in single[: len(long)]] + batches + [[place] for place in single[len(long) :]]
    return [indices[batch].tolist() for batch in places]


class BulkTranscriber:
    """Transcribes batches of recordings.

    Args:
        model: In evaluation mode; its device is used.
        processor: The one that was saved with the model.
        decoder: A beam search for the processor's units; without one the best unit of each step is taken.
        chunk_s: Length of the chunks of long recordings; see `transcribe`.
        batch_seconds: Seconds that go through the model at once; of a long recording a chunk at least.

    Raises:
        ValueError: The chunk does not fit the model.
    """

    def __init__(
        self,
        model: "SpeechBertForCTC",
        processor: "SpeechBertProcessor",
        *,
        decoder: "CTCDecoder | None" = None,
        chunk_s: float | None = None,
        batch_seconds: float = 120.0,
    ) -> None:
        self.model, self.processor, self.decoder = model, processor, decoder
        self.chunk_s, self.batch_seconds = chunk_s, batch_seconds
        self.rate_hz = processor.feature_extractor.sampling_rate
        # More than a chunk does not fit the model, more than a passage not the search.
        self.longest_samples = min(
            plan_chunks(model, processor, chunk_s).chunk_samples, round(PASSAGE_S * self.rate_hz)
        )

    @property
    def longest_s(self) -> float:
        """Seconds of the longest recording that is batched with others."""
        return self.longest_samples / self.rate_hz

    def rows(
        self, recordings: Sequence[Recording], batches: Iterable[Sequence[int]]
    ) -> Iterator[list[dict[str, Any]]]:
        """Transcribe batch after batch.

        Args:
            recordings: What `hf_speechft.data.load_recordings` gives.
            batches: Indices of the recordings of each, as `plan_batches` gives them.

        Yields:
            For each batch a row for each of its recordings: `index`, `utterance_id`, `reference` where it is known,
            those of `Transcript.to_dict`, and `error`. Where the error is not None, there is no transcript.
        """
        with ThreadPoolExecutor(LOADING_THREADS) as pool:
            for members, sounds in self._loaded_ahead(recordings, batches, pool):
                outcomes = self._transcribe(members, [future.result() for future in sounds])
                yield [_row(member, outcome) for member, outcome in zip(members, outcomes, strict=True)]

    def _loaded_ahead(
        self, recordings: Sequence[Recording], batches: Iterable[Sequence[int]], pool: ThreadPoolExecutor
    ) -> Iterator[tuple[list[Recording], list[Future]]]:
        waiting: deque[tuple[list[Recording], list[Future]]] = deque()
        for batch in batches:
            members = [{"index": index, **recordings[index]} for index in batch]
            waiting.append((members, [pool.submit(self._load, member) for member in members]))
            if len(waiting) > BATCHES_AHEAD:
                yield waiting.popleft()
        yield from waiting

    def _load(self, recording: Recording) -> Iterable[np.ndarray] | ValueError | OSError:
        """Load what is batched, as one block; of the rest blocks are read when they are needed."""
        if not recording["duration_s"] <= self.longest_s:
            return stream_audio(recording["audio"], self.rate_hz, BLOCK_S)
        try:
            return [load_audio(recording["audio"], self.rate_hz)]
        except (ValueError, OSError) as error:
            return error

    def _transcribe(
        self, members: Sequence[Recording], sounds: Sequence[Iterable[np.ndarray] | ValueError | OSError]
    ) -> list[dict[str, Any]]:
        """Transcribe together what fits, and the rest one by one; the outcome of each."""
        frame_samples = self.processor.feature_extractor.frame_length
        outcomes: list[dict[str, Any] | None] = [None] * len(members)
        together = [
            place
            for place, sound in enumerate(sounds)
            if isinstance(sound, list) and frame_samples <= len(sound[0]) <= self.longest_samples
        ]
        if together:
            waveforms = [sounds[place][0] for place in together]
            transcripts = transcribe_batch(waveforms, self.model, self.processor, decoder=self.decoder)
            for place, transcript in zip(together, transcripts, strict=True):
                outcomes[place] = {**transcript.to_dict(), "error": None}
        return [outcome or self._transcribe_one(sound) for outcome, sound in zip(outcomes, sounds, strict=True)]

    def _transcribe_one(self, sound: Iterable[np.ndarray] | ValueError | OSError) -> dict[str, Any]:
        if isinstance(sound, Exception):
            return _failure(sound)
        chunks = max(1, int(self.batch_seconds // self.longest_s))
        options = {"decoder": self.decoder, "chunk_s": self.chunk_s, "batch_size": chunks}
        try:
            return {**transcribe(sound, self.model, self.processor, **options).to_dict(), "error": None}
        except (ValueError, OSError) as error:
            return _failure(error)


def _failure(error: ValueError | OSError) -> dict[str, Any]:
    return {"text": None, "words": None, "duration_s": None, "error": str(error)}


def _row(recording: Recording, outcome: Mapping[str, Any]) -> dict[str, Any]:
    known = {name: recording[name] for name in ("index", "utterance_id", "reference") if name in recording}
    return {**known, **outcome}
