import base64
import io
import re

import numpy as np
import pytest
import soundfile

from hf_speechft.apps import audit_page as page_module
from hf_speechft.apps.audit import find_units
from hf_speechft.apps.audit_page import audit_page
from hf_speechft.data.audit import audit_corpus
from hf_speechft.data.corpora import load_corpus
from tests.data.audit_corpora import Corpus, sound


@pytest.fixture
def make_page(tmp_path):
    """Write a changed corpus, audit it, and render the page."""

    def make(change=lambda corpus: None, break_files=lambda folder: None, sample=500):
        flawed = Corpus(tmp_path)
        change(flawed)
        folder = flawed.write()
        break_files(folder)
        corpus = load_corpus(folder, normalizer="none")
        units, _ = find_units(None, None, None)
        return audit_page("my <speech>", audit_corpus(corpus, units, sample=sample), corpus)

    return make


def shift(corpus):
    for number in range(5):
        corpus.set(f"train{number}.wav", samples=sound(1.0 + 3 * number, seed=number) + 0.1)


def embedded(page, kind):
    return [base64.b64decode(content) for content in re.findall(rf'src="data:{kind};base64,([^"]+)"', page)]


def test_audit_page_refers_to_nothing_outside(make_page):
    page = make_page(shift)
    assert not re.search(r"https?:|//[a-z]|<script|<link|@import|url\(", re.sub(r"base64,[^\"]+", "", page))
    sources = re.findall(r'(?:src|href)="([^"]{0,5})', page)
    assert set(sources) == {"data:"}


def test_audit_page_has_plots_and_players_of_the_outliers(make_page):
    page = make_page(shift)
    [plots] = embedded(page, "image/png")
    assert plots.startswith(b"\x89PNG")
    clips = [soundfile.read(io.BytesIO(clip)) for clip in embedded(page, "audio/flac")]
    assert len(clips) >= 5
    assert {rate_hz for _, rate_hz in clips} == {16_000}
    assert max(len(samples) for samples, _ in clips) == 10 * 16_000
    assert min(len(samples) for samples, _ in clips) == 16_000
    assert np.mean(clips[0][0]) == pytest.approx(0.1, abs=0.01)


def test_audit_page_shows_text_as_text(make_page):
    page = make_page(lambda corpus: corpus.set("test1.wav", text="<b>turn</b> & off"))
    assert "&lt;b&gt;turn&lt;/b&gt; &amp; off" in page
    assert "<b>turn" not in page
    assert "Audit of my &lt;speech&gt;" in page


def test_audit_page_of_a_clean_corpus_has_no_section(make_page):
    page = make_page()
    assert "<section" not in page
    assert "clipping: no clipped recordings" in page


def test_audit_page_without_sample_or_sound_is_rendered(make_page):
    page = make_page(break_files=lambda folder: (folder / "train" / "train0.wav").write_text("x"), sample=0)
    assert "1 of 20 files cannot be read" in page
    assert not embedded(page, "audio/flac")


@pytest.mark.parametrize(("name", "value", "players"), [("MAX_PLAYERS", 1, 1), ("MAX_SOUND_BYTES", 10, 0)])
def test_audit_page_bounds_the_players(make_page, monkeypatch, name, value, players):
    def offset(corpus):
        for number in range(3):
            corpus.set(f"train{number}.wav", samples=corpus.rows[f"train{number}.wav"][3] + 0.1)

    monkeypatch.setattr(page_module, name, value)
    page = make_page(offset)
    assert page.count("<tr>") > 3
    assert len(embedded(page, "audio/flac")) == players


def test_audit_page_stays_small_at_its_limits():
    assert page_module.MAX_SOUND_BYTES * 4 / 3 < 18e6
