r"""How fast logits become text with a language model, beside pyctcdecode and torchaudio's flashlight decoder.

On one thread, with the same logits, ARPA file and beam. The aim is 5 times the speed of pyctcdecode and no less than
that of torchaudio's flashlight decoder, at an equal or lower word error rate; what is reached is in the table, and the
claims in README.md are made from it. The peers need packages that cannot be installed beside ours, so each gets a
virtual environment of its own in ~/.cache/hf_speechft/peers, made at the first run (a minute, 5 GB, most of it torch
for torchaudio). Run from the project's root, on an idle machine, with an AN4 model of characters:

    accelerate launch run_finetune.py recipes/an4.yaml --vocabulary char --intermediate_ctc_weight 0.3 \
        --output_dir runs/an4_char
    python -m benchmarks.decoding --model runs/an4_char
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numba
import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from benchmarks.emissions import Emissions, Recogniser, make_emissions
from benchmarks.measure import interleave, limit_threads, times_slower, write_results
from hf_speechft.data.corpora import load_corpus
from hf_speechft.decoding import CTCDecoder, NGramLM
from hf_speechft.scoring.bootstrap import bootstrap_interval, paired_bootstrap
from hf_speechft.scoring.metrics import ErrorCounts, count_errors, total

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
PEERS_FOLDER = Path.home() / ".cache" / "hf_speechft" / "peers"
PEERS = {
    "pyctcdecode": ("pyctcdecode==0.5.0", "kenlm==0.3.0", "numpy==1.26.4"),
    "torchaudio": ("torchaudio==2.11.0", "torch==2.11.0", "flashlight-text==0.0.7", "numpy"),
}
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")

ORDER = 4
LM_WEIGHT, WORD_BONUS = 0.5, 1.0
UNKNOWN_WORD_SCORE = -10.0  # about that of pyctcdecode's default
TOKEN_MIN_LOGP = -5.0
MOST_TOKENS_UNPRUNED = 100  # torchaudio tries all tokens behind each hypothesis: minutes a round with sub-words
NARROW = {"beam_threshold": 10.0, "beam_size_token": 10}
OURS = "hf_speechft"
SCORED_SENTENCES = 2000

# The order of facebook/wav2vec2-base-960h.
WAV2VEC2_TOKENS = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ETAONIHSRDLUMWCFGYPBVK'XJQZ"]
UNSEEN_LOGP = -27.6  # a probability of 1e-12, for tokens that the AN4 model lacks

SUBWORDS = 1000


@dataclass(frozen=True)
class Contest:
    """Logits, and the texts that language model and lexicon are made of."""

    name: str
    emissions: Emissions
    training_texts: list[str]
    spell: Callable[[str], list[str]]  # tokens of a word, the delimiter included where there is one
    delimiter: str
    beams: tuple[int, ...]


def an4_contest(recogniser: Recogniser, beams: tuple[int, ...]) -> Contest:
    """The logits of the model itself, its word delimiter written as the peers know it."""
    if recogniser.processor.tokenizer.checkpoint_ids is not None:
        raise ValueError(
            "the model's units are its checkpoint's tokens; give one that was trained with --vocabulary char"
        )
    emissions = recogniser.emissions("test")
    tokens = ["|" if token == "▁" else token for token in emissions.tokens]
    return Contest(
        f"AN4 model, {len(tokens)} characters",
        replace(emissions, tokens=tokens),
        recogniser.texts(),
        lambda word: [*word, "|"],
        "|",
        beams,
    )


def wav2vec2_contest(contest: Contest) -> Contest:
    """The same steps, as a wav2vec2 model would give them."""
    emissions = contest.emissions
    columns = {token.upper(): column for column, token in enumerate(emissions.tokens[2:], start=2)}
    columns |= {"<pad>": 0, "<unk>": 1}
    log_probs = np.full((*emissions.log_probs.shape[:2], len(WAV2VEC2_TOKENS)), UNSEEN_LOGP, np.float32)
    for token_id, token in enumerate(WAV2VEC2_TOKENS):
        if token in columns:
            log_probs[..., token_id] = emissions.log_probs[..., columns[token]]
    return replace(
        contest,
        name=f"wav2vec2 vocabulary, {len(WAV2VEC2_TOKENS)} characters",
        emissions=replace(
            emissions,
            tokens=WAV2VEC2_TOKENS,
            log_probs=log_probs,
            references=[text.upper() for text in emissions.references],
        ),
        training_texts=[text.upper() for text in contest.training_texts],
    )


def subword_contest(beam: int) -> Contest:
    """Made-up logits of 1,000 sub-words for LibriSpeech's sentences."""
    corpus = load_corpus(str(SHARED / "librispeech_4h"), normalizer="basic")
    training_texts, references = corpus["train"]["text"][:], corpus["test"]["text"][:]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=SUBWORDS, special_tokens=["<pad>", "<unk>"], show_progress=False)
    tokenizer.train_from_iterator(training_texts, trainer)
    tokens = [tokenizer.id_to_token(token_id) for token_id in range(SUBWORDS)]
    token_ids = [tokenizer.encode(text).ids for text in references]
    return Contest(
        f"made-up logits, {SUBWORDS:,} sub-words",
        make_emissions(tokens, token_ids, references),
        training_texts,
        lambda word: tokenizer.encode(word).tokens,
        "▁",
        (beam,),
    )


def make_environment(name: str) -> Path:
    """Return the Python of a peer's virtual environment, which is made where it is missing or out of date."""
    folder = PEERS_FOLDER / name
    python, done = folder / "bin" / "python", folder / "packages.txt"
    packages = "\n".join(PEERS[name])
    if not done.exists() or done.read_text(encoding="utf-8") != packages:
        print(f"making {folder} with {', '.join(PEERS[name])}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *PEERS[name]], check=True)
        done.write_text(packages, encoding="utf-8")
    return python


class Peer:
    """A process of `decoding_peers.py` in a peer's environment."""

    def __init__(self, name: str) -> None:
        script = Path(__file__).with_name("decoding_peers.py")
        self.process = subprocess.Popen(
            [str(make_environment(name)), str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **ONE_THREAD},
            text=True,
            encoding="utf-8",
        )

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.stdin.close()
        self.process.wait()

    def ask(self, do: str, **request: object) -> dict[str, Any]:
        """Send a request and wait for its answer."""
        self.process.stdin.write(json.dumps({"do": do, **request}) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the peer's process ended with {self.process.wait()}; its error is above")
        return json.loads(answer)


@dataclass(frozen=True)
class Files:
    """A contest's logits, language model and lexicon as the peers read them."""

    data: Path
    arpa: Path
    lexicon: Path

    @classmethod
    def write(cls, contest: Contest, folder: Path) -> "Files":
        """Make the files in a new folder."""
        folder.mkdir()
        files = cls(folder / "data.npz", folder / "lm.arpa", folder / "lexicon.txt")
        np.savez(files.data, log_probs=contest.emissions.log_probs, lengths=contest.emissions.lengths)
        NGramLM.from_text(contest.training_texts, ORDER).write_arpa(files.arpa)
        words = distinct_words([*contest.training_texts, *contest.emissions.references])
        lines = [f"{word} {' '.join(contest.spell(word))}\n" for word in words]
        files.lexicon.write_text("".join(lines), encoding="utf-8")
        return files


def distinct_words(texts: Iterable[str]) -> list[str]:
    return sorted({word for text in texts for word in text.split()})


def our_decoder(contest: Contest, arpa: Path | None, beam: int) -> Callable[[], list[str]]:
    emissions = contest.emissions
    decoder = CTCDecoder(
        emissions.tokens,
        0,
        lm=NGramLM.from_arpa(arpa) if arpa else None,
        lm_weight=LM_WEIGHT,
        word_bonus=WORD_BONUS if arpa else 0.0,
        unknown_word_score=UNKNOWN_WORD_SCORE,
        beam_width=beam,
        token_min_logp=TOKEN_MIN_LOGP,
    )

    def decode() -> list[str]:
        return [paths[0].text for paths in decoder.decode(emissions.log_probs, emissions.lengths)]

    return decode


def make_candidates(
    contest: Contest, files: Files, peers: dict[str, Peer], with_lm: bool, beam: int
) -> dict[str, Callable[[], list[str]]]:
    """Return what decodes all utterances of a contest, by name."""
    arpa = files.arpa if with_lm else None
    common = {
        "data": str(files.data),
        "tokens": contest.emissions.tokens,
        "beam_width": beam,
        "lm_weight": LM_WEIGHT,
        "word_bonus": WORD_BONUS,
        "arpa": str(arpa) if arpa else None,
    }
    by_peer = {"pyctcdecode": {"words": distinct_words(contest.training_texts), "token_min_logp": TOKEN_MIN_LOGP}}
    flashlight = {"lexicon": str(files.lexicon), "delimiter": contest.delimiter}
    if len(contest.emissions.tokens) <= MOST_TOKENS_UNPRUNED:
        by_peer["torchaudio"] = {**flashlight, "beam_threshold": 50.0, "beam_size_token": None}
    by_peer["torchaudio, narrow"] = {**flashlight, **NARROW}

    def peer_decoder(name: str, options: dict[str, Any]) -> Callable[[], list[str]]:
        library = name.split(",")[0]
        peers[library].ask("make", name=name, decoder=library, **common, **options)
        return lambda: peers[library].ask("decode", name=name)["texts"]

    return {
        OURS: our_decoder(contest, arpa, beam),
        **{name: peer_decoder(name, options) for name, options in by_peer.items()},
    }


def compare(
    contest: Contest, candidates: dict[str, Callable[[], list[str]]], rounds: int
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Time all candidates, and count the errors of each.

    Returns:
        One row of the table a candidate, without what they have in common; and seconds and texts by name.
    """
    emissions = contest.emissions
    seconds = interleave(candidates, rounds)
    texts = {name: decode() for name, decode in candidates.items()}
    counts = {name: count_errors(emissions.references, hypotheses) for name, hypotheses in texts.items()}
    rows = [
        {
            "decoder": name,
            "audio seconds per second": emissions.audio_s / statistics.median(times),
            "min": emissions.audio_s / max(times),
            "max": emissions.audio_s / min(times),
            "times slower": times_slower(times, seconds[OURS]),
            **error_columns(counts[name], counts[OURS], name == OURS),
        }
        for name, times in seconds.items()
    ]
    return rows, {name: {"seconds": seconds[name], "texts": texts[name]} for name in candidates}


def error_columns(counts: list[ErrorCounts], reference: list[ErrorCounts], is_reference: bool) -> dict[str, Any]:
    """Error rate with its interval, and the paired difference from the reference's."""
    low, high = bootstrap_interval(counts)
    columns = {"WER (%)": 100 * total(counts).rate, "95 % interval": f"{100 * low:.1f} to {100 * high:.1f}"}
    if is_reference:
        return columns | {"more than ours": ""}
    paired = paired_bootstrap(counts, reference)
    low, high = paired.interval
    return columns | {"more than ours": f"{100 * paired.difference:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"}


def compare_scores(contest: Contest, files: Files, peer: Peer) -> dict[str, Any]:
    """Score sentences, known and shuffled ones, with kenlm and with ours on the same ARPA file."""
    generator = np.random.default_rng(0)
    words = distinct_words([*contest.training_texts, *contest.emissions.references])
    made_up = [" ".join(generator.choice(words, size=generator.integers(1, 20))) for _ in range(SCORED_SENTENCES)]
    sentences = [*contest.emissions.references, *made_up]
    theirs = np.array(peer.ask("score", arpa=str(files.arpa), sentences=sentences)["scores"])
    lm = NGramLM.from_arpa(files.arpa)
    ours = np.array([lm.score(sentence) for sentence in sentences])
    return {
        "units": contest.name,
        "n-grams": int(len(lm.arrays.word) - 1),
        "sentences": len(sentences),
        "largest difference of log10 scores": float(np.abs(ours - theirs).max()),
    }


def make_notes(contests: list[Contest], rounds: int, scores: list[dict[str, Any]], scaling: float) -> list[str]:
    first, last = contests[0].emissions, contests[-1].emissions
    return [
        f"AN4's test set: {len(first.references)} utterances, {first.audio_s:.0f} s, 25 steps a second; the same "
        "steps are given with the vocabulary of the model and with that of wav2vec2. Sub-words: made-up logits for "
        f"{len(last.references)} sentences of LibriSpeech, {last.audio_s:.0f} s, 12.5 steps a second, vocabulary by "
        "byte-pair encoding of the training sentences.",
        f"One thread. Median, minimum and maximum of {rounds} interleaved rounds; the times are those of decoding all "
        "utterances from float32 log-probabilities to texts, for the peers with 1 ms or less for the pipe to their "
        "process. Times slower is the median over rounds of the time relative to hf_speechft with the same logits, "
        "language model and beam.",
        f"{ORDER}-gram: modified Kneser-Ney from training transcripts, one ARPA file for all, weight {LM_WEIGHT:g} "
        f"of its natural logarithms (flashlight multiplies log10, so its weight is {LM_WEIGHT:g} times ln 10), and "
        f"{WORD_BONUS:g} for each word. hf_speechft and pyctcdecode extend prefixes by tokens over a log-probability "
        f"of {TOKEN_MIN_LOGP:g}.",
        "hf_speechft's time includes word times by alignment and word confidences; pyctcdecode gives word times too.",
        "hf_speechft and pyctcdecode have their defaults beside that, but for an unknown word. It costs more than "
        f"the language model says: 5 in hf_speechft by default and {-UNKNOWN_WORD_SCORE:g} here; 10 in pyctcdecode, "
        f"in log10 and before the weight, so {10 * LM_WEIGHT * math.log(10):.1f} of the score. Both drop prefixes 10 "
        "below the best. pyctcdecode merges prefixes with the last 3 words in common (without a language model the "
        "last one).",
        "torchaudio has its defaults, all tokens and a threshold of 50 below the best hypothesis, but sums over "
        f"alignments; the narrow row has a threshold of {NARROW['beam_threshold']:g} and at most "
        f"{NARROW['beam_size_token']} tokens at a step. Its language model needs a lexicon, which here holds all "
        "words of training and test, those that the others have to spell unaided included. After the last step it "
        "gets one more with the word delimiter, because its lexicon wants each word closed. With sub-words there is "
        "no row with its defaults, which try all 1,000 tokens behind every hypothesis.",
        f"On two threads hf_speechft takes 1/{scaling:.2f} of the time (AN4 model, 4-gram, beam "
        f"{contests[0].beams[-1]}).",
        *(
            f"Language model of {score['units']}: {score['n-grams']:,} n-grams; on {score['sentences']:,} sentences, "
            f"known and shuffled, NGramLM.score and kenlm differ by at most "
            f"{score['largest difference of log10 scores']:.1e} (log10)."
            for score in scores
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", type=Path, default=Path("runs/an4_char"), help="an AN4 model of characters (default: %(default)s)"
    )
    parser.add_argument("--dataset", type=Path, default=SHARED / "an4", help="AN4 (default: %(default)s)")
    parser.add_argument("--beams", type=int, nargs="+", default=[16, 32], help="beam widths (default: 16 32)")
    parser.add_argument("--rounds", type=int, default=7, help="timed rounds (default: %(default)s)")
    parser.add_argument("--utterances", type=int, help="only so many of each set, for a quick look")
    parser.add_argument("--output", type=Path, help="folder of the results (default: benchmarks/results)")
    arguments = parser.parse_args()
    contests = make_contests(arguments)
    rows, details, scores = [], {}, []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        peers = {name: stack.enter_context(Peer(name)) for name in PEERS}
        stack.enter_context(limit_threads(1))
        numba.set_num_threads(1)
        for number, contest in enumerate(contests):
            files = Files.write(contest, folder / str(number))
            scores.append(compare_scores(contest, files, peers["pyctcdecode"]))
            for with_lm in (False, True):
                for beam in contest.beams:
                    candidates = make_candidates(contest, files, peers, with_lm, beam)
                    common = {"logits": contest.name, "LM": f"{ORDER}-gram" if with_lm else "none", "beam": beam}
                    compared, measured = compare(contest, candidates, arguments.rounds)
                    rows += [common | row for row in compared]
                    details[" | ".join(map(str, common.values()))] = measured
        scaling = measure_scaling(contests[0], folder / "0" / "lm.arpa", arguments.rounds)
        notes = make_notes(contests, arguments.rounds, scores, scaling)
        output = {} if arguments.output is None else {"folder": arguments.output}
        details = {"rounds": details, "language model scores": scores, "times faster on two threads": scaling}
        write_results("decoding", rows, notes, details, **output)


def make_contests(arguments: argparse.Namespace) -> list[Contest]:
    """Return the three sets of logits."""
    beams = tuple(arguments.beams)
    an4 = an4_contest(Recogniser.load(arguments.model, arguments.dataset), beams)
    contests = [an4, wav2vec2_contest(an4), subword_contest(beams[0])]
    return [
        replace(contest, emissions=contest.emissions.first(arguments.utterances)) for contest in contests
    ]  # fmt: skip


def measure_scaling(contest: Contest, arpa: Path, rounds: int) -> float:
    """Return how many times faster two threads are than one."""
    decode = our_decoder(contest, arpa, contest.beams[-1])

    def decode_on(threads: int) -> Callable[[], None]:
        def run() -> None:
            numba.set_num_threads(threads)
            decode()

        return run

    seconds = interleave({"one": decode_on(1), "two": decode_on(2)}, rounds)
    numba.set_num_threads(1)
    return times_slower(seconds["one"], seconds["two"])


if __name__ == "__main__":
    main()
