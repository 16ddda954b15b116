"""Recordings of any length to text: overlapping chunks, joined where neighbours agree.

    blocks of samples -> chunks (chunk_samples,) -> best unit of each step -> joined units -> words with times
                                                 or log-probabilities -> joined steps -> beam search

Chunks begin on whole steps, so that a chunk's steps are steps of the recording. Two neighbours share a third of a
chunk; the seam lies near the middle of it, where both have seen a sixth of a chunk beyond, and at a step where both
found the same units. CTC's collapse of repeats comes after joining, so a unit that spans a seam stays one unit.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from hf_speechft.model.frontend_speechbert import output_lengths

from .passages import PASSAGE_S, search_passages
from .transcript import TimedWord, Transcript

if TYPE_CHECKING:
    from hf_speechft.model.modeling_speechbert import SpeechBertForCTC
    from hf_speechft.model.processing_speechbert import SpeechBertProcessor
    from hf_speechft.model.tokenization_speechbert import SpeechBertTokenizer

    from .decoder import CTCDecoder, Hypothesis

__all__ = [
    "Chunk",
    "ChunkPlan",
    "cut_chunks",
    "join_chunks",
    "plan_chunks",
    "transcribe",
    "transcribe_batch",
]

DEFAULT_CHUNK_S = 20.0
MARGINS_PER_CHUNK = 6  # as stride_length_s of transformers' pipeline
SEAM_REACH_STEPS = 2  # steps on either side of a seam on which both chunks should agree


@dataclass(frozen=True)
class ChunkPlan:
    """How a recording is cut.

    Args:
        chunk_steps: Length of a chunk.
        margin_steps: Steps at either end of a chunk that a neighbour sees more of.
        step_samples: Samples from one step to the next.
    """

    chunk_steps: int
    margin_steps: int
    step_samples: int

    @property
    def chunk_samples(self) -> int:
        """Length of a chunk in samples."""
        return self.chunk_steps * self.step_samples

    @property
    def advance_samples(self) -> int:
        """Samples from the start of one chunk to the start of the next."""
        return (self.chunk_steps - 2 * self.margin_steps) * self.step_samples


class Chunk(NamedTuple):
    """What was recognised in a chunk.

    Attributes:
        start: Step of the recording at which it starts.
        ids: Best unit of each step; where two chunks find the same is the best place to join them.
        steps: What is joined, of the same length: the ids, or log-probabilities `(steps, vocab)`.
    """

    start: int
    ids: Sequence[int]
    steps: Sequence[int] | np.ndarray


@torch.inference_mode()
def transcribe(
    blocks: Iterable[np.ndarray],
    model: "SpeechBertForCTC",
    processor: "SpeechBertProcessor",
    *,
    decoder: "CTCDecoder | None" = None,
    chunk_s: float | None = None,
    batch_size: int = 4,
) -> Transcript:
    """Transcribe a recording of any length; memory depends on the chunks, not on the recording.

    A recording of one chunk gives exactly what `processor.batch_decode(model.generate(...))`, or the decoder, gives.
    Longer ones differ from one long utterance in what a step can see: features are normalised over a chunk (an
    utterance's mean and variance are the chunk's), and attention ends where the chunk does. A decoder searches at most
    30 s at once: what is longer is cut in pauses, and no hot word or n-gram reaches across a cut.

    Args:
        blocks: The recording in pieces of any length, as `hf_speechft.data.stream_audio` yields them: float32
            `(samples,)` at the processor's sampling rate.
        model: In evaluation mode; its device is used.
        processor: The one that was saved with the model.
        decoder: A beam search for the processor's units; without one the best unit of each step is taken. With
            phrases it takes the recording as one sentence.
        chunk_s: Length of a chunk. Default: 20 s, or what the text checkpoint has positions for if that is less.
        batch_size: Chunks that go through the model at once.

    Returns:
        Text, words with times, and duration.

    Raises:
        ValueError: The recording is shorter than a frame, or longer than 30 s where the decoder has phrases; the chunk
            does not fit the model, or the model is in training mode.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; it needs to be 1 or more")
    plan = plan_chunks(model, processor, chunk_s)
    total_samples = 0

    def counted() -> Iterator[np.ndarray]:
        nonlocal total_samples
        for block in blocks:
            total_samples += len(block)
            yield block

    sampling_rate_hz = processor.feature_extractor.sampling_rate
    step_s = plan.step_samples / sampling_rate_hz
    chunks = _recognise(cut_chunks(counted(), plan), model, processor, batch_size, with_log_probs=decoder is not None)
    rejection_score = None
    if decoder is None:
        words = list(_words(join_chunks(chunks), processor.tokenizer, step_s))
    else:
        words = []
        for first_step, hypothesis in search_passages(join_chunks(chunks), decoder, round(PASSAGE_S / step_s)):
            words += _timed_words(hypothesis, first_step, step_s)
            rejection_score = hypothesis.rejection_score  # with phrases there is one passage
    return _transcript(words, total_samples / sampling_rate_hz, processor.tokenizer.separator, rejection_score)


@torch.inference_mode()
def transcribe_batch(
    waveforms: Sequence[np.ndarray],
    model: "SpeechBertForCTC",
    processor: "SpeechBertProcessor",
    *,
    decoder: "CTCDecoder | None" = None,
) -> list[Transcript]:
    """Transcribe recordings of a chunk or less, all at once; each gives what `transcribe` gives for it alone.

    Args:
        waveforms: The recordings, float32 `(samples,)` each, at the processor's sampling rate.
        model: In evaluation mode; its device is used.
        processor: The one that was saved with the model.
        decoder: A beam search for the processor's units; without one the best unit of each step is taken.

    Returns:
        A transcript of each.

    Raises:
        ValueError: A recording is shorter than a frame, or the model is in training mode.
    """
    if not waveforms:
        return []
    rate_hz = processor.feature_extractor.sampling_rate
    step_s = model.config.inputs_to_logits_ratio / rate_hz
    recordings = ((0, waveform) for waveform in waveforms)
    chunks = list(_recognise(recordings, model, processor, len(waveforms), with_log_probs=decoder is not None))
    if decoder is None:
        words = [list(decode_words(chunk.steps, processor.tokenizer, 0, step_s)) for chunk in chunks]
        scores = [None] * len(chunks)
    else:
        padded = pad_sequence([torch.from_numpy(chunk.steps) for chunk in chunks], batch_first=True)
        nbest = decoder.decode(padded, [len(chunk.steps) for chunk in chunks])
        words = [list(_timed_words(hypotheses[0], 0, step_s)) for hypotheses in nbest]
        scores = [hypotheses[0].rejection_score for hypotheses in nbest]
    durations_s = [len(waveform) / rate_hz for waveform in waveforms]
    separator = processor.tokenizer.separator
    return [_transcript(*one, separator, score) for *one, score in zip(words, durations_s, scores, strict=True)]


def _transcript(
    words: list[TimedWord], duration_s: float, separator: str, rejection_score: float | None
) -> Transcript:
    if words and words[-1].end_s > duration_s:  # the last step may reach beyond the last sample
        words[-1] = replace(words[-1], end_s=duration_s)
    return Transcript(separator.join(word.text for word in words), words, duration_s, rejection_score)


def plan_chunks(
    model: "SpeechBertForCTC", processor: "SpeechBertProcessor", chunk_s: float | None = None
) -> ChunkPlan:
    """Choose whole steps for a chunk and its margins.

    Args:
        model: Its configuration gives samples per step, its position embeddings the longest chunk.
        processor: Its feature extractor gives the frames of a chunk.
        chunk_s: Length that is wanted, in seconds; `None` for the default.

    Returns:
        The plan; a chunk is `chunk_s` rounded to whole steps.

    Raises:
        ValueError: The chunk is longer than the model takes or too short to overlap.
    """
    step_samples = model.config.inputs_to_logits_ratio
    step_s = step_samples / model.config.sampling_rate
    longest = _longest_chunk_steps(model, processor)
    chunk_steps = round((DEFAULT_CHUNK_S if chunk_s is None else chunk_s) / step_s)
    if longest is not None and chunk_steps > longest:
        if chunk_s is not None:
            raise ValueError(
                f"chunk_s is {chunk_s:g} s ({chunk_steps} steps); the text checkpoint has positions for "
                f"{longest * step_s:.1f} s ({longest} steps). Use {longest * step_s:.1f} s or less."
            )
        chunk_steps = longest
    # A margin of a frame or more, because the last frames of a chunk would reach beyond it and are missing.
    shortest = MARGINS_PER_CHUNK * -(-processor.feature_extractor.frame_length // step_samples)
    if chunk_steps < shortest:
        raise ValueError(
            f"a chunk of {chunk_steps} steps ({chunk_steps * step_s:g} s) is too short to overlap its neighbours; it "
            f"needs {shortest} steps ({shortest * step_s:g} s) or more"
        )
    return ChunkPlan(chunk_steps, round(chunk_steps / MARGINS_PER_CHUNK), step_samples)


def _longest_chunk_steps(model: "SpeechBertForCTC", processor: "SpeechBertProcessor") -> int | None:
    """Steps of the longest chunk that the position embeddings reach, or `None` where nothing limits it."""
    limit = model.speechbert.max_steps
    if limit is None:
        return None
    frames = processor.feature_extractor.frame_count(limit * model.config.inputs_to_logits_ratio)
    # Centred frames (log_mel) are one more than the samples have room for, which can make one step more.
    return limit - max(0, output_lengths(frames, model.config.subsampling) - limit)


def cut_chunks(blocks: Iterable[np.ndarray], plan: ChunkPlan) -> Iterator[tuple[int, np.ndarray]]:
    """Cut a recording into overlapping chunks.

    The last chunk is as long as the others, less than a step apart: it starts earlier instead of being short, so that
    it is normalised over as much speech and never shorter than a frame.

    Args:
        blocks: Pieces of the recording, `(samples,)` each.
        plan: Lengths.

    Yields:
        The step at which the chunk starts, and its samples `(samples,)`.
    """
    kept, kept_start, next_start = np.empty(0, np.float32), 0, 0  # starts in samples
    for block in blocks:
        kept = np.concatenate([kept, block])
        while kept_start + len(kept) > next_start + plan.chunk_samples:
            kept = kept[next_start - kept_start :]
            kept_start = next_start
            yield kept_start // plan.step_samples, kept[: plan.chunk_samples]
            next_start += plan.advance_samples
    surplus_samples = max(0, kept_start + len(kept) - plan.chunk_samples)
    start_step = -(-surplus_samples // plan.step_samples)
    yield start_step, kept[start_step * plan.step_samples - kept_start :]


def join_chunks(chunks: Iterable[Chunk]) -> Iterator[Sequence[int] | np.ndarray]:
    """Join what was recognised in overlapping chunks.

    Args:
        chunks: Chunk after chunk.

    Yields:
        Pieces of their `steps`, which in a row hold each step of the recording once.
    """
    held = None
    for chunk in chunks:
        if held is None:
            held = chunk
            continue
        seam = _seam(held.ids, held.start, chunk.ids, chunk.start)
        yield held.steps[: seam - held.start]
        held = Chunk(seam, chunk.ids[seam - chunk.start :], chunk.steps[seam - chunk.start :])
    if held is not None:
        yield held.steps


def _seam(left: Sequence[int], left_start: int, right: Sequence[int], right_start: int) -> int:
    """Find the step from which `right` is believed: near the middle of the overlap, where both say the same.

    A unit that one chunk hears a step earlier than the other would otherwise be doubled or lost at the seam.
    """
    first, end = max(left_start, right_start), left_start + len(left)
    middle = (right_start + end) // 2
    for reach in range(SEAM_REACH_STEPS, -1, -1):
        for step in sorted(range(first + reach, end - reach), key=lambda step: abs(step - middle)):
            around_left = left[step - reach - left_start : step + reach + 1 - left_start]
            around_right = right[step - reach - right_start : step + reach + 1 - right_start]
            if around_left == around_right:
                return step
    return max(first, middle)


def _recognise(
    chunks: Iterator[tuple[int, np.ndarray]],
    model: "SpeechBertForCTC",
    processor: "SpeechBertProcessor",
    batch_size: int,
    with_log_probs: bool,
) -> Iterator[Chunk]:
    """Run the model over the chunks, several at once."""
    if model.training:
        raise ValueError("the model is in training mode, which masks and drops inputs; call model.eval() first")
    extractor = processor.feature_extractor
    while batch := list(islice(chunks, batch_size)):
        starts, waveforms = zip(*batch, strict=True)
        shortest = min(map(len, waveforms))
        if shortest < extractor.frame_length:
            raise ValueError(
                f"the recording lasts {shortest / extractor.sampling_rate * 1000:.1f} ms; one frame of features needs "
                f"{extractor.frame_length_ms:g} ms"
            )
        inputs = processor(audio=list(waveforms), sampling_rate=extractor.sampling_rate, device=model.device)
        logits = model(inputs["input_features"], inputs["attention_mask"]).logits  # (batch, steps, vocab)
        step_lengths = model.step_lengths(inputs["input_features"], inputs["attention_mask"])
        ids = logits.argmax(dim=-1)  # (batch, steps)
        log_probs = logits.float().log_softmax(dim=-1).cpu().numpy() if with_log_probs else None
        for place, (start, row, steps) in enumerate(zip(starts, ids.tolist(), step_lengths.tolist(), strict=True)):
            yield Chunk(start, row[:steps], row[:steps] if log_probs is None else log_probs[place, :steps])


def _timed_words(hypothesis: "Hypothesis", first_step: int, step_s: float) -> Iterator[TimedWord]:
    """Words of a passage that begins at `first_step`, in seconds."""
    for word in hypothesis.words:
        start_s, end_s = ((first_step + step) * step_s for step in (word.start_step, word.end_step))
        yield TimedWord(word.text, start_s, end_s, word.confidence)


def _words(pieces: Iterable[Sequence[int]], tokenizer: "SpeechBertTokenizer", step_s: float) -> Iterator[TimedWord]:
    """Decode word by word as pieces come, so that only words are kept of a long recording."""
    word_starts = tokenizer.word_start_ids
    waiting, first_step = [], 0
    for piece in pieces:
        waiting += piece
        cut = last_word_start(waiting, word_starts)
        yield from decode_words(waiting[:cut], tokenizer, first_step, step_s)
        waiting, first_step = waiting[cut:], first_step + cut
    yield from decode_words(waiting, tokenizer, first_step, step_s)


def last_word_start(ids: Sequence[int], word_starts: set[int]) -> int:
    """Place of the last unit that begins a word, 0 where there is none."""
    for place in range(len(ids) - 1, 0, -1):
        if ids[place] in word_starts and ids[place - 1] != ids[place]:
            return place
    return 0


def decode_words(
    ids: Sequence[int], tokenizer: "SpeechBertTokenizer", first_step: int, step_s: float
) -> Iterator[TimedWord]:
    """Words of the best units of some steps, the first of which is `first_step`, with times in seconds."""
    decoded = tokenizer.decode(ids, skip_special_tokens=True, output_word_offsets=True)
    for offset in decoded.word_offsets:
        start_s, end_s = ((first_step + offset[name]) * step_s for name in ("start_offset", "end_offset"))
        yield TimedWord(offset["word"], start_s, end_s)
