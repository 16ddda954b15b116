"""Corpora as their publishers lay them out: the folders of LibriSpeech, Common Voice and LJSpeech.

`torchaudio.datasets` has readers of all three; they are not used, because each decodes a clip where its transcript is
read, gives LibriSpeech's splits one by one, takes no copy of Common Voice with other files than its own, and splits a
line of it at quotation marks. What is read here is text: 100,000 transcripts take seconds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datasets import Dataset, concatenate_datasets

from hf_speechft.data.manifests import parse_manifest
from hf_speechft.data.raw_splits import RawSplits, name_audio_files

ARCHIVE_SUFFIXES = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".zip")
COMMON_VOICE_SPLITS = ("train", "dev", "test")  # validated.tsv holds all of them again, other.tsv what nobody checked


def read_tree(folder: Path) -> RawSplits:
    """Read a folder of one of these corpora; there are no splits in any other.

    Raises:
        ValueError: It is a release of Common Voice with several languages, or a file of it cannot be parsed.
    """
    for root in (folder, folder / "LibriSpeech"):
        librispeech = _read_librispeech(root)
        if librispeech:
            return librispeech
    return _read_common_voice(folder) or _read_ljspeech(folder)


def refuse_archive(path: Path) -> None:
    """Say how to unpack an archive, such as those of OpenSLR: compressed as a whole, it can only be read in a row.

    Raises:
        ValueError: The path is that of an archive.
    """
    name = path.name.lower()
    if not name.endswith(ARCHIVE_SUFFIXES):
        return
    # What OpenSLR 12 packs is LibriSpeech/train-clean-100/...; others name the folder as the archive.
    command = f"unzip -q {path} -d {path.parent}" if name.endswith(".zip") else f"tar -xf {path} -C {path.parent}"
    raise ValueError(f"{path} is a packed archive; unpack it with `{command}` and give the folder that it makes")


def _read_librispeech(root: Path) -> RawSplits:
    """Read the tree that OpenSLR 12 unpacks to.

    `<split>/<speaker>/<chapter>/<speaker>-<chapter>.trans.txt` with flac files beside it. The splits keep their
    names, and train-* together are also "train", dev-* "validation", test-clean (or the only test) "test".
    """
    folders = [root, *sorted(child for child in root.glob("*") if child.is_dir())]
    splits = {folder.name: split for folder in folders if (split := _read_librispeech_split(folder)) is not None}
    if not splits:
        return {}
    if list(splits) == [root.name]:
        return {"train": splits[root.name]}  # the path of one split: it is cut into three
    groups = {
        "train": [name for name in splits if name.startswith("train-")],
        "validation": [name for name in splits if name.startswith("dev-")],
        "test": [name for name in splits if name == "test-clean"] or [n for n in splits if n.startswith("test-")],
    }
    groups = {split: names for split, names in groups.items() if names}
    return splits | {split: concatenate_datasets([splits[name] for name in names]) for split, names in groups.items()}


def _read_librispeech_split(folder: Path) -> Dataset | None:
    files = sorted(folder.glob("*/*/*.trans.txt"))
    if not files:
        return None
    values: dict[str, list[Any]] = {"audio": [], "text": [], "speaker_id": []}
    names = []
    for file in files:
        for line in file.read_text(encoding="utf-8").split("\n"):
            name, _, text = line.strip().partition(" ")
            if name:
                names.append(name)
                values["audio"].append(str(file.parent / f"{name}.flac"))
                values["text"].append(text)
                values["speaker_id"].append(file.parent.parent.name)
    return name_audio_files(values, "audio", names)


def _read_common_voice(folder: Path) -> RawSplits:
    """Read a language of a release: `{train,dev,test}.tsv` with `path` and `sentence`, and `clips/` beside them.

    `client_id` is the speaker; no speaker is in two of the splits.
    """
    languages = [child.parent for child in sorted(folder.glob("*/clips")) if _has_common_voice_tables(child.parent)]
    if len(languages) > 1:
        names = ", ".join(language.name for language in languages)
        raise ValueError(f"{folder} holds several languages of Common Voice: {names}; give the path of one of them")
    root = folder if _has_common_voice_tables(folder) else next(iter(languages), None)
    if root is None:
        return {}
    tables = {name: root / f"{name}.tsv" for name in COMMON_VOICE_SPLITS}
    return {name: _read_common_voice_split(table) for name, table in tables.items() if table.is_file()}


def _has_common_voice_tables(folder: Path) -> bool:
    tables = [folder / f"{name}.tsv" for name in COMMON_VOICE_SPLITS]
    if not (folder / "clips").is_dir():
        return False
    headers = [table.open(encoding="utf-8").readline().split("\t") for table in tables if table.is_file()]
    return any({"client_id", "path", "sentence"} <= set(header) for header in headers)


def _read_common_voice_split(table: Path) -> Dataset:
    rows = parse_manifest(table)
    names = [row["path"] for row in rows]
    columns = [name for name in rows[0] if name != "path"] if rows else ["sentence", "client_id"]
    values = {name: [row[name] for row in rows] for name in columns}  # accents and the like, too
    values["audio"] = [str(table.parent / "clips" / name) for name in names]
    return name_audio_files(values, "audio", names)


def _read_ljspeech(folder: Path) -> RawSplits:
    """Read LJSpeech: `metadata.csv` with `id|transcript|transcript with numbers in words`, and `wavs/`.

    There is one speaker and one split; the transcript in words is the one that is used.
    """
    table = folder / "metadata.csv"
    if not table.is_file() or not (folder / "wavs").is_dir():
        return {}
    lines = [line for line in table.read_text(encoding="utf-8-sig").split("\n") if line.strip()]
    rows = [line.rstrip("\r").split("|") for line in lines]
    if not rows or len(rows[0]) < 2:
        return {}  # an audio folder of another kind
    short = next((number for number, row in enumerate(rows, 1) if len(row) < 2), None)
    if short is not None:
        raise ValueError(f"{table}, line {short}, has no '|'; each line of LJSpeech is id|transcript|normalised one")
    values = {
        "audio": [str(folder / "wavs" / f"{row[0]}.wav") for row in rows],
        "text": [row[2] if len(row) > 2 and row[2] else row[1] for row in rows],
        "speaker_id": [folder.name] * len(rows),
    }
    return {"train": name_audio_files(values, "audio", [row[0] for row in rows])}
