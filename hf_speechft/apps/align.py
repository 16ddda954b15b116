"""`hf-speechft align`: when the words of a known text were spoken, or how a recording follows a reference reading."""

import json
import unicodedata
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from hf_speechft.apps.files import Format
from hf_speechft.apps.models import load_model
from hf_speechft.data.text import read_text

if TYPE_CHECKING:
    import numpy as np

    from hf_speechft.decoding import TimedWord
    from hf_speechft.decoding.longform import Chunk
    from hf_speechft.model.feature_extraction_speechbert import SpeechBertFeatureExtractor
    from hf_speechft.model.modeling_speechbert import SpeechBertForCTC
    from hf_speechft.model.processing_speechbert import SpeechBertProcessor

OPENING = ("Ps", "Pi")  # categories of brackets and quotation marks
CEPSTRA = 13  # they tell what is said rather than who says it, for which the article's MFCC are known


def align(
    recording: Annotated[str, typer.Argument(metavar="RECORDING", help="Audio file, of any format.")],
    text: Annotated[str | None, typer.Option(help="What is said in the recording.")] = None,
    text_file: Annotated[str | None, typer.Option(metavar="FILE", help="The same, from a UTF-8 text file.")] = None,
    reference: Annotated[
        str | None, typer.Option(metavar="READING", help="Audio file of the same words, to compare with. No model.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="DIR_OR_ID", help="Folder or Hub id of a SpeechBERT model. Default: runs/demo."),
    ] = None,
    output_format: Annotated[
        Format, typer.Option("--format", help="srt and vtt are for --text and --text-file.")
    ] = Format.TEXT,
    chars: Annotated[bool, typer.Option("--chars", help="Times of characters: with text and json.")] = False,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1, mps… Default: an accelerator if there is one.")
    ] = None,
) -> None:
    """Find when the words of a known text were spoken, or compare a recording with a reference reading.

    With --text or --text-file: start, end and word, one line each with tabs between, as Audacity reads labels; json
    has confidences too. With --reference: the distance of the two (0 where they are the same), the tempo, and where
    in the recording each second of the reference is.
    """
    if sum(source is not None for source in (text, text_file, reference)) != 1:
        raise typer.BadParameter("give one of --text, --text-file and --reference")
    if output_format in (Format.SRT, Format.VTT) and (chars or reference is not None):
        raise typer.BadParameter(f"--format {output_format} is for words: neither for --chars nor for --reference")
    if reference is not None and chars:
        raise typer.BadParameter("--chars is for --text: with --reference there are no characters")
    try:
        if reference is not None:
            typer.echo(_compare(recording, reference, output_format), nl=False)
        else:
            transcript = read_text(text_file) if text is None else text
            loaded = load_model(model, device)
            typer.echo(_align_text(recording, transcript, *loaded, output_format, chars), nl=False)
    except (ValueError, OSError) as error:
        typer.echo(f"hf-speechft: {error}", err=True)
        raise typer.Exit(1) from None


def _align_text(
    recording: str,
    text: str,
    model: "SpeechBertForCTC",
    processor: "SpeechBertProcessor",
    output_format: Format,
    has_chars: bool,
) -> str:
    from hf_speechft.data.audio import load_audio
    from hf_speechft.data.text import normalize_text
    from hf_speechft.decoding.align import align_words
    from hf_speechft.decoding.subtitles import make_cues, to_srt, to_vtt

    rate_hz = processor.feature_extractor.sampling_rate
    waveform = load_audio(recording, rate_hz)
    normalizer = processor.tokenizer.text_normalizer
    try:
        log_probs = _log_probs(waveform, model, processor)
        step_s = model.config.inputs_to_logits_ratio / rate_hz
        alignment = align_words(log_probs, normalize_text(text, normalizer), processor.tokenizer, step_s)
    except ValueError as error:
        raise ValueError(f"{recording}: {error}") from error
    duration_s = len(waveform) / rate_hz
    separator = processor.tokenizer.separator
    words = _within(_as_written(alignment.words, text, normalizer, separator), duration_s)
    characters = _within(alignment.characters, duration_s)
    if output_format is Format.SRT:
        return to_srt(make_cues(words, separator=separator))
    if output_format is Format.VTT:
        return to_vtt(make_cues(words, separator=separator))
    if output_format is Format.JSON:
        line = {"file": recording, "text": separator.join(word.text for word in words), "words": _fields(words)}
        if has_chars:
            line["characters"] = _fields(characters)
        return json.dumps({**line, "duration_s": round(duration_s, 3)}, ensure_ascii=False) + "\n"
    shown = characters if has_chars else words
    return "".join(f"{item.start_s:.3f}\t{item.end_s:.3f}\t{item.text}\n" for item in shown)


def _log_probs(waveform: "np.ndarray", model: "SpeechBertForCTC", processor: "SpeechBertProcessor") -> "np.ndarray":
    """Log-probabilities `(steps, vocab)` of a recording of any length."""
    import numpy as np
    import torch

    from hf_speechft.decoding.longform import Chunk, cut_chunks, join_chunks, plan_chunks

    rate_hz = processor.feature_extractor.sampling_rate

    def recognised() -> Iterator["Chunk"]:
        for start, samples in cut_chunks([waveform], plan_chunks(model, processor)):
            inputs = processor(audio=samples, sampling_rate=rate_hz, device=model.device)
            with torch.inference_mode():
                rows = model(**inputs).logits[0].float().log_softmax(dim=-1).cpu().numpy()  # (steps, vocab)
            yield Chunk(start, rows.argmax(axis=-1).tolist(), rows)

    return np.concatenate(list(join_chunks(recognised())))


def _as_written(words: "list[TimedWord]", text: str, normalizer: str, separator: str) -> "list[TimedWord]":
    """Give words back the case and punctuation of the text, unless it cannot be normalised word by word.

    What is written apart and not spoken, such as a dash, stays with the word before it; at the start, and where it
    opens a bracket or a quotation, with the word after it.
    """
    from hf_speechft.data.text import normalize_text
    from hf_speechft.decoding.units import space_characters

    pieces = text.split() if separator else _characters(text)
    normalized = [normalize_text(written, normalizer) for written in pieces]
    parts = [(one if separator else space_characters(one)).split() for one in normalized]
    if [part for spoken in parts for part in spoken] != [word.text for word in words]:
        return words
    restored, waiting, place = [], "", 0
    for written, spoken in zip(pieces, parts, strict=True):
        if spoken:
            restored.append(_joined(words[place : place + len(spoken)], waiting + written))
            waiting, place = "", place + len(spoken)
        elif restored and not waiting and unicodedata.category(written[0]) not in OPENING:
            restored[-1] = replace(restored[-1], text=f"{restored[-1].text}{separator}{written}")
        else:
            waiting += written + separator
    if waiting and restored:
        restored[-1] = replace(restored[-1], text=f"{restored[-1].text}{separator}{waiting.rstrip()}")
    return restored


def _characters(text: str) -> list[str]:
    """Characters of a text, each with what is written onto it, also where only its NFKC form is (ำ in Thai)."""
    from hf_speechft.decoding.units import is_combining, space_characters

    pieces: list[str] = []
    for piece in space_characters(text).split():
        if pieces and is_combining(unicodedata.normalize("NFKC", piece)[0]):
            pieces[-1] += piece
        else:
            pieces.append(piece)
    return pieces


def _joined(words: "list[TimedWord]", text: str) -> "TimedWord":
    """Neighbouring words as one."""
    confidence = sum(word.confidence for word in words) / len(words)
    return replace(words[0], text=text, end_s=words[-1].end_s, confidence=confidence)


def _within(items: "list[TimedWord]", duration_s: float) -> "list[TimedWord]":
    """End the last where the recording ends; the last step may reach beyond."""
    return [replace(item, end_s=min(item.end_s, duration_s)) for item in items]


def _fields(items: "list[TimedWord]") -> list[dict]:
    return [
        {
            "text": item.text,
            "start_s": round(item.start_s, 3),
            "end_s": round(item.end_s, 3),
            "confidence": round(item.confidence, 4),
        }
        for item in items
    ]


def _compare(recording: str, reference: str, output_format: Format) -> str:
    from hf_speechft.decoding.dtw import dtw
    from hf_speechft.model.feature_extraction_speechbert import SpeechBertFeatureExtractor

    extractor = SpeechBertFeatureExtractor(feature_type="mfcc", feature_size=CEPSTRA, normalize="mean")
    recording_cepstra, recording_s = _cepstra(recording, extractor)
    reference_cepstra, reference_s = _cepstra(reference, extractor)
    warping = dtw(recording_cepstra, reference_cepstra, distance="cosine")
    seconds = _time_map(warping.path, extractor.hop_length / extractor.sampling_rate, recording_s, reference_s)
    if output_format is Format.JSON:
        comparison = {
            "file": recording,
            "reference": reference,
            "normalized_distance": round(warping.normalized_distance, 4),
            "tempo": round(reference_s / recording_s, 3),
            "duration_s": round(recording_s, 3),
            "reference_duration_s": round(reference_s, 3),
            "seconds": seconds,
        }
        return json.dumps(comparison, ensure_ascii=False) + "\n"
    lines = [
        f"distance {warping.normalized_distance:.3f}",
        f"tempo {reference_s / recording_s:.2f} (recording {recording_s:.2f} s, reference {reference_s:.2f} s)",
        "reference_s recording_s tempo",
    ]
    for second in seconds:
        tempo = "-" if second["tempo"] is None else f"{second['tempo']:.2f}"
        lines.append(f"{second['reference_s']:11d} {second['recording_s']:11.2f} {tempo:>5}")
    return "\n".join(lines) + "\n"


def _cepstra(file: str, extractor: "SpeechBertFeatureExtractor") -> "tuple[np.ndarray, float]":
    """Features `(frames, size)` of a file, and how long it lasts in seconds."""
    from hf_speechft.data.audio import load_audio

    waveform = load_audio(file, extractor.sampling_rate)
    try:
        inputs = extractor(waveform, sampling_rate=extractor.sampling_rate, return_tensors="np")
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    (features,) = inputs["input_features"]
    if waveform.min() == waveform.max() or len(features) == 1:  # less their mean, these features are zero
        raise ValueError(f"{file} has nothing to compare: it is digital silence or a single frame")
    return features, len(waveform) / extractor.sampling_rate


def _time_map(path: "np.ndarray", hop_s: float, recording_s: float, reference_s: float) -> list[dict]:
    """For each second of the reference: where it is in the recording, and the tempo until the next one.

    Where several frames of the recording belong to one of the reference, it is at their mean. The tempo is seconds of
    the reference to seconds of the recording: above 1 where the recording is faster, `None` where it stands still.
    """
    import numpy as np

    frames = np.bincount(path[:, 1], weights=path[:, 0]) / np.bincount(path[:, 1])  # (reference frames,)
    marks_s = np.append(np.arange(0.0, reference_s), reference_s)
    known_s = np.append(np.arange(len(frames)) * hop_s, reference_s)
    at_s = np.interp(marks_s, known_s, np.append(frames * hop_s, recording_s))
    elapsed_s = np.diff(at_s)
    return [
        {
            "reference_s": second,
            "recording_s": round(float(at_s[second]), 3),
            "tempo": round(float(passed_s / elapsed_s[second]), 3) if elapsed_s[second] > 0 else None,
        }
        for second, passed_s in enumerate(np.diff(marks_s))
    ]
