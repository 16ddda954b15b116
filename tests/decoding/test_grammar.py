"""Grammars as automata: their sentences against expansion by brute force, large ones, and bad input."""

import re
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_speechft.decoding import grammar
from hf_speechft.decoding.grammar import accepts, grammar_automaton, phrases_automaton

HEADER = "#JSGF V1.0; grammar home; "
MAX_WORDS = 4


def stream_of(text):
    return "".join(f"{word} " for word in text.split()).encode()


def compile_rules(text, stream=stream_of):
    return grammar_automaton(HEADER + text, stream)


def sentences(automaton, max_words=MAX_WORDS):
    """All sentences of at most `max_words` words, found by walking along all arcs."""
    found, paths = set(), [(0, b"")]
    for state, path in paths:
        if path.count(b" ") > max_words:
            continue
        if automaton.value[state] >= 0:
            found.add(path.decode())
        for arc in range(automaton.first_arc[state], automaton.first_arc[state + 1]):
            paths.append((automaton.target[arc], path + bytes([automaton.label[arc]])))
    return found


# Grammars as nested tuples: ("token", text), ("all" | "one", part, ...), ("maybe" | "star" | "plus", part),
# ("rule", number), ("null",), ("void",).
TOKENS = st.sampled_from(["a", "b", "ab", "é", "a b"]).map(lambda text: ("token", text))
LEAVES = TOKENS | TOKENS | st.just(("null",)) | st.just(("void",))


def trees(leaves):
    def extend(parts):
        several = st.lists(parts, min_size=2, max_size=3)
        return (
            several.map(lambda items: ("all", *items))
            | several.map(lambda items: ("one", *items))
            | st.tuples(st.sampled_from(["maybe", "star", "plus"]), parts)
        )

    return st.recursive(leaves, extend, max_leaves=6)


RULES = st.tuples(
    trees(LEAVES | st.sampled_from([("rule", 1), ("rule", 2)])), trees(LEAVES | st.just(("rule", 2))), trees(LEAVES)
)


def write(tree):
    kind, *parts = tree
    if kind == "token":
        return f'"{parts[0]}"' if " " in parts[0] else parts[0]
    if kind == "rule":
        return f"<r{parts[0]}>"
    inside = [write(part) for part in parts]
    return {
        "all": lambda: f"({' '.join(inside)})",
        "one": lambda: f"({'|'.join(inside)})",
        "maybe": lambda: f"[ {inside[0]} ]",
        "star": lambda: f"({inside[0]})*",
        "plus": lambda: f"({inside[0]})+",
        "null": lambda: "<NULL>",
        "void": lambda: "<VOID>",
    }[kind]()


def expand(tree, rules):
    """All sentences of at most MAX_WORDS words, as tuples of words."""
    kind, *parts = tree
    if kind == "token":
        return {tuple(parts[0].split())}
    if kind == "rule":
        return expand(rules[parts[0]], rules)
    inside = [expand(part, rules) for part in parts]
    if kind == "all":
        return {words for choice in product(*inside) if len(words := sum(choice, ())) <= MAX_WORDS}
    if kind in ("one", "void"):
        return set().union(*inside)
    if kind in ("maybe", "null"):
        return {()}.union(*inside)
    found = set(inside[0]) if kind == "plus" else {()} | inside[0]
    for _ in range(MAX_WORDS):
        found |= {first + second for first in found for second in inside[0] if len(first + second) <= MAX_WORDS}
    return found


REFUSED = {
    "the grammar accepts no sentence": set(),
    "the grammar accepts nothing but the empty sentence": {""},
}


@settings(max_examples=150)
@given(RULES)
def test_grammar_automaton_accepts_what_brute_force_expands(rules):
    text = "".join(f"{'public ' * (name == 0)}<r{name}> = {write(tree)};\n" for name, tree in enumerate(rules))
    try:
        automaton = compile_rules(text)
    except ValueError as error:
        found = REFUSED[re.split("[:;]", str(error))[0]]
    else:
        found = sentences(automaton)
        check_is_deterministic_and_trim(automaton)
    assert found == {"".join(f"{word} " for word in words) for words in expand(rules[0], rules)}


def check_is_deterministic_and_trim(automaton):
    assert automaton.first_arc[0] == 0
    assert automaton.first_arc[-1] == len(automaton.label) == len(automaton.target)
    arcs = [slice(*automaton.first_arc[state : state + 2]) for state in range(len(automaton.value))]
    assert all(np.all(np.diff(automaton.label[of_state].astype(int)) > 0) for of_state in arcs)
    reaches_end, before = automaton.value >= 0, None
    while not np.array_equal(reaches_end, before):
        before = reaches_end
        reaches_end = before | np.array([before[automaton.target[of_state]].any() for of_state in arcs])
    assert reaches_end.all()


def test_grammar_automaton_commands_are_the_sentences():
    automaton = compile_rules(
        """
        public <switch> = [please] turn (/2/ on | /1/ off) <device>+ {switch};
        public <stop> = "stop now" | /0/ halt;
        <device> = light | <NULL> heating;
        """
    )
    expected = {
        f"{please}turn {way} {device} "
        for please in ("please ", "")
        for way in ("on", "off")
        for device in ("light", "heating", "light heating", "heating light", "light light", "heating heating")
    }
    assert sentences(automaton, 4) == {text for text in expected if text.count(" ") <= 4} | {"stop now "}
    assert accepts(automaton, b"please turn off light heating light light ")
    assert not accepts(automaton, b"halt ")


def test_grammar_automaton_has_the_promised_types():
    automaton = compile_rules("public <a> = on | off;")
    assert [array.dtype for array in automaton] == [np.int32, np.uint8, np.int32, np.int32]
    assert sorted(set(automaton.value.tolist())) == [-1, 0]


def test_grammar_automaton_words_are_written_by_stream():
    automaton = compile_rules(
        'public <a> = 你好 "吗 了";', lambda text: "".join(f"{c} " for c in text if c != " ").encode()
    )
    assert sentences(automaton) == {"你 好 吗 了 "}


def test_grammar_automaton_optional_sentence_accepts_the_empty_stream_too():
    assert sentences(compile_rules("public <a> = [on];")) == {"", "on "}


def test_grammar_automaton_large_product_stays_small():
    rng = np.random.default_rng(0)
    slots = [["".join(rng.choice(list("abcdefgh"), 8)) for _ in range(50)] for _ in range(5)]
    rules = "".join(f"<slot{number}> = {' | '.join(words)};" for number, words in enumerate(slots))
    automaton = compile_rules(rules + "public <all> = <slot0> <slot1> <slot2> <slot3> <slot4>;")
    assert len(automaton.value) <= 1 + 5 * 50 * 9  # one state for each byte of each word, at most
    for number in range(50):
        assert accepts(automaton, stream_of(" ".join(words[number] for words in slots)))
    assert not accepts(automaton, stream_of(" ".join(words[0] for words in slots[:4])))
    assert not accepts(automaton, stream_of(" ".join(words[0] for words in slots[::-1])))


@pytest.mark.parametrize(
    "rules",
    [
        "public <r> = (a | b)* a" + " (a | b)" * 15 + ";",  # the last but 15 is an a: 2 ** 16 states
        "".join(f"<r{n}> = <r{n + 1}> <r{n + 1}>;" for n in range(40)) + "<r40> = a; public <r> = <r0>;",
        "".join(f"<r{n}> = <r{n + 1}> | <r{n + 1}>;" for n in range(40)) + "<r40> = <VOID>; public <r> = <r0>;",
    ],
    ids=["subsets", "words", "empty"],
)
def test_grammar_automaton_exploding_grammar_raises(monkeypatch, rules):
    monkeypatch.setattr(grammar, "MAX_STATES", 10_000)
    with pytest.raises(ValueError, match="the grammar needs more than 10,000 states; use shorter lists"):
        compile_rules(rules)


def refuse(text):
    raise ValueError(f"phrase {text!r} cannot be written")


@pytest.mark.parametrize(
    ("rules", "stream", "message"),
    [
        ("<a> = on;", stream_of, "the grammar has no public rule, so no sentence begins; write 'public <name>"),
        ("public <a> = on <VOID>;", stream_of, "the grammar accepts no sentence: each one leads through <VOID>"),
        ("public <a> = <NULL>*;", stream_of, "nothing but the empty sentence; give its public rules words"),
        ("public <a> =\n on;", refuse, "grammar line 2, column 2: phrase 'on' cannot be written"),
        ('public <a> = "";', stream_of, "grammar line 1, column 40: token '' is empty; use <NULL>"),
        ("public <a> = " + "(" * 5000 + "on" + ")" * 5000 + ";", stream_of, "the grammar is nested too deeply"),
        ("public <a> = on", stream_of, "grammar line 1, column 42: expected '|', ';' or more of rule <a>"),
    ],
    ids=["private", "void", "null", "refused", "empty-token", "deep", "syntax"],
)
def test_grammar_automaton_bad_grammar_raises(rules, stream, message):
    with pytest.raises(ValueError) as raised:  # noqa: PT011  # matched below, as plain text
        compile_rules(rules, stream)
    assert message in str(raised.value)


def test_phrases_automaton_accepts_the_list_and_nothing_else():
    phrases = [b"turn on ", b"turn on the light ", b"off ", b"turn on ", "größer ".encode()]
    automaton = phrases_automaton(phrases)
    assert sentences(automaton) == {phrase.decode() for phrase in phrases}
    assert [value for value in sorted(automaton.value.tolist()) if value >= 0] == [0, 1, 2, 4]
    for other in (b"", b"turn ", b"turn on the ", b"off", b"on ", b"off off "):
        assert not accepts(automaton, other)


@pytest.mark.parametrize(
    ("phrases", "message"),
    [
        ([], "the list of phrases is empty"),
        ([b"on ", b""], "phrase 2 of 2 is empty; drop it"),
        ([b" "], "phrase 1 of 1 is empty"),
    ],
)
def test_phrases_automaton_bad_list_raises(phrases, message):
    with pytest.raises(ValueError, match=message):
        phrases_automaton(phrases)
