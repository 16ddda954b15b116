"""`hf-speechft transcribe-dataset`: a data set or a folder of recordings to one file of transcripts.

`accelerate launch -m hf_speechft.apps.transcribe_dataset` shares the recordings among several processes or GPUs.
Whatever stops it, the same command goes on from there, with as many processes as one likes.
"""

import hashlib
import json
import sys
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from hf_speechft.apps.models import load_decoder, load_model
from hf_speechft.apps.recognition_options import (
    BeamsOption,
    ChunkOption,
    HotwordOption,
    ModelOption,
    PhrasesOption,
    read_hotwords,
    read_phrases,
)

if TYPE_CHECKING:
    from accelerate import PartialState
    from datasets import Dataset

    from hf_speechft.decoding.bulk import BulkTranscriber
    from hf_speechft.model.modeling_speechbert import SpeechBertForCTC
    from hf_speechft.model.tokenization_speechbert import SpeechBertTokenizer

PARTS = "parts"
RUN_FILE = "run.json"
MODEL_SUFFIXES = (".json", ".safetensors")  # of what decides the text, unlike README.md
LONGEST_WAIT = timedelta(days=7)  # of a process for another, which may have a recording of many hours


class Format(StrEnum):
    """How transcripts are written."""

    JSONL = "jsonl"
    PARQUET = "parquet"


class Work(NamedTuple):
    """What the main process tells all.

    Attributes:
        recordings: All of them, whether they are done or not.
        batches: Indices of the recordings that are left, the longest first.
        start: How often the command has been started with this output, this time included.
    """

    recordings: "Dataset"
    batches: list[list[int]]
    start: int


def transcribe_dataset(
    dataset: Annotated[
        str,
        typer.Argument(help="A folder of audio files, an audio folder, a manifest, a LibriSpeech tree, or a Hub id."),
    ],
    output_dir: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the transcripts, and of what is done.")],
    split: Annotated[
        str | None, typer.Option(help="Split, or several joined by '+'. Not needed where there is one.")
    ] = None,
    output_format: Annotated[Format, typer.Option("--format", help="Of the file of transcripts.")] = Format.JSONL,
    model: ModelOption = None,
    beams: BeamsOption = None,
    hotword: HotwordOption = None,
    phrases: PhrasesOption = None,
    device: Annotated[
        str | None,
        typer.Option(
            help="cpu, cuda, cuda:1, mps… Default: an accelerator if there is one, another for each process."
        ),
    ] = None,
    chunk_s: ChunkOption = None,
    batch_seconds: Annotated[
        float,
        typer.Option(min=1.0, help="Seconds of sound that go through the model at once; less takes less memory."),
    ] = 120.0,
    dataset_config_name: Annotated[str | None, typer.Option(help="Configuration of a Hub data set.")] = None,
    audio_column: Annotated[str | None, typer.Option(help="Column with audio; found by itself if usual.")] = None,
    text_column: Annotated[str | None, typer.Option(help="Column with transcripts, if any; likewise.")] = None,
) -> None:
    """Transcribe all recordings of a data set or folder into DIR/transcripts.jsonl or .parquet, in its order.

    Each has a row: `index`, `utterance_id`, `reference` (if the data set has one), `text`, `words` with times,
    `duration_s`, and `error`, which says why there is no text. With references, word and character error rates are
    printed. What stopped is continued by the same command, which also tries again what could not be read. With several
    processes: `accelerate launch --num_processes 4 -m hf_speechft.apps.transcribe_dataset`, and the same options.
    """
    state = _join_processes(device)
    source = {"config_name": dataset_config_name, "audio_column": audio_column, "text_column": text_column}
    try:
        loaded = load_model(model, device or str(state.device))
        sentences = None if phrases is None else read_phrases(phrases)
        hotwords = read_hotwords(hotword or [])
        decoder = load_decoder(*loaded, beams=beams, hotwords=hotwords, phrases=sentences)
        from hf_speechft.decoding.bulk import BulkTranscriber

        transcriber = BulkTranscriber(*loaded, decoder=decoder, chunk_s=chunk_s, batch_seconds=batch_seconds)
        options = {"beams": beams, "hotwords": hotwords, "phrases": _digest(sentences), "chunk_s": chunk_s}
        facts = {"dataset": dataset, "split": split, **source, "model": _describe_model(loaded[0]), **options}
        work = _from_main(state, lambda: _plan(output_dir, facts, source, transcriber))
    except (ValueError, OSError, ImportError) as error:
        if state.is_main_process:  # the others found the same
            _complain(error)
        raise typer.Exit(1) from None
    try:
        _transcribe(state, work, transcriber, output_dir / PARTS)
        state.wait_for_everyone()
        if state.is_main_process:
            _finish(output_dir, output_format, len(work.recordings), loaded[1].tokenizer)
        state.destroy_process_group()
    except (ValueError, OSError) as error:
        _complain(error)
        raise typer.Exit(1) from None


def _join_processes(device: str | None) -> "PartialState":
    """Find the other processes that the launcher started, if any."""
    import torch
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    # Unless it is told so, accelerate takes each of several processes without an accelerator for the only one.
    on_cpu = device == "cpu" or parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    return PartialState(cpu=on_cpu, timeout=LONGEST_WAIT)


def _from_main(state: "PartialState", make: Callable[[], Work]) -> Work:
    """What the main process makes, or the error that it meets, in all processes."""
    from accelerate.utils import broadcast_object_list

    made: list[Any] = [None]
    if state.is_main_process:
        try:
            made = [make()]
        except (ValueError, OSError, ImportError) as error:
            made = [error]
    broadcast_object_list(made)
    if isinstance(made[0], Exception):
        raise made[0]
    return made[0]


def _plan(output_dir: Path, facts: dict[str, Any], source: dict[str, Any], transcriber: "BulkTranscriber") -> Work:
    """Load the recordings, check that what is done was done in the same way, and make batches of what is left."""
    import datasets

    from hf_speechft.data.corpora import load_recordings
    from hf_speechft.decoding.bulk import plan_batches
    from hf_speechft.decoding.parts import find_rows, next_start

    folder = Path(facts["dataset"]).expanduser()
    if folder.is_dir() and output_dir.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"--output-dir {output_dir} is within {folder}; choose a folder outside of it")
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    try:
        recordings = load_recordings(facts["dataset"], split=facts["split"], **source)
    finally:
        datasets.enable_progress_bars()
    named = f"{len(recordings)} of names {_digest(recordings['utterance_id'][:])}"
    _check_run(output_dir, {**facts, "recordings": named})
    rows = find_rows(output_dir / PARTS)
    left = [index for index in range(len(recordings)) if index not in rows or rows[index].is_error]
    durations_s = recordings["duration_s"][:]
    limits = {"longest_s": transcriber.longest_s, "batch_seconds": transcriber.batch_seconds}
    return Work(recordings, plan_batches(durations_s, left, **limits), next_start(output_dir / PARTS))


def _check_run(output_dir: Path, facts: dict[str, Any]) -> None:
    """Keep what the transcripts in a folder are made from and with; refuse to add others to them."""
    from hf_speechft.sharing.save import save_atomically

    file = output_dir / RUN_FILE
    if not file.is_file():
        text = json.dumps(facts, indent=2, ensure_ascii=False) + "\n"
        save_atomically(output_dir, lambda folder: (folder / RUN_FILE).write_text(text, encoding="utf-8"))
        return
    before = json.loads(file.read_text(encoding="utf-8"))
    changed = [name for name in facts if before.get(name) != facts[name]]
    if changed:
        details = "; ".join(f"{name} was {before.get(name)} and is {facts[name]}" for name in changed)
        raise ValueError(
            f"{output_dir} is of another run ({details}); give the same arguments, or another --output-dir"
        )


def _describe_model(model: "SpeechBertForCTC") -> str:
    """Name of a model and which version of it: the Hub's commit, or when weights and settings last changed."""
    folder = Path(model.name_or_path)
    if not folder.is_dir():
        return f"{model.name_or_path} of commit {model.config._commit_hash}"
    files = [file for file in (*folder.iterdir(), *folder.glob("decoder/*")) if file.suffix in MODEL_SUFFIXES]
    changed = datetime.fromtimestamp(max(file.stat().st_mtime for file in files if file.name != RUN_FILE), UTC)
    return f"{folder.resolve()} of {changed.isoformat()}"


def _digest(content: object) -> str | None:
    return None if content is None else hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def _transcribe(state: "PartialState", work: Work, transcriber: "BulkTranscriber", folder: Path) -> None:
    """Transcribe this process's share; batches are dealt in turn, so that each has as many long ones."""
    from tqdm import tqdm

    from hf_speechft.decoding.parts import Part

    batches = work.batches[state.process_index :: state.num_processes]
    if not batches:
        return
    known_s = [duration_s if duration_s > 0 else 0.0 for duration_s in work.recordings["duration_s"][:]]
    share = "" if state.num_processes == 1 else f", process 1 of {state.num_processes}"
    bar = tqdm(
        total=sum(known_s[index] for batch in batches for index in batch) / 3600,
        desc=f"Transcribing{share}",
        disable=not (state.is_main_process and sys.stderr.isatty()),
        bar_format="{desc}: {percentage:3.0f}% of {total:.2f} h |{bar}| {elapsed}<{remaining}",
    )
    with bar, Part(folder, work.start, state.process_index) as part:
        for rows in transcriber.rows(work.recordings, batches):
            part.append(rows)
            bar.update(min(sum(known_s[row["index"]] for row in rows) / 3600, bar.total - bar.n))


def _finish(output_dir: Path, output_format: Format, recordings: int, tokenizer: "SpeechBertTokenizer") -> None:
    """Write all rows into one file in the order of the data set, and print what there is to say about them."""
    from hf_speechft.decoding.parts import find_rows, read_rows, write_jsonl, write_parquet
    from hf_speechft.sharing.save import save_atomically

    places = find_rows(output_dir / PARTS)
    missing = [index for index in range(recordings) if index not in places]
    if missing:
        raise ValueError(f"{len(missing)} recordings have no row in {output_dir / PARTS}; run the same command again")
    ordered = [places[index] for index in range(recordings)]
    name = f"transcripts.{output_format}"
    write = write_jsonl if output_format is Format.JSONL else write_parquet
    save_atomically(output_dir, lambda folder: write(read_rows(ordered), folder / name))
    for line in _summary(read_rows(ordered), tokenizer):
        typer.echo(line)
    typer.echo(f"transcripts: {output_dir / name}")


def _summary(rows: Iterable[dict[str, Any]], tokenizer: "SpeechBertTokenizer") -> list[str]:
    """Count, and where there are references, compare."""
    from hf_speechft.data.text import normalize_text

    duration_s, errors, references, texts = 0.0, [], [], []
    done = 0
    for row in rows:
        if row["error"] is not None:
            errors.append(row)
            continue
        done += 1
        duration_s += row["duration_s"]
        reference = tokenizer.written(normalize_text(row.get("reference") or "", tokenizer.text_normalizer))
        if reference:  # an empty one is more often withheld than silence
            references.append(reference)
            texts.append(row["text"])
    lines = [f"{done:,} recordings, {duration_s / 3600:,.2f} h"]
    if errors:
        first = errors[0]
        lines.append(f"{len(errors):,} could not be transcribed, the first: {first['utterance_id']}: {first['error']}")
    if references:
        from hf_speechft.scoring import count_errors, total  # takes seconds to import

        wer, cer = (100 * total(count_errors(references, texts, unit)).rate for unit in ("word", "char"))
        lines.append(f"WER {wer:.1f} %, CER {cer:.1f} %")
    return lines


def _complain(message: object) -> None:
    typer.echo(f"hf-speechft: {message}", err=True)


def main() -> None:
    """Run the command by itself: what `accelerate launch -m hf_speechft.apps.transcribe_dataset` calls."""
    from hf_speechft.apps.command import app

    app(["transcribe-dataset", *sys.argv[1:]], prog_name="hf-speechft")


if __name__ == "__main__":
    main()
