"""Where corpora come from: folders, files and the Hub, each read into named raw splits.

A raw split has whatever columns its source has; `corpora.py` finds the ones it needs. This file tells the kinds of
source apart; manifests are read in manifests.py, publishers' folders in trees.py, parquet and tar files in shards.py.
Local audio folders are not read by `datasets`' builder, which imports torchcodec to write a path.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from datasets import Dataset, DatasetBuilder, load_dataset_builder, load_from_disk
from datasets.exceptions import DatasetsError
from datasets.packaged_modules.webdataset.webdataset import WebDataset

from hf_speechft.data.manifests import MANIFEST_SUFFIXES, read_manifest
from hf_speechft.data.raw_splits import RawSplits, UndecodedAudio, split_role, without_decoding
from hf_speechft.data.shards import are_tars, find_shards, is_pattern, read_shards
from hf_speechft.data.trees import read_tree, refuse_archive

logger = logging.getLogger(__name__)


class NoCorpusError(ValueError):
    """A folder in which nothing names the audio files and says what they hold."""


def read_source(
    source: str | os.PathLike | Mapping[str, str | os.PathLike],
    *,
    config_name: str | None = None,
    audio_column: str | None = None,
    cache_dir: str | os.PathLike | None = None,
    token: str | None = None,
) -> RawSplits:
    """Read a corpus from wherever it is into raw splits.

    Args:
        source: Hub id, folder, manifest file, or a mapping from split name to manifest or folder.
        config_name: Configuration of a Hub data set.
        audio_column: Column that names the audio file; found from the usual names otherwise.
        cache_dir: Where `datasets` keeps what it downloads.
        token: Hub token for private and gated data sets.

    Raises:
        ValueError: The source does not exist, cannot be reached, or cannot be read.
    """
    if isinstance(source, Mapping):
        return {name: _read_one_split(Path(path), audio_column) for name, path in source.items()}
    path = find_local(source)
    if path is None:
        with hub_errors(source):
            builder = open_builder(source, config_name, cache_dir, token)
            if isinstance(builder, WebDataset):  # which torchcodec alone could copy
                raise ValueError(
                    f"data set {source!r} consists of webdataset tar files; read them with --streaming true, or get "
                    f"them by `hf download {source} --repo-type dataset --local-dir FOLDER` and give that folder"
                )
            return _prepare(builder)
    if path.is_dir():
        return _read_folder(path, audio_column, cache_dir)
    if is_pattern(path) or path.suffix.lower() == ".tar":
        return read_shards(find_shards(path), cache_dir)
    return {path.stem: read_manifest(path, audio_column)}


def find_local(source: str | os.PathLike) -> Path | None:
    """Find what a source names on this machine: a folder, a file, or a pattern for files; None if it is a Hub id.

    Raises:
        ValueError: It looks like a path and does not exist, or is an archive to be unpacked.
    """
    path = Path(source).expanduser()
    if path.is_dir() or is_pattern(path):
        return path
    if path.is_file():
        refuse_archive(path)
        return path
    if isinstance(source, os.PathLike) or _looks_local(source):
        raise ValueError(f"{source}: no such file or folder (looked in {Path.cwd()}); check the path")
    return None


@contextmanager
def hub_errors(source: str) -> Iterator[None]:
    """Turn what fails while a data set of the Hub is read into a ValueError that says what to do."""
    try:
        yield
    except RuntimeError as error:
        raise ValueError(
            f"data set {source!r} cannot be loaded from the Hub ({error}); use a copy of it in parquet, or download "
            "it and give the path of an audio folder or manifest"
        ) from error
    except (OSError, DatasetsError) as error:  # not found, private, gated, unreachable
        raise ValueError(
            f"data set {source!r} was not found locally or on the Hub ({error}); check the spelling, log in with "
            "`hf auth login` if it is private or gated, or give the path of an audio folder or manifest"
        ) from error


def _read_folder(folder: Path, audio_column: str | None, cache_dir: str | os.PathLike | None = None) -> RawSplits:
    """Tell the kinds of folder apart: a publisher's tree, a saved data set, an audio folder, manifests, shards."""
    tree = read_tree(folder)
    if tree:
        return tree
    if (folder / "dataset_dict.json").is_file():
        return {split: without_decoding(data) for split, data in load_from_disk(str(folder)).items()}
    if (folder / "state.json").is_file():
        return {"train": without_decoding(load_from_disk(str(folder)))}
    for root in (folder, folder / "data"):
        splits = _audio_folder_splits(root, audio_column) or _manifest_splits(root, audio_column)
        if splits:
            return splits
    shards = find_shards(folder)
    if shards and are_tars(shards):
        return read_shards(shards, cache_dir)
    if any(next(folder.rglob(f"*{suffix}"), None) for suffix in (".parquet", ".zip")):  # a copy of a Hub repository
        try:
            return _prepare(open_builder(str(folder), None, cache_dir, None))
        except (OSError, DatasetsError) as error:
            raise ValueError(f"folder {folder} cannot be read by datasets ({error}); give a manifest") from error
    raise NoCorpusError(
        f"folder {folder} holds no corpus: no metadata.csv or metadata.jsonl in it or in split folders, no manifest "
        "such as train.csv, no parquet or tar files, no tree of LibriSpeech, Common Voice or LJSpeech; write a "
        "metadata.csv with the columns file_name and transcription"
    )


def _audio_folder_splits(folder: Path, audio_column: str | None) -> RawSplits:
    """Read the audio-folder layout of `datasets`: metadata beside the audio, in the root or in folders per split."""
    metadata = _metadata_file(folder)
    if metadata is None:
        children = sorted(child for child in folder.iterdir() if child.is_dir()) if folder.is_dir() else []
        found = {child.name: _metadata_file(child) for child in children}
        return {name: read_manifest(file, audio_column) for name, file in found.items() if file}
    whole = read_manifest(metadata, audio_column)
    # One metadata file in the root can describe every split by its file names: train/a.wav, test/b.wav.
    tops = [name.split("/")[0] if "/" in name else "" for name in whole["utterance_id"]]
    if all(split_role(top) for top in tops):
        order = dict.fromkeys(tops)
        return {split: whole.select([row for row, top in enumerate(tops) if top == split]) for split in order}
    evaluated = sorted(top for top in set(tops) if split_role(top) in ("validation", "test"))
    if evaluated:
        others = ", ".join(sorted(repr(top) for top in set(tops) if not split_role(top)))
        raise ValueError(
            f"{metadata} names files in {', '.join(evaluated)}, which are not to be trained on, and in {others}, "
            "which name no split; move those into train/, or give a manifest for each split"
        )
    return {"train": whole}


def _metadata_file(folder: Path) -> Path | None:
    names = [f"metadata{suffix}" for suffix in (".csv", ".jsonl", ".parquet")]
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _manifest_splits(folder: Path, audio_column: str | None) -> RawSplits:
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    files = [file for file in files if file.is_file() and file.suffix.lower() in MANIFEST_SUFFIXES]
    return {file.stem: read_manifest(file, audio_column) for file in files if split_role(file.stem)}


def _read_one_split(path: Path, audio_column: str | None) -> Dataset:
    """Read the manifest or the single-split folder that a mapping gives for a split."""
    path = path.expanduser()
    if not path.exists():
        raise ValueError(f"{path}: no such file or folder (looked in {Path.cwd()}); check the path")
    if path.is_file():
        return read_manifest(path, audio_column)
    splits = _read_folder(path, audio_column)
    if len(splits) > 1:
        raise ValueError(f"{path} holds the splits {', '.join(splits)}; name the folder of one of them")
    return next(iter(splits.values()))


def _looks_local(name: str) -> bool:
    return (
        name.startswith((os.sep, ".", "~"))
        or name.count("/") > 1  # a Hub id is name or owner/name
        or os.sep != "/" and os.sep in name
        or Path(name).suffix.lower() in (*MANIFEST_SUFFIXES, ".txt", ".zip", ".wav", ".flac")
    )  # fmt: skip


def open_builder(
    name: str, config_name: str | None, cache_dir: str | os.PathLike | None, token: str | None
) -> DatasetBuilder:
    """Make the builder of a data set of the Hub, or of a folder that is a copy of one."""
    builder = load_dataset_builder(
        name, config_name, cache_dir=None if cache_dir is None else str(cache_dir), token=token
    )
    if hasattr(builder, "BASE_FEATURE"):  # an audio folder
        builder.BASE_FEATURE = UndecodedAudio
    return builder


def _prepare(builder: DatasetBuilder) -> RawSplits:
    builder.download_and_prepare()
    return {split: without_decoding(data) for split, data in builder.as_dataset().items()}
