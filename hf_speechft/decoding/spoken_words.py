"""What the prefixes of a beam say in words, and how a causal language model of the Hub scores these.

The batched search tells by tokens how its beam goes on; here the words are kept as Python strings beside it.
"""

from typing import TYPE_CHECKING

from .prefix import Knowledge

if TYPE_CHECKING:
    from .rescoring import CausalWordScorer

__all__ = ["NO_TOKEN", "SpokenWords"]

NO_TOKEN = -1  # of a prefix that stays as it is


class SpokenWords:
    """The words of every prefix in the beam of a batch.

    Args:
        scorer: The language model.
        knowledge: Its pieces say what tokens write.
        batch: Number of utterances; each begins with one empty prefix.
    """

    def __init__(self, scorer: "CausalWordScorer", knowledge: Knowledge, batch: int) -> None:
        self.scorer = scorer
        ends = knowledge.piece_start
        self.pieces = [knowledge.pieces[start:end].tobytes() for start, end in zip(ends, ends[1:], strict=False)]
        self.prefixes: list[list[tuple[tuple[str, ...], bytes]]] = [[((), b"")] for _ in range(batch)]

    def follow(self, places: list[list[int]], tokens: list[list[int]]) -> None:
        """Go on to the new beam, whose prefixes came from `places` and got `tokens`."""
        for row, (sources, added) in enumerate(zip(places, tokens, strict=True)):
            old = self.prefixes[row]
            self.prefixes[row] = [
                old[source] if token == NO_TOKEN else self._add(*old[source], self.pieces[token])
                for source, token in zip(sources, added, strict=True)
            ]

    @staticmethod
    def _add(words: tuple[str, ...], open_word: bytes, piece: bytes) -> tuple[tuple[str, ...], bytes]:
        *complete, open_word = (open_word + piece).split(b" ")
        return words + tuple(word.decode("utf-8", "replace") for word in complete if word), open_word

    def score_open(self, asked: list[list[bool]]) -> list[list[float]]:
        """Score of the open word of each prefix that is asked for, 0 for the others."""
        pairs = {
            (row, place): (words, open_word.decode("utf-8", "replace"))
            for row, prefixes in enumerate(self.prefixes)
            for place, (words, open_word) in enumerate(prefixes)
            if asked[row][place]
        }
        scores = dict(zip(pairs, self.scorer.score_words(list(pairs.values())), strict=True)) if pairs else {}
        return [[float(scores.get((row, place), 0.0)) for place in range(len(line))] for row, line in enumerate(asked)]

    def score_ends(self) -> list[list[float]]:
        """Score of the sentence's end behind each prefix."""
        lines = [[self._add(*prefix, b" ")[0] for prefix in prefixes] for prefixes in self.prefixes]
        scores = iter(self.scorer.score_ends([words for line in lines for words in line]))
        return [[float(next(scores)) for _ in line] for line in lines]
