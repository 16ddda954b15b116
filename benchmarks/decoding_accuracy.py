"""How many errors beam search, an n-gram model, rescoring and command lists take off greedy decoding.

Claim: a 4-gram of the training transcripts takes 15 % or more off the greedy word error rate of AN4's test set. With
`--demo_model` it also measures what a list of the allowed commands leaves of the sentence errors of the demo's test
set (the aim is a third). Weights are chosen on the validation split. Run from the project's root with trained models,
that of AN4 made as benchmarks/decoding.py says:

    python -m benchmarks.decoding_accuracy --pair runs/an4_char ../shared/data/an4 --demo_model runs/demo
"""

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jiwer
import numpy as np

from benchmarks.emissions import Emissions, Recogniser
from benchmarks.measure import write_results
from hf_speechft.data.demo import list_sentences
from hf_speechft.decoding import CTCDecoder, Hypothesis, NGramLM
from hf_speechft.decoding.rescoring import SentenceScorer
from hf_speechft.scoring.bootstrap import bootstrap_interval, paired_bootstrap
from hf_speechft.scoring.metrics import ErrorCounts, count_errors, total
from hf_speechft.training.tuning import (
    LM_WEIGHTS,
    NBEST,
    RESCORING_WEIGHTS,
    UNKNOWN_WORD_SCORES,
    WORD_BONUSES,
    tune_decoder,
    tune_rescoring,
)

ORDER = 4
BEAM = 32
CONFIDENCE_GROUPS = 5


def listed(numbers: Sequence[float]) -> str:
    return ", ".join(f"{number:g}" for number in numbers)


NOTES = [
    "Intervals: 95 %, bootstrap over utterances. WER change: against greedy, in points, with the interval of the "
    "paired bootstrap, and relative.",
    f"{ORDER}-gram: modified Kneser-Ney from the training transcripts. Weights are those with the fewest word errors "
    f"on the validation split, found as `hf-speechft tune` does: lm_weight of {listed(LM_WEIGHTS)}, word_bonus of "
    f"{listed(WORD_BONUSES)}, unknown_word_score of {listed(UNKNOWN_WORD_SCORES)}, and for rescoring "
    f"{listed(RESCORING_WEIGHTS)}.",
    "Phrases on demo: all sentences of its grammar, those of the test split among them.",
]

Texts = list[str]


def best_texts(found: list[list[Hypothesis]]) -> Texts:
    return [hypotheses[0].text for hypotheses in found]


def greedy(emissions: Emissions) -> Texts:
    """Take the likeliest token of each step, as the model's card does."""
    texts = []
    for row, steps in zip(emissions.log_probs, emissions.lengths, strict=True):
        tokens = [emissions.tokens[token_id] for token_id, _ in itertools.groupby(row[:steps].argmax(-1)) if token_id]
        texts.append(" ".join("".join(tokens).replace("▁", " ").split()))
    return texts


def tune_lm(emissions: Emissions, lm: NGramLM) -> CTCDecoder:
    """Make a decoder with the weights that have the fewest word errors."""
    batches = [[row[:steps] for row, steps in zip(emissions.log_probs, emissions.lengths, strict=True)]]
    return tune_decoder(CTCDecoder(emissions.tokens, 0, lm=lm, beam_width=BEAM), batches, emissions.references)[0]


def decode_in_all_ways(
    recogniser: Recogniser, scorer: SentenceScorer | None
) -> tuple[Emissions, dict[str, Texts], str]:
    """Decode a test split greedily and with more and more knowledge.

    Args:
        recogniser: Model and corpus.
        scorer: A language model for rescoring; None leaves that out.

    Returns:
        What the model says of the test split, the texts by way of decoding, and the weights that were chosen.
    """
    validation, test = recogniser.emissions("validation"), recogniser.emissions("test")
    lm = NGramLM.from_text(recogniser.texts("train"), ORDER)
    beam = CTCDecoder(test.tokens, 0, beam_width=BEAM)
    fused = tune_lm(validation, lm)
    found = fused.decode(test.log_probs, test.lengths, nbest=NBEST)
    ways = {
        "greedy": greedy(test),
        f"beam {BEAM}": best_texts(beam.decode(test.log_probs, test.lengths)),
        f"beam {BEAM}, {ORDER}-gram": best_texts(found),
    }
    chosen = f"lm_weight {fused.lm_weight:g}, word_bonus {fused.word_bonus:g}"
    chosen += f", unknown_word_score {fused.unknown_word_score:g}"
    if scorer is not None:
        to_tune = fused.decode(validation.log_probs, validation.lengths, nbest=NBEST)
        rescoring, _ = tune_rescoring(to_tune, scorer, validation.references)
        ways[f"beam {BEAM}, {ORDER}-gram, {NBEST} best rescored"] = best_texts(rescoring.reorder(found))
        name = Path(scorer.name_or_path).name
        chosen += f", rescoring by {name} with weight {rescoring.weight:g}, word_bonus {rescoring.word_bonus:g}"
    return test, ways, chosen


def table_rows(name: str, references: Sequence[str], ways: dict[str, Texts]) -> list[dict[str, Any]]:
    """One row a way of decoding; the first is what the others are compared with."""
    words = {way: count_errors(references, texts, "word") for way, texts in ways.items()}
    chars = {way: count_errors(references, texts, "char") for way, texts in ways.items()}
    sentences = {way: count_wrong_sentences(references, texts) for way, texts in ways.items()}
    reference = next(iter(ways))
    return [
        {
            "test set": name,
            "decoding": way,
            "WER (%)": 100 * total(words[way]).rate,
            "95 % interval": interval(words[way]),
            "CER (%)": 100 * total(chars[way]).rate,
            "of CER": interval(chars[way]),
            "wrong sentences (%)": 100 * total(sentences[way]).rate,
            "of sentences": interval(sentences[way]),
            "WER change": "" if way == reference else change(words[way], words[reference]),
        }
        for way in ways
    ]


def count_wrong_sentences(references: Sequence[str], texts: Sequence[str]) -> list[ErrorCounts]:
    """Count each sentence as one unit."""
    return [
        ErrorCounts(hits=int(text == reference), substitutions=int(text != reference))
        for reference, text in zip(references, texts, strict=True)
    ]


def interval(counts: list[ErrorCounts]) -> str:
    low, high = bootstrap_interval(counts)
    return f"{100 * low:.1f} to {100 * high:.1f}"


def change(counts: list[ErrorCounts], reference: list[ErrorCounts]) -> str:
    """Difference in points with its paired interval, and relative to the reference."""
    paired = paired_bootstrap(counts, reference)
    low, high = paired.interval
    relative = paired.difference / total(reference).rate if total(reference).errors else 0.0
    return f"{100 * paired.difference:+.1f} ({100 * low:+.1f} to {100 * high:+.1f}), {100 * relative:+.0f} %"


def confidence_note(name: str, test: Emissions) -> str:
    """Say how often words are right, by their confidence without a language model."""
    found = CTCDecoder(test.tokens, 0, beam_width=BEAM).decode(test.log_probs, test.lengths)
    aligned = jiwer.process_words(test.references, best_texts(found)).alignments
    is_right = np.zeros(sum(len(hypotheses[0].words) for hypotheses in found), bool)
    first = 0
    for chunks, hypotheses in zip(aligned, found, strict=True):
        for chunk in chunks:
            if chunk.type == "equal":
                is_right[first + chunk.hyp_start_idx : first + chunk.hyp_end_idx] = True
        first += len(hypotheses[0].words)
    confidences = np.array([word.confidence for hypotheses in found for word in hypotheses[0].words])
    groups = np.array_split(np.argsort(confidences, kind="stable"), CONFIDENCE_GROUPS)
    pairs = ", ".join(f"{confidences[group].mean():.2f} / {is_right[group].mean():.2f}" for group in groups)
    return (
        f"Word confidences on {name}, beam {BEAM}, {len(confidences)} words in {CONFIDENCE_GROUPS} groups of equal "
        f"size, from the least sure on; mean confidence / share of right words: {pairs}."
    )


def decode_commands(recogniser: Recogniser) -> tuple[Emissions, dict[str, Texts], dict[str, float]]:
    """Decode the demo's test split greedily, and with its grammar's sentences as the only ones that may come out.

    Returns:
        What the model says, texts by way of decoding, and how well the rejection score tells a command from what is
        none: each utterance is decoded with the whole list and with a list that lacks its own sentence.
    """
    test = recogniser.emissions("test")
    sentences = list_sentences()
    found = decode_phrases(test, sentences)
    accepted = [hypotheses[0].rejection_score for hypotheses in found]
    refused = [
        decode_phrases(test.one(utterance), [one for one in sentences if one != reference])[0][0].rejection_score
        for utterance, reference in enumerate(test.references)
    ]
    lm = NGramLM.from_text(recogniser.texts("train"), ORDER)
    fused = tune_lm(recogniser.emissions("validation"), lm)
    ways = {
        "greedy": greedy(test),
        f"beam {BEAM}, {ORDER}-gram": best_texts(fused.decode(test.log_probs, test.lengths)),
        f"beam {BEAM}, {len(sentences):,} phrases": best_texts(found),
    }
    return test, ways, separation(np.array(accepted), np.array(refused))


def decode_phrases(emissions: Emissions, sentences: Sequence[str]) -> list[list[Hypothesis]]:
    decoder = CTCDecoder(emissions.tokens, 0, beam_width=BEAM, phrases=sentences)
    return decoder.decode(emissions.log_probs, emissions.lengths)


def separation(accepted: np.ndarray, refused: np.ndarray) -> dict[str, float]:
    """How well a threshold on a score separates two samples, of which the second should be higher.

    Args:
        accepted: `(utterances,)` scores of what should stay below the threshold.
        refused: `(utterances,)` scores of what should be above.

    Returns:
        `auc`, the chance that one of `refused` is higher than one of `accepted` (ties count half), and
        `equal_error_rate`, the error where both kinds of error are as equal as they get.
    """
    pairs = refused[:, None] - accepted[None, :]
    thresholds = np.unique(np.concatenate([accepted, refused]))
    misses = (refused[None, :] <= thresholds[:, None]).mean(axis=1)
    alarms = (accepted[None, :] > thresholds[:, None]).mean(axis=1)
    equal = int(np.abs(misses - alarms).argmin())
    return {
        "auc": float((pairs > 0).mean() + (pairs == 0).mean() / 2),
        "equal_error_rate": float((misses[equal] + alarms[equal]) / 2),
        "threshold": float(thresholds[equal]),
        "median_of_commands": float(np.median(accepted)),
        "median_of_others": float(np.median(refused)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--pair",
        nargs=2,
        metavar=("MODEL", "DATASET"),
        action="append",
        default=[],
        help="a model's folder and the data set that it was trained on; may be given several times",
    )
    parser.add_argument("--rescoring_model", help="folder or Hub id of a causal or masked language model")
    parser.add_argument("--demo_model", type=Path, help="a model that was trained on the demo corpus")
    parser.add_argument("--output", type=Path, help="folder of the results (default: benchmarks/results)")
    arguments = parser.parse_args()
    scorer = SentenceScorer.from_pretrained(arguments.rescoring_model) if arguments.rescoring_model else None
    rows, notes, details = [], [], {}
    for model, dataset in arguments.pair:
        name = Path(dataset).name
        test, ways, chosen = decode_in_all_ways(Recogniser.load(model, dataset), scorer)
        rows += table_rows(name, test.references, ways)
        notes.append(f"{name}: {len(test.references)} utterances, {test.audio_s:.0f} s; chosen {chosen}.")
        notes.append(confidence_note(name, test))
        details[name] = {"references": test.references, "texts": ways}
    if arguments.demo_model:
        test, ways, rejection = decode_commands(Recogniser.load(arguments.demo_model, "demo"))
        rows += table_rows("demo", test.references, ways)
        notes.append(rejection_note(rejection, len(test.references)))
        details["demo"] = {"references": test.references, "texts": ways, "rejection": rejection}
    folder = {} if arguments.output is None else {"folder": arguments.output}
    write_results("decoding_accuracy", rows, [*NOTES, *notes], details, **folder)


def rejection_note(rejection: dict[str, float], utterances: int) -> str:
    return (
        f"Rejection score on demo: each of {utterances} utterances decoded with the whole list and with the list "
        f"without its own sentence; area under the curve {rejection['auc']:.3f}, equal error rate "
        f"{100 * rejection['equal_error_rate']:.1f} % at a threshold of {rejection['threshold']:.2f}; medians "
        f"{rejection['median_of_commands']:.2f} and {rejection['median_of_others']:.2f}."
    )


if __name__ == "__main__":
    main()
