"""Sentences of a JSGF grammar, drawn at random: what people will say, written by whoever knows what they may say."""

import random

from .jsgf import Choice, Expansion, Reference, Repetition, Rule, Sequence, Token, entries, parse_jsgf

__all__ = ["draw_sentences"]

DRAWS_FOR_EACH = 20  # before a grammar counts as one that has no more sentences


def draw_sentences(jsgf: str, sentences: int, seed: int) -> list[str]:
    """Draw different sentences of a grammar.

    An alternative is drawn as often as its weight says (`/2.5/ yes | no`), all alike where there are none. `[x]` is
    said every other time; after each `x` of `x*` or `x+` another one follows every other time.

    >>> draw_sentences("#JSGF V1.0; grammar home; public <go> = go [on];", 5, seed=0)
    ['go', 'go on']

    Args:
        jsgf: The grammar's text, not its file's name.
        sentences: How many to draw; a small grammar has fewer.
        seed: Of the draws.

    Returns:
        Sentences, their words separated by spaces, in the order in which they were drawn.

    Raises:
        ValueError: The text is no JSGF or uses what `jsgf.py` does not support, or no sentence can be said.
    """
    rules = parse_jsgf(jsgf)
    start, generator = Choice(entries(rules)), random.Random(seed)
    drawn: dict[str, None] = {}  # keeps their order
    for _ in range(DRAWS_FOR_EACH * sentences):
        words: list[str] = []
        if _say(start, rules, generator, words) and words:
            drawn[" ".join(words)] = None
        if len(drawn) == sentences:
            break
    if not drawn:
        raise ValueError("no sentence of the grammar could be drawn; look for <VOID> and weights of 0")
    return list(drawn)


def _say(part: Expansion, rules: dict[str, Rule], generator: random.Random, words: list[str]) -> bool:
    """Append the words of one way to say an expansion; False where `<VOID>` was drawn, which nobody can say."""
    match part:
        case Token(text):
            words.append(text)
            return True
        case Reference(name):
            return _say(rules[name].expansion, rules, generator, words)
        case Sequence(parts):
            return all(_say(one, rules, generator, words) for one in parts)
        case Choice(parts, weights):
            return bool(parts) and _say(generator.choices(parts, weights or None)[0], rules, generator, words)
        case Repetition(repeated, at_least_once):
            if not at_least_once and generator.random() < 0.5:
                return True
            while _say(repeated, rules, generator, words):
                if generator.random() < 0.5:
                    return True
            return False
