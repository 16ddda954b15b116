import math

import numpy as np
import pytest

from hf_speechft.decoding.knowledge import HOTWORD_WEIGHT, acoustics_only, gather_knowledge
from hf_speechft.decoding.ngram import NGramLM
from hf_speechft.decoding.units import read_units

UNITS = read_units(["<pad>", "|", "a", "b"], 0)
NOTHING = {
    "lm": None,
    "lm_weight": 0.5,
    "word_bonus": 0.0,
    "unknown_word_score": 0.0,
    "hotwords": None,
    "phrases": None,
}


def test_gather_knowledge_looks_up_every_word_of_the_language_model():
    lm = NGramLM.from_text(["a ab", "b"], 2)
    knowledge = gather_knowledge(UNITS, **NOTHING | {"lm": lm})
    ends = knowledge.lexicon.value[knowledge.lexicon.value >= 0]
    assert sorted(lm.words[word] for word in ends) == ["a", "ab", "b"]  # <s> and the like are not spoken
    unigrams = [math.log(10) * lm.score(word, bos=False, eos=False) for word in lm.words]
    assert knowledge.best_word[0] == pytest.approx(max(unigrams[3:]), abs=1e-5)
    assert knowledge.unknown_score == pytest.approx(unigrams[0], abs=1e-5)


def test_gather_knowledge_gives_hot_words_without_weight_the_default():
    with_default = gather_knowledge(UNITS, **NOTHING | {"hotwords": ["ab"]}).hot_words
    explicit = gather_knowledge(UNITS, **NOTHING | {"hotwords": {"ab": HOTWORD_WEIGHT}}).hot_words
    np.testing.assert_array_equal(with_default.bonus, explicit.bonus)
    assert with_default.bonus.max() == HOTWORD_WEIGHT


def test_gather_knowledge_without_language_model_estimates_none(caplog):
    with caplog.at_level("INFO", logger="hf_speechft"):
        knowledge = gather_knowledge(UNITS, **NOTHING)
    assert not knowledge.has_lm
    assert len(knowledge.lexicon.value) == 1
    assert caplog.text == ""


def test_acoustics_only_keeps_nothing_that_prefers_a_text():
    lm = NGramLM.from_text(["a ab"], 2)
    options = NOTHING | {"lm": lm, "word_bonus": 1.0, "hotwords": ["ab"], "phrases": ["a"]}
    free = acoustics_only(gather_knowledge(UNITS, **options))
    assert not free.has_lm
    assert not free.has_phrases
    assert free.hot_words.bonus.max() == free.word_bonus == free.most_gain == 0.0


def test_gather_knowledge_refuses_words_of_several_characters_where_each_is_a_word():
    units = read_units(["<pad>", "你", "好"], 0)
    with pytest.raises(ValueError, match="2 of the language model's 3 words, such as '你好', are longer; build it"):
        gather_knowledge(units, **NOTHING | {"lm": NGramLM.from_text(["你好 好好 你"], 1)})
    assert gather_knowledge(units, **NOTHING | {"lm": NGramLM.from_text(["你 好 好好"], 1)}).has_lm


@pytest.mark.parametrize("tokens", [["<pad>", "你", "好"], ["<pad>", "▁a", "b▁a▁b"]])
def test_gather_knowledge_with_causal_model_and_no_word_marks_raises(tokens):
    with pytest.raises(ValueError, match="can be fused only with a vocabulary that marks words"):
        gather_knowledge(read_units(tokens, 0), **NOTHING | {"lm": object()})
