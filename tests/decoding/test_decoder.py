import dataclasses
import math

import jiwer
import numba
import numpy as np
import pytest
import torch

from hf_speechft.decoding.decoder import CTCDecoder, Hypothesis, Word
from hf_speechft.decoding.ngram import NGramLM
from hf_speechft.decoding.rescoring import Rescoring, rescore
from tests.decoding.brute_force import BLANKS, STYLES, all_hypotheses, random_log_probs

LETTERS = ["<pad>", "|", *"abcdefghijklmnopqrstuvwxyz"]


def spoken(text, *, doubt=0.05, steps_each=2, tokens=LETTERS, seed=0):
    """Log-probabilities `(1, steps, vocab)` of a model that hears `text`, with some doubt."""
    ids = [tokens.index(character) for character in text.replace(" ", "|")]
    rows = []
    for token in ids:
        rows += [token] * steps_each + [0]
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.full(len(tokens), 0.3), size=len(rows)) * doubt
    probabilities[np.arange(len(rows)), rows] += 1 - doubt
    return np.log(probabilities)[None].astype(np.float32)


def mixed(*texts_and_weights, **options):
    """The mean of what several texts of the same length look like, by weight."""
    total = sum(weight * np.exp(spoken(text, **options)) for text, weight in texts_and_weights)
    return np.log(total / sum(weight for _, weight in texts_and_weights)).astype(np.float32)


def texts(hypotheses):
    return [hypothesis.text for hypothesis in hypotheses]


@pytest.mark.parametrize("style", STYLES)
def test_decode_nbest_matches_brute_force_texts(style):
    log_probs = random_log_probs(np.random.default_rng(11), 4, len(STYLES[style]), batch=3)
    decoder = CTCDecoder(
        STYLES[style], BLANKS[style], beam_width=100_000, token_min_logp=-np.inf, beam_prune_logp=-np.inf
    )
    separator = "" if style == "no word marks" else " "
    for row, hypotheses in enumerate(decoder.decode(log_probs, nbest=4)):
        expected = list(dict.fromkeys(separator.join(one[4]) for one in all_hypotheses(log_probs[row], style)))
        assert texts(hypotheses) == expected[:4]


def test_decode_takes_numpy_and_torch_of_any_float_type():
    decoder = CTCDecoder(LETTERS, 0)
    log_probs = spoken("turn on")
    tensor = torch.from_numpy(log_probs)
    for given in (log_probs, log_probs.astype(np.float64), tensor, tensor.half(), tensor.bfloat16()):
        assert texts(decoder.decode(given)[0]) == ["turn on"]


def test_decode_of_padded_batch_is_invariant_to_padding():
    decoder = CTCDecoder(LETTERS, 0)
    short, long = spoken("on"), spoken("turn the light on")
    padded = np.full_like(long, math.log(1 / len(LETTERS)))
    padded[:, : short.shape[1]] = short
    alone = decoder.decode(short, nbest=3)[0]
    for lengths in ([short.shape[1], long.shape[1]], torch.tensor([short.shape[1], long.shape[1]])):
        batch = decoder.decode(np.concatenate([padded, long]), lengths, nbest=3)
        assert batch[0] == alone
        assert batch[1][0].text == "turn the light on"


def test_decode_on_one_thread_and_on_several_gives_the_same():
    log_probs = random_log_probs(np.random.default_rng(0), 40, len(LETTERS), batch=6)
    decoder = CTCDecoder(LETTERS, 0, beam_width=8)
    several = decoder.decode(log_probs, nbest=2)
    threads = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        assert decoder.decode(log_probs, nbest=2) == several
    finally:
        numba.set_num_threads(threads)


def test_decode_words_have_the_steps_in_which_they_are_heard():
    decoder = CTCDecoder(LETTERS, 0)
    (hypothesis,) = decoder.decode(spoken("turn on", doubt=0.01, steps_each=2))[0]
    # Three steps a character, the third of them blank: "turn" in 0 to 10, the space in 12, "on" in 15 to 19.
    assert [dataclasses.astuple(word)[:3] for word in hypothesis.words] == [("turn", 0, 11), ("on", 15, 20)]
    assert all(word.confidence > 0.99 for word in hypothesis.words)


def test_decode_word_confidence_is_the_probability_of_the_word():
    log_probs = mixed(("go left", 0.7), ("go lift", 0.3), steps_each=1, doubt=0.001)
    (hypothesis,) = CTCDecoder(LETTERS, 0).decode(log_probs)[0]
    assert hypothesis.text == "go left"
    assert [word.confidence for word in hypothesis.words] == pytest.approx([1.0, 0.7], abs=0.01)


def test_decode_of_nothing_is_an_empty_hypothesis():
    decoder = CTCDecoder(LETTERS, 0)
    (hypothesis,) = decoder.decode(np.zeros((1, 0, len(LETTERS)), np.float32))[0]
    assert hypothesis == Hypothesis("", [], 0.0, 0.0, 0.0, [])
    assert decoder.decode(np.zeros((0, 5, len(LETTERS)), np.float32)) == []


def test_decode_with_language_model_prefers_what_people_say():
    log_probs = mixed(("turn the heat on", 0.45), ("turn the heap on", 0.55))
    lm = NGramLM.from_text(["turn the heat on", "turn the light on", "turn it off"], 3)
    assert texts(CTCDecoder(LETTERS, 0).decode(log_probs)[0]) == ["turn the heap on"]
    (hypothesis,) = CTCDecoder(LETTERS, 0, lm=lm, lm_weight=0.5).decode(log_probs)[0]
    assert hypothesis.text == "turn the heat on"
    assert hypothesis.lm_score == pytest.approx(math.log(10) * lm.score("turn the heat on"), rel=1e-5)
    assert hypothesis.score == pytest.approx(hypothesis.acoustic_score + 0.5 * hypothesis.lm_score, rel=1e-6)


def test_decode_with_hot_words_finds_a_rare_name():
    log_probs = mixed(("call zoltan now", 0.3), ("call sultan now", 0.7))
    assert texts(CTCDecoder(LETTERS, 0).decode(log_probs)[0]) == ["call sultan now"]
    assert texts(CTCDecoder(LETTERS, 0, hotwords=["zoltan"]).decode(log_probs)[0]) == ["call zoltan now"]
    assert texts(CTCDecoder(LETTERS, 0, hotwords={"zoltan": 0.1}).decode(log_probs)[0]) == ["call sultan now"]
    assert texts(CTCDecoder(LETTERS, 0, hotwords=["call zoltan now"]).decode(log_probs)[0]) == ["call zoltan now"]


PHRASES = ["lights on", "lights off", "open the door"]
GRAMMAR = "#JSGF V1.0; grammar home; public <command> = lights (on | off) | open the door;"


@pytest.mark.parametrize("phrases", [PHRASES, GRAMMAR])
def test_decode_with_phrases_gives_only_these_and_scores_the_rest(phrases):
    decoder = CTCDecoder(LETTERS, 0, phrases=phrases, beam_width=8)
    known = decoder.decode(spoken("lights off", doubt=0.3))[0][0]
    near = decoder.decode(spoken("light off", doubt=0.3))[0][0]
    other = decoder.decode(spoken("play some music", doubt=0.3))[0][0]
    assert (known.text, near.text) == ("lights off", "lights off")
    assert other.text in PHRASES
    assert known.rejection_score < 0.1 < near.rejection_score < other.rejection_score
    assert CTCDecoder(LETTERS, 0).decode(spoken("lights off"))[0][0].rejection_score is None


def test_decode_with_phrases_widens_a_beam_that_ends_inside_them():
    log_probs = spoken("zzzzzzzzzzzz", doubt=0.2)
    decoder = CTCDecoder(LETTERS, 0, phrases=["abcdef", "abcdefg"], beam_width=1)
    assert texts(decoder.decode(log_probs)[0])[0] in ("abcdef", "abcdefg")


def test_decode_with_phrases_of_sound_too_short_for_any_is_rejected():
    (hypothesis,) = CTCDecoder(LETTERS, 0, phrases=["lights on"], beam_width=4).decode(spoken("a"))[0]
    assert (hypothesis.text, hypothesis.rejection_score) == ("", math.inf)


def test_decode_in_language_without_spaces_uses_characters_as_words():
    tokens = ["<pad>", "你", "好", "号"]
    lm = NGramLM.from_text(["你 好", "你 好 你 好"], 2)
    log_probs = np.log(np.array([[[0.1, 0.7, 0.1, 0.1], [0.1, 0.1, 0.35, 0.45]]]))
    assert texts(CTCDecoder(tokens, 0).decode(log_probs)[0]) == ["你号"]
    (hypothesis,) = CTCDecoder(tokens, 0, lm=lm, hotwords=["你好"]).decode(log_probs)[0]
    assert hypothesis.text == "你好"
    assert [(word.text, word.start_step, word.end_step) for word in hypothesis.words] == [("你", 0, 1), ("好", 1, 2)]


@pytest.mark.parametrize("style", ["delimiter", "sentencepiece"])
def test_save_pretrained_round_trips(style, tmp_path):
    lm = NGramLM.from_text(["a b", "ab a"], 2)
    decoder = CTCDecoder(
        STYLES[style], BLANKS[style], lm=lm, lm_weight=0.7, word_bonus=0.3, hotwords={"ab": 2.0}, beam_width=9
    )
    decoder.save_pretrained(tmp_path / "decoder")
    loaded = CTCDecoder.from_pretrained(tmp_path / "decoder")
    log_probs = random_log_probs(np.random.default_rng(1), 20, len(STYLES[style]), batch=2)
    assert loaded.decode(log_probs, nbest=5) == decoder.decode(log_probs, nbest=5)
    assert CTCDecoder.from_pretrained(tmp_path / "decoder", hotwords=None, beam_width=2).hotwords is None


def test_with_weights_matches_a_decoder_made_with_them():
    lm = NGramLM.from_text(["a b", "ab a"], 2)
    options = {"lm": lm, "hotwords": {"ab": 2.0}}
    log_probs = random_log_probs(np.random.default_rng(1), 20, 4, batch=2)
    decoder = CTCDecoder(STYLES["delimiter"], 0, **options)
    before = decoder.decode(log_probs, nbest=5)
    expected = CTCDecoder(STYLES["delimiter"], 0, lm_weight=1.3, word_bonus=0.9, unknown_word_score=-1.5, **options)
    assert decoder.with_weights(lm_weight=1.3, word_bonus=0.9, unknown_word_score=-1.5).decode(
        log_probs, nbest=5
    ) == expected.decode(log_probs, nbest=5)
    assert decoder.decode(log_probs, nbest=5) == before
    with pytest.raises(ValueError, match="word_bonus is inf; it needs to be a finite number"):
        decoder.with_weights(word_bonus=math.inf)


def test_from_processor_takes_a_wav2vec2_tokenizer(tmp_path):
    import json

    from transformers import Wav2Vec2CTCTokenizer

    units = ["<pad>", "<s>", "</s>", "<unk>", "_", *"ABC"]
    (tmp_path / "vocab.json").write_text(json.dumps({unit: place for place, unit in enumerate(units)}))
    tokenizer = Wav2Vec2CTCTokenizer(str(tmp_path / "vocab.json"), word_delimiter_token="_")
    decoder = CTCDecoder.from_processor(tokenizer)
    assert decoder.tokens == ["<pad>", "", "", "", "|", "A", "B", "C"]
    assert decoder.blank_id == 0
    log_probs = spoken("A BC", tokens=["<pad>", "<s>", "</s>", "<unk>", "|", "A", "B", "C"])
    assert texts(decoder.decode(log_probs)[0]) == ["A BC"] == [tokenizer.decode(log_probs[0].argmax(-1))]


def test_from_processor_without_padding_token_raises():
    class Tokenizer:
        pad_token_id = None

    with pytest.raises(ValueError, match="no padding token to be the CTC blank; give blank_id="):
        CTCDecoder.from_processor(Tokenizer())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beam_width": 0}, "beam_width is 0; it needs to be 1 or more"),
        ({"lm_weight": math.nan}, "lm_weight is nan; it needs to be a finite number"),
        ({"token_min_logp": 1.0}, "token_min_logp is 1.0; log-probabilities are 0 or less"),
        ({"beam_prune_logp": 1.0}, "beam_prune_logp is 1.0; it is a distance below the best score, 0 or less"),
        ({"unknown_word_score": 1.0}, "unknown_word_score is 1.0; it is added for each unknown word"),
        ({"unknown_word_score": -np.inf}, "unknown_word_score is -inf; .* needs to be a finite number, 0 or less"),
        ({"hotwords": "zoltan"}, "hotwords is one string 'zoltan'; give a list"),
        ({"hotwords": ["Zoltán"]}, "hot word 'Zoltán' cannot be written .* lacks 'Z', 'á'"),
        ({"hotwords": [""]}, "hot word '' cannot be written"),
        ({"phrases": []}, "phrases is an empty list"),
        ({"phrases": ["on", "OFF"]}, "phrase 'OFF' cannot be written"),
        ({"phrases": "#JSGF V1.0; grammar g; public <a> = on | Off;"}, "phrase 'Off' cannot be written"),
    ],
)
def test_decoder_of_unusable_options_raises(options, message):
    with pytest.raises(ValueError, match=message):
        CTCDecoder(LETTERS, 0, **options)


def test_decoder_with_language_model_of_another_case_raises():
    with pytest.raises(ValueError, match="none of the language model's 2 words, such as 'TURN', can be written"):
        CTCDecoder(LETTERS, 0, lm=NGramLM.from_text(["TURN ON"], 2))


def test_decode_of_unusable_log_probs_raises():
    decoder = CTCDecoder(LETTERS, 0)
    log_probs = spoken("on")
    with_nan = np.concatenate([log_probs, log_probs])
    with_nan[1, 2, 3] = np.nan
    cases = [
        (log_probs[0], None, r"shape \(\d+, 28\); it needs to be \(batch, steps, vocab\)"),
        (log_probs[..., :-1], None, "27 columns and the decoder 28 tokens"),
        (log_probs + 3, None, "utterance 0: the probabilities of step 0 sum to 20.09; .* apply log_softmax"),
        (np.exp(log_probs), None, "each step needs a sum of 1"),
        (with_nan, None, "utterance 1 holds NaN, first in step 2"),
        (log_probs, [99], "lengths is .99.; it needs 1 numbers of steps from 0 to 6"),
        (log_probs, [1, 2], "it needs 1 numbers"),
    ]
    for given, lengths, message in cases:
        with pytest.raises(ValueError, match=message):
            decoder.decode(given, lengths)
    with pytest.raises(ValueError, match="nbest is 0"):
        decoder.decode(log_probs, nbest=0)


def test_decode_ignores_what_is_behind_an_utterances_end():
    log_probs = spoken("on")
    log_probs = np.concatenate([log_probs, np.full_like(log_probs, np.nan)], axis=1)
    assert texts(CTCDecoder(LETTERS, 0).decode(log_probs, [6])[0]) == ["on"]


def test_word_is_a_frozen_record():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Word("on", 0, 1, 0.5).text = "off"


def test_beam_search_is_at_least_as_probable_as_the_best_path():
    """On noisy logits, the beam's text is closer to the truth than the best path's in sum."""
    decoder = CTCDecoder(LETTERS, 0)
    reference = "open the garage door"
    hypotheses = [decoder.decode(spoken(reference, doubt=0.8, seed=seed))[0][0].text for seed in range(10)]
    greedy = []
    for seed in range(10):
        best = spoken(reference, doubt=0.8, seed=seed)[0].argmax(-1)
        collapsed = [token for place, token in enumerate(best) if token and (place == 0 or best[place - 1] != token)]
        greedy.append("".join(LETTERS[token] for token in collapsed).replace("|", " "))
    assert jiwer.cer([reference] * 10, hypotheses) <= jiwer.cer([reference] * 10, greedy)


class LikesB:
    """A language model that prefers texts that begin with b."""

    name_or_path = "likes-b"

    def score(self, texts):
        return np.array([0.0 if text.startswith("b") else -4.0 for text in texts])


def test_decode_with_rescoring_puts_the_hypotheses_in_the_order_of_rescore():
    log_probs = random_log_probs(np.random.default_rng(4), 6, 4, batch=3)
    plain = CTCDecoder(STYLES["delimiter"], 0)
    expected = rescore(plain.decode(log_probs, nbest=5), LikesB(), weight=2.0, word_bonus=0.3)
    rescored = plain.with_rescoring(Rescoring(LikesB(), 2.0, 0.3, nbest=5))
    assert rescored.decode(log_probs, nbest=2) == [best[:2] for best in expected]
    assert rescored.decode(log_probs) != plain.decode(log_probs)
    assert rescored.with_rescoring(None).decode(log_probs) == plain.decode(log_probs)
