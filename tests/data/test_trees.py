"""Publishers' folders: LibriSpeech, Common Voice and LJSpeech, as they come out of their archives."""

import numpy as np
import pytest
import soundfile
import torchaudio

from hf_speechft.data.corpora import load_corpus
from hf_speechft.data.readers import read_source
from hf_speechft.data.trees import read_tree


def write_clip(path, rate_hz=16_000, duration_s=0.1):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.full(round(duration_s * rate_hz), 0.1), rate_hz)


def common_voice(language, splits=("train", "dev", "test")):
    """Write a language of a release: three clips in each split."""
    header = "client_id\tpath\tsentence_id\tsentence\tup_votes\tdown_votes\tage\tgender\taccents\tlocale\tsegment"
    for split in (*splits, "validated"):
        lines = [header]
        for number in range(3):
            name = f"common_voice_sw_{split}{number}.wav"
            if split != "validated":
                write_clip(language / "clips" / name, 48_000)
            sentence = ('"Habari" ya asubuhi, bwana.', "Ndiyo!", 'Alisema: "sawa')[number]
            lines.append(f"speaker-{split}-{number % 2}\t{name}\tid\t{sentence}\t2\t0\t\t\t\tsw\t")
        (language / f"{split}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return language


def ljspeech(folder):
    lines = []
    for number, (written, spoken) in enumerate(
        [("In 1810, “we” left.", "In eighteen ten, “we” left."), ("So", "")] * 5
    ):
        write_clip(folder / "wavs" / f"LJ001-{number:04d}.wav", 22_050)
        lines.append(f"LJ001-{number:04d}|{written}|{spoken}")
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def test_read_tree_common_voice_keeps_quotes_speakers_and_splits(tmp_path):
    splits = read_tree(common_voice(tmp_path / "sw"))
    assert list(splits) == ["train", "dev", "test"]
    assert splits["dev"]["sentence"][:] == ['"Habari" ya asubuhi, bwana.', "Ndiyo!", 'Alisema: "sawa']
    assert splits["dev"]["client_id"][:] == ["speaker-dev-0", "speaker-dev-1", "speaker-dev-0"]
    assert {"age", "gender", "accents", "locale"} <= set(splits["train"].column_names)  # classes to balance
    assert splits["dev"]["utterance_id"][0] == "common_voice_sw_dev0.wav"
    assert splits["dev"][0]["audio"]["path"] == str(tmp_path / "sw" / "clips" / "common_voice_sw_dev0.wav")


def test_load_corpus_common_voice_release_folder_of_one_language_is_read(tmp_path):
    common_voice(tmp_path / "cv-corpus" / "sw")
    corpus = load_corpus(tmp_path / "cv-corpus")
    assert {name: len(split) for name, split in corpus.items()} == {"train": 3, "validation": 3, "test": 3}
    assert corpus["train"]["text"][:] == ["habari ya asubuhi bwana", "ndiyo", "alisema sawa"]
    assert corpus["train"]["duration_s"][:] == pytest.approx([0.1] * 3)
    assert set(corpus["test"]["speaker_id"]) == {"speaker-test-0", "speaker-test-1"}


def test_read_tree_common_voice_of_several_languages_raises_naming_them(tmp_path):
    for language in ("am", "sw"):
        common_voice(tmp_path / language)
    with pytest.raises(ValueError, match="several languages of Common Voice: am, sw; give the path of one"):
        read_tree(tmp_path)


def test_load_corpus_ljspeech_takes_the_transcript_in_words(tmp_path):
    corpus = load_corpus(ljspeech(tmp_path / "LJSpeech-1.1"), normalizer="none")
    rows = sorted((row["utterance_id"], row["text"]) for split in corpus.values() for row in split)
    assert len(rows) == 10
    assert rows[0] == ("LJ001-0000", "In eighteen ten, “we” left.")
    assert rows[1] == ("LJ001-0001", "So")
    assert set(corpus["train"]["speaker_id"]) == {"LJSpeech-1.1"}


def test_read_tree_ljspeech_matches_torchaudio(tmp_path):
    ljspeech(tmp_path / "LJSpeech-1.1")
    reference = torchaudio.datasets.LJSPEECH(tmp_path)
    split = read_tree(tmp_path / "LJSpeech-1.1")["train"]
    # The reader of torchaudio decodes in its `__getitem__`, hence its table.
    assert [row[0] for row in reference._flist] == split["utterance_id"][:]
    assert [row[2] or row[1] for row in reference._flist] == split["text"][:]


def test_read_tree_common_voice_matches_torchaudio(tmp_path):
    common_voice(tmp_path / "sw")
    split = read_tree(tmp_path / "sw")["train"]
    reference = torchaudio.datasets.COMMONVOICE(tmp_path / "sw", tsv="train.tsv")
    names = {name: index for index, name in enumerate(reference._header)}
    assert [row[names["path"]] for row in reference._walker] == split["utterance_id"][:]
    assert [row[names["client_id"]] for row in reference._walker] == split["client_id"][:]


def test_read_tree_ljspeech_line_without_a_bar_raises_naming_it(tmp_path):
    folder = ljspeech(tmp_path)
    with (folder / "metadata.csv").open("a") as file:
        file.write("LJ001-0010 no bar\n")
    with pytest.raises(ValueError, match=r"metadata\.csv, line 11, has no '\|'"):
        read_tree(folder)


def test_read_tree_other_folders_have_no_splits(tmp_path):
    (tmp_path / "wavs").mkdir()
    (tmp_path / "metadata.csv").write_text("file_name,transcription\nwavs/a.wav,one\n")
    assert read_tree(tmp_path) == {}


@pytest.mark.parametrize(
    ("name", "command"),
    [("train-clean-100.tar.gz", "tar -xf {path} -C {folder}"), ("speech.zip", "unzip -q {path} -d {folder}")],
)
def test_read_source_packed_archive_raises_with_the_command_to_unpack_it(name, command, tmp_path):
    path = tmp_path / name
    path.write_bytes(b"packed")
    with pytest.raises(ValueError, match="is a packed archive") as error:
        read_source(path)
    assert command.format(path=path, folder=tmp_path) in str(error.value)
