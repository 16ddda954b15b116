"""Sentences drawn from a grammar: that it has all of them, how often each is drawn, and that a seed gives the same."""

from collections import Counter

import pytest

from hf_speechft.decoding.grammar import accepts, grammar_automaton
from hf_speechft.decoding.jsgf_sentences import draw_sentences

HEADER = "#JSGF V1.0;\ngrammar home;\n"
HOME = (
    HEADER
    + """
public <light> = [please] turn (on | off) the <lamp>+;
public <stop> = stop* now | <VOID> | /0/ never;
<lamp> = "reading lamp" | light | <NULL> bulb {tag};
"""
)


def test_draw_sentences_gives_different_ones_that_the_grammar_accepts():
    automaton = grammar_automaton(HOME, lambda words: words.encode() + b" ")
    drawn = draw_sentences(HOME, 200, seed=1)
    assert len(set(drawn)) == len(drawn) == 200
    assert all(accepts(automaton, f"{sentence} ".encode()) for sentence in drawn)
    assert {"now", "stop now", "turn off the bulb", "please turn on the light"} <= set(drawn)


def test_draw_sentences_of_a_small_grammar_are_all_that_it_has():
    assert sorted(draw_sentences(HEADER + "public <go> = go [on | up];", 50, seed=0)) == ["go", "go on", "go up"]


def first_sentences(expansion, draws=4_000):
    grammar = f"{HEADER}public <say> = {expansion};"
    return Counter(draw_sentences(grammar, 1, seed=seed)[0] for seed in range(draws))


@pytest.mark.parametrize(
    ("expansion", "shares"),
    [
        ("yes | no", {"yes": 0.5, "no": 0.5}),
        ("/3/ yes | no", {"yes": 0.75, "no": 0.25}),  # no weight is a weight of 1
        ("/0.5/ yes | /1.5/ no | /0/ never", {"yes": 0.25, "no": 0.75}),
        ("go [on]", {"go": 0.5, "go on": 0.5}),
        ("go+", {"go": 0.5, "go go": 0.25, "go go go": 0.125}),
        ("go on*", {"go": 0.5, "go on": 0.25, "go on on": 0.125}),
    ],
)
def test_draw_sentences_draws_as_often_as_weights_say(expansion, shares):
    counts = first_sentences(expansion)
    for sentence, share in shares.items():
        assert counts[sentence] / counts.total() == pytest.approx(share, abs=0.03)  # four standard deviations
    assert "never" not in counts


def test_draw_sentences_a_seed_gives_the_same_sentences():
    assert draw_sentences(HOME, 20, seed=3) == draw_sentences(HOME, 20, seed=3) != draw_sentences(HOME, 20, seed=4)


@pytest.mark.parametrize(
    ("grammar", "message"),
    [
        ("go", "grammar line 1, column 1: expected the header"),
        (HEADER + "<go> = go;", "no public rule"),
        (HEADER + "public <go> = go <VOID>;", "no sentence of the grammar could be drawn"),
        (HEADER + "public <go> = <NULL>;", "no sentence of the grammar could be drawn"),
    ],
)
def test_draw_sentences_of_a_grammar_that_has_none_raises(grammar, message):
    with pytest.raises(ValueError, match=message):
        draw_sentences(grammar, 5, seed=0)
