"""Other projects' CTC decoders, run by benchmarks/decoding.py inside the peers' own virtual environments.

Nothing of hf_speechft is imported here. The process reads one JSON object a line from standard input and answers each
with one JSON object a line:

    {"do": "make", "name": …, "decoder": "pyctcdecode" | "torchaudio", "data": …, …options}  ->  {"made": name}
    {"do": "decode", "name": …}                                      ->  {"texts": one a utterance}
    {"do": "score", "arpa": …, "sentences": …}                       ->  {"scores": log10 of each sentence, from kenlm}

`data` is an .npz file with `log_probs` `(utterances, steps, vocab)` float32 and `lengths` `(utterances,)`.
"""

import json
import logging
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Decode = Callable[[], list[str]]


def make_pyctcdecode(
    log_probs: np.ndarray,
    lengths: np.ndarray,
    *,
    tokens: list[str],
    beam_width: int,
    token_min_logp: float,
    lm_weight: float,
    word_bonus: float,
    arpa: str | None,
    words: Sequence[str],
) -> Decode:
    """Return what decodes all utterances with pyctcdecode, in this process.

    Its `alpha` multiplies natural logarithms, as ours does. Pruning beyond width and tokens, and what an unknown word
    costs, stay at its defaults.
    """
    from pyctcdecode import build_ctcdecoder

    logging.getLogger("pyctcdecode").setLevel(logging.ERROR)
    decoder = build_ctcdecoder(tokens, arpa, words if arpa else None, alpha=lm_weight, beta=word_bonus)
    utterances = [row[:steps] for row, steps in zip(log_probs, lengths, strict=True)]
    options = {"beam_width": beam_width, "token_min_logp": token_min_logp}
    return lambda: [decoder.decode(utterance, **options) for utterance in utterances]


def make_torchaudio(
    log_probs: np.ndarray,
    lengths: np.ndarray,
    *,
    tokens: list[str],
    beam_width: int,
    lm_weight: float,
    word_bonus: float,
    arpa: str | None,
    lexicon: str | None,
    delimiter: str,
    beam_threshold: float,
    beam_size_token: int | None,
) -> Decode:
    """Return what decodes all utterances with torchaudio's wrapper of flashlight.

    Its `lm_weight` multiplies log10. With a language model it takes words from a lexicon only; without one it runs
    without a lexicon. `log_add` sums over alignments, as the others do.
    """
    import torch
    from torchaudio.models.decoder import ctc_decoder

    torch.set_num_threads(1)
    decoder = ctc_decoder(
        lexicon=lexicon if arpa else None,
        tokens=tokens,
        lm=arpa,
        beam_size=beam_width,
        beam_size_token=beam_size_token,
        beam_threshold=beam_threshold,
        lm_weight=lm_weight * math.log(10),
        word_score=word_bonus if arpa else 0.0,
        log_add=True,
        blank_token=tokens[0],
        sil_token=delimiter,
    )
    log_probs, lengths = close_words(log_probs, lengths, tokens.index(delimiter))
    emissions, emission_lengths = torch.from_numpy(log_probs), torch.from_numpy(lengths)

    def to_text(hypothesis: Any) -> str:
        if arpa:
            return " ".join(hypothesis.words)
        pieces = decoder.idxs_to_tokens(hypothesis.tokens)
        return " ".join("".join(pieces).replace(delimiter, " ").split())

    return lambda: [to_text(hypotheses[0]) for hypotheses in decoder(emissions, emission_lengths)]


def close_words(log_probs: np.ndarray, lengths: np.ndarray, delimiter: int) -> tuple[np.ndarray, np.ndarray]:
    """Add a step of the delimiter to each utterance.

    flashlight's lexicon ends every word with the delimiter, which a model need not write after the last word.
    """
    utterances, _, vocab = log_probs.shape
    closed = np.concatenate([log_probs, np.zeros((utterances, 1, vocab), np.float32)], axis=1)
    closed[np.arange(utterances), lengths] = -30.0
    closed[np.arange(utterances), lengths, delimiter] = 0.0
    return closed, lengths + 1


MAKERS = {"pyctcdecode": make_pyctcdecode, "torchaudio": make_torchaudio}


def score_sentences(arpa: str, sentences: Sequence[str]) -> list[float]:
    """Return kenlm's log10 probability of each sentence with its begin and end."""
    import kenlm

    model = kenlm.Model(arpa)
    return [model.score(sentence) for sentence in sentences]


def main() -> None:
    decoders: dict[str, Decode] = {}
    for line in sys.stdin:
        request = json.loads(line)
        do = request.pop("do")
        if do == "make":
            name, decoder, data = request.pop("name"), request.pop("decoder"), np.load(request.pop("data"))
            decoders[name] = MAKERS[decoder](data["log_probs"], data["lengths"].astype(np.int64), **request)
            answer = {"made": name}
        elif do == "decode":
            answer = {"texts": decoders[request["name"]]()}
        else:
            answer = {"scores": score_sentences(**request)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
