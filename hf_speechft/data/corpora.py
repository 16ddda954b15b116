"""One way to get speech with transcripts: any source becomes train, validation and test with the same five columns.

Columns: `audio` ({"bytes", "path"}, not decoded), `text` (normalised), `speaker_id` ("" if unknown), `duration_s`
(from the headers; NaN where the file cannot be read, which `filter_corpus` then counts and names), `utterance_id`
(unique within its split). The reading itself is in readers.py, the cutting in splits.py, the filtering in filters.py.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets import Audio, Dataset, DatasetDict, Features, Value, concatenate_datasets, config

from hf_speechft.data.audio import AudioError, audio_duration_s
from hf_speechft.data.audio_files import list_audio_files
from hf_speechft.data.columns import ColumnNames, find_columns, to_text
from hf_speechft.data.filters import FilterReport, filter_corpus
from hf_speechft.data.raw_splits import SPLIT_ALIASES, RawSplits, split_role
from hf_speechft.data.readers import NoCorpusError, read_source
from hf_speechft.data.splits import FRACTIONS, split_indices
from hf_speechft.data.text import normalize_text

__all__ = ["COLUMNS", "FilterReport", "filter_corpus", "load_corpus", "load_recordings"]

logger = logging.getLogger(__name__)

COLUMNS = ("audio", "text", "speaker_id", "duration_s", "utterance_id")


def load_corpus(
    name_or_path: str | os.PathLike | Mapping[str, str | os.PathLike],
    *,
    config_name: str | None = None,
    train_split: str = "train",
    validation_split: str | None = "validation",
    test_split: str | None = "test",
    audio_column: str | None = None,
    text_column: str | None = None,
    speaker_column: str | None = None,
    class_column: str | None = None,
    normalizer: str = "basic",
    seed: int = 0,
    cache_dir: str | os.PathLike | None = None,
    token: str | None = None,
) -> DatasetDict:
    """Load a corpus with the splits train, validation and test, and the columns of `COLUMNS`.

    A split that the source lacks is cut from its training split: 10 % of it, whole speakers where they are known,
    the same for the same seed.

    Args:
        name_or_path: "demo"; an audio folder (`metadata.csv` with `file_name` and a transcript); a manifest (.csv,
            .tsv, .jsonl, .json, .parquet); a mapping from split to manifest or folder; a tree of LibriSpeech, Common
            Voice or LJSpeech; parquet or webdataset tar shards (a folder, a file, or a pattern such as
            "shards/*.tar"); or the id of a data set on the Hub. What exists locally comes before the Hub.
        config_name: Configuration of a Hub data set.
        train_split: Name of the training split in the source; several are joined by "+".
        validation_split: Likewise; None cuts it from the training split.
        test_split: Likewise.
        audio_column: Name of the column with audio or audio files; found from the usual names otherwise.
        text_column: Name of the column with transcripts; found from the usual names otherwise.
        speaker_column: Name of the column with speakers; found from the usual names otherwise, and not required.
        class_column: Name of a column that the training split keeps as text, besides those of `COLUMNS`.
        normalizer: Name of the text normaliser.
        seed: Seed of the cut, and of the demo corpus.
        cache_dir: Where downloads, the demo corpus and the durations of large corpora are kept.
        token: Hub token for private and gated data sets.

    Raises:
        ValueError: The source, a split or a column does not exist; the message lists those that do.
    """
    normalize_text("", normalizer)  # a misspelled name must fail before a download
    if is_demo(name_or_path):
        from hf_speechft.data.demo import load_demo  # not needed, nor installed, for other corpora

        return load_demo(seed=seed, cache_dir=cache_dir)
    raw = read_source(
        name_or_path, config_name=config_name, audio_column=audio_column, cache_dir=cache_dir, token=token
    )
    wanted = {"train": train_split, "validation": validation_split, "test": test_split}
    named = ColumnNames(audio_column, text_column, speaker_column)
    chosen = choose_splits(raw, wanted)
    splits = {name: _standardize(data, name, named, normalizer, cache_dir) for name, data in chosen.items()}
    if class_column is not None and class_column not in COLUMNS:
        splits["train"] = _keep_classes(splits["train"], chosen["train"], class_column)
    return _cut_missing_splits(splits, seed)


def load_training_split(
    name_or_path: str | os.PathLike, *, normalizer: str = "basic", cache_dir: str | os.PathLike | None = None
) -> Dataset:
    """Load the training split of a corpus, nothing cut from it: one that is added to another corpus.

    Args:
        name_or_path: As for `load_corpus`; columns need to have the usual names.
        normalizer: Name of the text normaliser.
        cache_dir: As for `load_corpus`.

    Raises:
        ValueError: As for `load_corpus`.
    """
    if is_demo(name_or_path):
        return load_corpus(name_or_path, cache_dir=cache_dir)["train"]
    raw = choose_splits(read_source(name_or_path, cache_dir=cache_dir), {"train": "train"})
    return _standardize(raw["train"], "train", ColumnNames(), normalizer, cache_dir)


def is_demo(name_or_path: object) -> bool:
    """Tell whether a source is the built-in corpus."""
    return name_or_path == "demo" and not Path("demo").exists()


def choose_splits(raw: RawSplits, wanted: dict[str, str | None]) -> RawSplits:
    """Find the wanted splits by name or alias.

    One whose name is only the default is left out where it is missing, or where a split that was named is the same: it
    would be trained on, or tell nothing new.

    Args:
        raw: Splits of a source, or streams of them.
        wanted: For train, validation and test the name in the source; several are joined by "+".

    Raises:
        ValueError: A split that was named, or one to train on, is not there, or one is trained on and evaluated.
    """
    found: dict[str, list[str]] = {}
    for role, expression in sorted(wanted.items(), key=lambda item: item[0] == item[1]):  # the named ones first
        if expression is None:
            continue
        names = [_find_split(raw, part.strip()) for part in expression.split("+")]
        if None in names and expression != role:
            raise ValueError(_no_split(raw, role, expression))
        if None not in names and (expression != role or not _shared(found, names)):
            found[role] = names
    twice = [role for role in found if role != "train" and set(found[role]) & set(found.get("train", ()))]
    if twice:
        raise ValueError(f"--{twice[0]}_split {wanted[twice[0]]} is trained on too; name another, or leave it out")
    chosen = {role: _join([raw[name] for name in names]) for role, names in found.items()}
    if "train" not in chosen:
        if len(raw) > 1:
            raise ValueError(_no_split(raw, "train", wanted["train"] or ""))
        only = next(iter(raw))
        level = logging.WARNING if split_role(only) else logging.INFO  # a manifest of any name is no surprise
        logger.log(level, "the only split is %r: it is cut into training, validation and test parts", only)
        return {"train": raw[only]}
    return chosen


def _join(parts: list[Dataset]) -> Dataset:
    return concatenate_datasets(parts) if len(parts) > 1 else parts[0]


def _shared(found: dict[str, list[str]], names: list[str]) -> bool:
    return any(set(names) & set(others) for others in found.values())


def _find_split(raw: RawSplits, name: str) -> str | None:
    """The name in the source of a split that is named as there, or otherwise."""
    by_lower_name = {split.lower(): split for split in raw}
    aliases = (alias for alias in SPLIT_ALIASES.get(name, ()) if alias in by_lower_name)
    return name if name in raw else by_lower_name.get(next(aliases, ""))


def _no_split(raw: RawSplits, role: str, name: str) -> str:
    return f"there is no split {name!r}; the corpus has {', '.join(raw)}; name one with --{role}_split"


def _standardize(
    raw: Dataset, split: str, named: ColumnNames, normalizer: str, cache_dir: str | os.PathLike | None
) -> Dataset:
    """Give a raw split the columns of `COLUMNS`; the audio itself is not copied."""
    columns = find_columns(raw, split, named)
    speakers = [""] * len(raw) if columns.speaker is None else _column_text(raw, columns.speaker)
    audio = _select_audio(raw, columns.audio)
    facts = _read_headers(audio, split, cache_dir)
    labels = Dataset.from_dict(
        {
            "text": [normalize_text(text, normalizer) for text in _column_text(raw, columns.text)],
            "speaker_id": speakers,
            "duration_s": facts["duration_s"][:],
            "utterance_id": _unique_ids(raw, facts["file_name"][:], split),
        },
        features=Features({name: Value("float64" if name == "duration_s" else "string") for name in COLUMNS[1:]}),
    )
    return concatenate_datasets([audio, labels], axis=1)


def _select_audio(raw: Dataset, column: str) -> Dataset:
    audio = raw.select_columns([column])
    audio = audio if column == "audio" else audio.rename_column(column, "audio")
    return audio.cast_column("audio", Audio(decode=False))


def _keep_classes(train: Dataset, raw: Dataset, column: str) -> Dataset:
    if column not in raw.column_names:
        columns = ", ".join(name for name in raw.column_names if name != "utterance_id")  # which readers.py adds
        raise ValueError(f"the training split has no column {column!r} with classes; its columns are {columns}")
    return train.add_column(column, _column_text(raw, column))


def _column_text(raw: Dataset, column: str) -> list[str]:
    return [to_text(value, raw.features[column]) for value in raw[column]]


def _read_headers(audio: Dataset, split: str, cache_dir: str | os.PathLike | None) -> Dataset:
    """Read every clip's duration, with a progress bar; only small columns are written, never the audio."""
    cache = _find_header_cache(audio, cache_dir)
    facts = audio.map(
        _read_header,
        remove_columns=["audio"],
        features=Features({name: Value("float64" if name == "duration_s" else "string") for name in _FACTS}),
        desc=f"Reading {split} headers",
        keep_in_memory=cache is None,
        cache_file_name=None if cache is None else str(cache),
        load_from_cache_file=cache is not None and _has_no_error(cache),
    )
    errors = [error for error in facts["error"] if error]
    if errors:
        logger.warning("%s: %d of %d audio files cannot be read, first: %s", split, len(errors), len(audio), errors[0])
    if errors and len(errors) == len(audio):
        raise ValueError(f"none of the {len(audio)} audio files of split {split!r} can be read; first: {errors[0]}")
    return facts


_FACTS = ("duration_s", "file_name", "error")
CACHED_FROM_CLIPS = 1_000  # fewer are read in a second


def _find_header_cache(audio: Dataset, cache_dir: str | os.PathLike | None) -> Path | None:
    """Name the file for the headers of these audio files as they are now; None where they are read each time.

    `datasets` would write it beside a table on disk, which may be somebody else's data.
    """
    if len(audio) < CACHED_FROM_CLIPS:
        return None
    paths = [clip.get("path") or "" for clip in audio["audio"] if clip is not None and clip.get("bytes") is None]
    if len(paths) < len(audio) and not audio.cache_files:
        return None
    folder = Path(cache_dir or config.HF_DATASETS_CACHE) / "hf_speechft_headers"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        logger.debug("headers are read each time, as %s cannot be written: %s", folder, error)
        return None
    table = audio._fingerprint if audio.cache_files else ""
    content = hashlib.sha256(repr([table, *((path, _file_state(path)) for path in paths)]).encode())
    return folder / f"{content.hexdigest()[:32]}.arrow"


def _file_state(path: str) -> tuple[int, int] | None:
    try:
        state = os.stat(path)
    except OSError:
        return None
    return state.st_size, state.st_mtime_ns


def _has_no_error(cache: Path) -> bool:
    """Tell whether a cache can be used: files that were unreadable are tried again, as a package may now be there."""
    return cache.is_file() and not any(Dataset.from_file(str(cache))["error"])


def _read_header(row: dict[str, Any]) -> dict[str, Any]:
    clip = row["audio"] or {}
    file_name = Path(clip.get("path") or "").name
    try:
        return {"duration_s": audio_duration_s(clip), "file_name": file_name, "error": ""}
    except AudioError as error:
        return {"duration_s": math.nan, "file_name": file_name, "error": str(error)}


def _unique_ids(raw: Dataset, file_names: list[str], split: str) -> list[str]:
    """Name utterances by file, else by the corpus's own id, else by index; an index tells equal names apart."""
    names = list(file_names)
    for column in ("id", "utterance_id"):
        if column in raw.column_names and (column == "utterance_id" or not all(names)):
            names = [own or name for own, name in zip(_column_text(raw, column), names, strict=True)]
    counts = Counter(names)
    return [
        name if name and counts[name] == 1 else f"{name or split}#{index}" for index, name in enumerate(names)
    ]  # fmt: skip


def _cut_missing_splits(splits: dict[str, Dataset], seed: int) -> DatasetDict:
    """Cut validation and test from the training split where the corpus hasn't got them."""
    missing = [name for name in FRACTIONS if name not in splits]
    if missing:
        train = splits["train"]
        shares = {name: FRACTIONS[name] for name in missing}
        parts = split_indices(
            train["utterance_id"][:],
            train["speaker_id"][:],
            train["duration_s"][:],
            {"train": 1 - sum(shares.values()), **shares},
            seed,
        )
        splits = splits | {name: train.select(indices) for name, indices in parts.items()}
        counts = ", ".join(f"{len(splits[name])} {name}" for name in FRACTIONS)
        logger.info("no %s split: cut from the training split, which gives %s", " and ".join(missing), counts)
    return DatasetDict({name: splits[name] for name in FRACTIONS})


def load_recordings(
    name_or_path: str | os.PathLike,
    *,
    split: str | None = None,
    config_name: str | None = None,
    audio_column: str | None = None,
    text_column: str | None = None,
    cache_dir: str | os.PathLike | None = None,
    token: str | None = None,
) -> Dataset:
    """Load recordings that are to be transcribed, in the order of their source, with transcripts or without.

    Args:
        name_or_path: A source as for `load_corpus`, which needs no transcripts here, or a folder with audio files at
            any depth.
        split: Name of the split, or several joined by "+"; not needed where there is only one.
        config_name: Configuration of a Hub data set.
        audio_column: Name of the column with audio or audio files; found from the usual names otherwise.
        text_column: Name of the column with transcripts; found from the usual names otherwise, and not required.
        cache_dir: Where downloads and the durations of many files are kept.
        token: Hub token for private and gated data sets.

    Returns:
        Columns `audio` (not decoded), `duration_s` (NaN where the file cannot be read), `utterance_id` (of an audio
        file its path within the folder) and, where there are transcripts, `reference`, as the source has it.

    Raises:
        ValueError: The source, a split or a column does not exist, or none of the files can be read.
    """
    try:
        raw = read_source(
            name_or_path, config_name=config_name, audio_column=audio_column, cache_dir=cache_dir, token=token
        )
    except NoCorpusError:
        raw = {"train": list_audio_files(name_or_path)}
    data, name = _choose_recordings(raw, split)
    found = find_columns(data, name, ColumnNames(audio_column, text_column), needs_text=False)
    audio = _select_audio(data, found.audio)
    facts = _read_headers(audio, name, cache_dir)
    columns = {"duration_s": facts["duration_s"][:], "utterance_id": _unique_ids(data, facts["file_name"][:], name)}
    if found.text is not None:
        columns["reference"] = _column_text(data, found.text)
    features = Features({column: Value("float64" if column == "duration_s" else "string") for column in columns})
    return concatenate_datasets([audio, Dataset.from_dict(columns, features=features)], axis=1)


def _choose_recordings(raw: RawSplits, split: str | None) -> tuple[Dataset, str]:
    """Find the splits that are named, or the only one, and what to call them."""
    if split is None:
        if len(raw) > 1:
            raise ValueError(f"the corpus has the splits {', '.join(raw)}; name one with --split, or several: a+b")
        return next(iter(raw.values())), next(iter(raw))
    names = [name.strip() for name in split.split("+")]
    found = [_find_split(raw, name) for name in names]
    for name in [name for name, part in zip(names, found, strict=True) if part is None]:
        raise ValueError(f"there is no split {name!r}; the corpus has {', '.join(raw)}; name one with --split")
    return _join([raw[name] for name in found]), split
