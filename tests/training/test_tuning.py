import numpy as np
import pytest
from datasets import Dataset

from hf_speechft.decoding import CTCDecoder, NGramLM
from hf_speechft.decoding.decoder import Hypothesis
from hf_speechft.training.tuning import (
    LM_WEIGHTS,
    TUNING_UTTERANCES,
    WORD_BONUSES,
    decode_batch,
    tune_decoder,
    tune_rescoring,
    tuning_sample,
)

TOKENS = ["<pad>", "|", "a", "b", "c"]


def heard(*options):
    """Log-probabilities of `a|x`, in which x is heard as each of the options with its probability."""
    rows = np.full((3, len(TOKENS)), 0.001)
    rows[0, 2] = rows[1, 1] = 1.0
    for token, probability in options:
        rows[2, TOKENS.index(token)] = probability
    return np.log(rows / rows.sum(axis=1, keepdims=True)).astype(np.float32)


# "a c" sounds a little more like "a b"; the language model knows "a c" only.
BATCHES = [[heard(("b", 0.6), ("c", 0.4))], [heard(("b", 0.6), ("c", 0.4)), heard(("c", 1.0))[:1]]]
LM = NGramLM.from_text(["a c"] * 5 + ["a", "c b"], 2)


def test_tune_decoder_finds_the_smallest_weights_of_the_fewest_errors():
    decoder = CTCDecoder(TOKENS, 0, lm=LM)
    references = ["a c", "a c", "a"]
    found, wer = tune_decoder(decoder, BATCHES, references)
    assert wer == 0.0
    rates = {}
    for weight in LM_WEIGHTS:
        for bonus in WORD_BONUSES:
            candidate = CTCDecoder(TOKENS, 0, lm=LM, lm_weight=weight, word_bonus=bonus)
            texts = [nbest[0].text for batch in BATCHES for nbest in decode_batch(candidate, batch)]
            rates[weight, bonus] = sum(text != reference for text, reference in zip(texts, references, strict=True))
    allowed = [pair for pair, rate in rates.items() if rate == 0 and pair[1] <= 4 * pair[0]]
    assert (found.lm_weight, found.word_bonus) == min(allowed)
    assert found.lm_weight > 0


def test_tune_decoder_counts_characters_where_the_vocabulary_marks_no_words():
    """No weight makes a whole sentence right, and one makes more of its characters right."""
    tokens = ["<pad>", "你", "好", "号", "吗"]
    rows = np.full((3, len(tokens)), 0.001)
    rows[0, 1] = rows[2, 4] = 1.0
    rows[1, 3], rows[1, 2] = 0.6, 0.4
    log_probs = np.log(rows / rows.sum(axis=1, keepdims=True)).astype(np.float32)
    decoder = CTCDecoder(tokens, 0, lm=NGramLM.from_text(["你 好 吗"] * 5 + ["号"], 2))
    found, rate = tune_decoder(decoder, [[log_probs]], ["你好了"])
    assert found.lm_weight > 0
    assert found.decode(log_probs[None])[0][0].text == "你好吗"
    assert rate == pytest.approx(1 / 3)


def test_tune_decoder_gives_a_useless_language_model_no_weight():
    found, wer = tune_decoder(CTCDecoder(TOKENS, 0, lm=LM), BATCHES, ["a b", "a b", "a"])
    assert (found.lm_weight, found.word_bonus, found.unknown_word_score, wer) == (0.0, 0.0, 0.0, 0.0)


def test_tune_decoder_finds_the_score_of_unknown_words():
    """ "b" is unknown: right where it is heard clearly, by 3.5, and wrong where it is heard hardly better than "c"."""
    known = NGramLM.from_text(["a c", "c a", "a a c"], 1)
    clearly, hardly = heard(("b", 0.97), ("c", 0.03)), heard(("b", 0.6), ("c", 0.4))
    found, wer = tune_decoder(CTCDecoder(TOKENS, 0, lm=known), [[hardly, hardly, clearly]], ["a c", "a c", "a b"])
    assert found.lm_weight > 0
    assert (found.unknown_word_score, wer) == (-2.0, 0.0)
    found, wer = tune_decoder(CTCDecoder(TOKENS, 0, lm=known), [[hardly, clearly]], ["a c", "a c"])
    assert (found.unknown_word_score, wer) == (-5.0, 0.0)  # the default is as good as -10


class Scorer:
    """A language model that likes short words."""

    def score(self, texts):
        return np.array([-2.0 * len(text) for text in texts])


def hypothesis(text, score):
    return Hypothesis(text, [], score, score, 0.0, [])


def test_tune_rescoring_finds_the_smallest_weight_of_the_fewest_errors():
    nbest = [[hypothesis("long", -1.0), hypothesis("on", -2.0)], [hypothesis("up", -1.0)]]
    # "on" comes first where -2 - 4 w > -1 - 8 w: from w = 0.25 on.
    found, wer = tune_rescoring(nbest, Scorer(), ["on", "up"])
    assert (found.weight, found.word_bonus, wer) == (0.3, 0.0, 0.0)
    assert [best[0].text for best in found.reorder(nbest)] == ["on", "up"]


def test_decode_batch_pads_without_changing_results():
    decoder = CTCDecoder(TOKENS, 0)
    together = decode_batch(decoder, BATCHES[1], 3)
    alone = [decode_batch(decoder, [log_probs], 3)[0] for log_probs in BATCHES[1]]
    assert together == alone
    assert decode_batch(decoder, []) == []


@pytest.mark.parametrize("size", [3, TUNING_UTTERANCES + 50])
def test_tuning_sample_keeps_the_order_and_at_most_so_many(size):
    rows = tuning_sample(Dataset.from_dict({"index": list(range(size))}))["index"][:]
    assert len(rows) == min(size, TUNING_UTTERANCES)
    assert rows == sorted(set(rows))
