"""Error counts and metrics against jiwer's own corpus rates and a textbook edit distance."""

import random
import socket

import datasets
import evaluate
import jiwer
import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_speechft.scoring.metrics import CER, WER, ErrorCounts, count_errors, total

WORDS = ["turn", "on", "the", "light", "lights", "off", "kitchen", "ü", "don't"]


@pytest.fixture
def corpus():
    generator = random.Random(0)

    def sentence(minimum):
        return " ".join(generator.choices(WORDS, k=generator.randint(minimum, 12)))

    references = [sentence(1) for _ in range(200)]
    predictions = [sentence(0) for _ in range(200)]
    return references, predictions


@pytest.fixture
def metrics_cache(tmp_path):
    return {"cache_dir": str(tmp_path)}


def edit_distance(reference, prediction):
    """Levenshtein distance by the textbook recurrence, independent of jiwer and rapidfuzz."""
    previous = list(range(len(prediction) + 1))
    for row, expected in enumerate(reference, 1):
        current = [row]
        for column, given_unit in enumerate(prediction, 1):
            current.append(min(previous[column] + 1, current[-1] + 1, previous[column - 1] + (expected != given_unit)))
        previous = current
    return previous[-1]


def test_count_errors_literal_sentence_counts_each_type():
    reference, prediction = "turn on the light in the kitchen", "turn the lights in the small kitchen"
    assert count_errors([reference], [prediction]) == [ErrorCounts(hits=5, substitutions=1, deletions=1, insertions=1)]


def test_count_errors_words_totals_match_jiwer(corpus):
    counted = total(count_errors(*corpus))
    expected = jiwer.process_words(*corpus)
    assert (counted.hits, counted.substitutions, counted.deletions, counted.insertions) == (
        expected.hits,
        expected.substitutions,
        expected.deletions,
        expected.insertions,
    )
    assert counted.rate == jiwer.wer(*corpus)


def test_count_errors_chars_rate_matches_jiwer(corpus):
    assert total(count_errors(*corpus, unit="char")).rate == jiwer.cer(*corpus)


@pytest.mark.parametrize("unit", ["word", "char"])
def test_count_errors_each_utterance_matches_edit_distance(corpus, unit):
    for reference, prediction, counted in zip(*corpus, count_errors(*corpus, unit=unit), strict=True):
        units = (reference.split(), prediction.split()) if unit == "word" else (reference, prediction)
        assert counted.errors == edit_distance(*units)
        assert counted.reference_length == len(units[0])
        assert counted.hits + counted.substitutions + counted.insertions == len(units[1])


@settings(max_examples=100)
@given(st.lists(st.tuples(st.text("ab ", max_size=8), st.text("ab ", max_size=8)), min_size=1, max_size=5))
def test_count_errors_any_text_matches_jiwer(pairs):
    references, predictions = zip(*pairs, strict=True)
    assert total(count_errors(references, predictions)).rate == jiwer.wer(list(references), list(predictions))
    assert total(count_errors(references, predictions, "char")).rate == jiwer.cer(list(references), list(predictions))


def test_count_errors_empty_prediction_deletes_every_word():
    assert count_errors(["a b c"], [""]) == [ErrorCounts(deletions=3)]
    assert count_errors(["a b"], [""], "char") == [ErrorCounts(deletions=3)]


def test_count_errors_empty_reference_only_inserts():
    assert count_errors([""], ["a b"]) == [ErrorCounts(insertions=2)]
    assert count_errors(["", "a b"], ["x", "a b"])[0].rate == 1.0
    assert total(count_errors(["", "a b"], ["x", "a b"])).rate == 0.5


def test_count_errors_only_empty_references_rate_is_insertions():
    counted = total(count_errors(["", ""], ["a b", "c"]))
    assert counted.rate == 3.0 == jiwer.wer(["", ""], ["a b", "c"])


def test_count_errors_both_empty_is_no_error():
    assert count_errors([""], [""]) == [ErrorCounts()]
    assert total(count_errors([""], [""])).rate == 0.0


def test_count_errors_no_utterances_is_empty():
    assert count_errors([], []) == []
    assert total([]) == ErrorCounts()
    assert total([]).rate == 0.0


def test_count_errors_extra_spaces_are_ignored_between_words():
    assert total(count_errors([" turn  on "], ["turn on"])).errors == 0


def test_count_errors_chars_space_is_a_character():
    assert count_errors(["a b"], ["ab"], "char") == [ErrorCounts(hits=2, deletions=1)]


def test_count_errors_script_without_spaces_needs_characters():
    reference, prediction = "打开厨房的灯", "打开厨房灯"
    assert count_errors([reference], [prediction]) == [ErrorCounts(substitutions=1)]
    assert count_errors([reference], [prediction], "char") == [ErrorCounts(hits=5, deletions=1)]


def test_count_errors_is_micro_averaged():
    references, predictions = ["a", "b c d e f g h i j"], ["x", "b c d e f g h i j"]
    assert total(count_errors(references, predictions)).rate == pytest.approx(0.1)


def test_count_errors_different_numbers_raises():
    with pytest.raises(ValueError, match="2 references but 1 predictions; give one prediction per reference"):
        count_errors(["a", "b"], ["a"])


def test_count_errors_unknown_unit_raises():
    with pytest.raises(ValueError, match=r"unit 'phone' is unknown; choose one of \['char', 'word'\]"):
        count_errors(["a"], ["a"], "phone")


def test_count_errors_one_string_raises():
    with pytest.raises(ValueError, match="references is one string 'a b'"):
        count_errors("a b", ["a", "b", "c"])


def test_count_errors_none_raises():
    with pytest.raises(ValueError, match=r"predictions\[1\] is None; a string is needed"):
        count_errors(["a", "b"], ["a", None])


def test_wer_compute_matches_jiwer(corpus, metrics_cache):
    references, predictions = corpus
    result = WER(**metrics_cache).compute(predictions=predictions, references=references)
    assert result == {"wer": jiwer.wer(references, predictions)}


def test_cer_compute_matches_jiwer(corpus, metrics_cache):
    references, predictions = corpus
    result = CER(**metrics_cache).compute(predictions=predictions, references=references)
    assert result == {"cer": jiwer.cer(references, predictions)}


def test_wer_compute_in_batches_equals_whole(corpus, metrics_cache):
    references, predictions = corpus
    metric = WER(**metrics_cache)
    for start in range(0, 200, 30):
        metric.add_batch(references=references[start : start + 30], predictions=predictions[start : start + 30])
    assert metric.compute()["wer"] == jiwer.wer(references, predictions)


def test_wer_in_memory_matches_jiwer(corpus, metrics_cache):
    references, predictions = corpus
    result = WER(keep_in_memory=True, **metrics_cache).compute(predictions=predictions, references=references)
    assert result["wer"] == jiwer.wer(references, predictions)


def test_metrics_combined_give_both_rates(corpus, metrics_cache):
    references, predictions = corpus
    both = evaluate.combine([WER(**metrics_cache), CER(**metrics_cache)])
    assert both.compute(predictions=predictions, references=references) == {
        "wer": jiwer.wer(references, predictions),
        "cer": jiwer.cer(references, predictions),
    }


def test_wer_in_evaluator_matches_jiwer(corpus, metrics_cache, monkeypatch):
    # evaluate 0.4.6 tests a callable against this class, which transformers 5 no longer has.
    monkeypatch.setattr(transformers, "TFPreTrainedModel", type("Absent", (), {}), raising=False)
    references, predictions = (sentences[:20] for sentences in corpus)

    def recognise(paths, **_):
        return [{"text": predictions[int(path)]} for path in paths]

    recognise.task = "automatic-speech-recognition"
    data = datasets.Dataset.from_dict({"path": [str(i) for i in range(20)], "sentence": references})
    result = evaluate.evaluator("automatic-speech-recognition").compute(
        model_or_pipeline=recognise, data=data, metric=WER(**metrics_cache)
    )
    assert result["wer"] == jiwer.wer(references, predictions)


def test_wer_without_network_works(metrics_cache, monkeypatch):
    def refuse(*_):
        raise AssertionError("network used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert WER(**metrics_cache).compute(predictions=["a"], references=["b"]) == {"wer": 1.0}
    assert CER(**metrics_cache).compute(predictions=["a"], references=["b"]) == {"cer": 1.0}
