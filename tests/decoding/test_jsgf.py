"""JSGF: rules of literal grammars, and errors that name the place."""

import pytest

from hf_speechft.decoding.jsgf import Choice, Reference, Repetition, Rule, Sequence, Token, parse_jsgf

HEADER = "#JSGF V1.0;\ngrammar home;\n"


def rules_of(text):
    """The rules without positions: words are strings."""
    return {name: (rule.is_public, plain(rule.expansion)) for name, rule in parse_jsgf(HEADER + text).items()}


def plain(expansion):
    match expansion:
        case Token(text, _):
            return text
        case Reference(name, _):
            return f"<{name}>"
        case Repetition(part, at_least_once):
            return ("plus" if at_least_once else "star", plain(part))
        case Sequence(parts):
            return ("all", *map(plain, parts))
        case Choice(parts, ()):
            return ("one", *map(plain, parts))
        case Choice(parts, weights):
            return ("one", *zip(weights, map(plain, parts), strict=True))


@pytest.mark.parametrize(
    ("expansion", "expected"),
    [
        ("go", "go"),
        ("go on", ("all", "go", "on")),
        ("go | go on", ("one", "go", ("all", "go", "on"))),  # a sequence binds tighter than alternatives
        ("go (on | off)", ("all", "go", ("one", "on", "off"))),
        ("[now] go", ("all", ("one", "now", ("all",)), "go")),
        ("very* fast+", ("all", ("star", "very"), ("plus", "fast"))),  # and repetition tighter than a sequence
        ("(very fast)*", ("star", ("all", "very", "fast"))),
        ("[very]+", ("plus", ("one", "very", ("all",)))),
        ("<NULL> | <VOID>", ("one", ("all",), ("one",))),
        ('"new york" | "say \\"no\\\\\\""', ("one", "new york", 'say "no\\"')),
        ("/10/ small | / 2.5e-1f / large | middle", ("one", (10.0, "small"), (0.25, "large"), (1.0, "middle"))),
        ("/2/ small | /2.0/ large", ("one", "small", "large")),
        ("/1/ small | /0.0/ large", ("one", (1.0, "small"), (0.0, ("one",)))),
        ("light {lamp} {x \\} \\\\ ; y}", "light"),
        ("very* {many} fast {tag}+", ("all", ("star", "very"), ("plus", "fast"))),
        ("go // on | off;\n now /* ; // * */ please", ("all", "go", "now", "please")),
        ("don't Größe 你好 3.5 a-b,c:d", ("all", "don't", "Größe", "你好", "3.5", "a-b,c:d")),
        ("public grammar import", ("all", "public", "grammar", "import")),  # no keywords inside a rule
    ],
)
def test_parse_jsgf_expansion_gives_its_tree(expansion, expected):
    assert rules_of(f"public <start> = {expansion};") == {"start": (True, expected)}


def test_parse_jsgf_several_rules_keep_order_and_publicity():
    rules = rules_of("<thing> = light; public <on>=<thing> on; public <off> = <home.thing> off;")
    assert rules == {
        "thing": (False, "light"),
        "on": (True, ("all", "<thing>", "on")),
        "off": (True, ("all", "<thing>", "off")),
    }


@pytest.mark.parametrize(
    "head",
    [
        "#JSGF V1.0;grammar home;",
        "\ufeff#JSGF V1.0 ISO8859-5;\r\n\r\ngrammar home;\r\n",
        "#JSGF V1.0 UTF-8 en;\n/* made by hand */ grammar com.acme.home ;",
    ],
)
def test_parse_jsgf_headers_are_understood(head):
    rules = parse_jsgf(head + "public <go> = go;")
    assert rules == {"go": Rule(True, Token("go", len(head) + len("public <go> = ")))}


def test_parse_jsgf_full_rule_names_lead_to_the_rule():
    head = "#JSGF V1.0; grammar com.acme.home; <x> = a;"
    for name in ("com.acme.home.x", "home.x", "x"):
        assert plain(parse_jsgf(f"{head} public <y> = <{name}>;")["y"].expansion) == "<x>"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"line 1, column 1: expected the header '#JSGF V1.0;', found ''"),
        ("#JSGF V2.0; grammar x;", r"line 1, column 1: expected the header '#JSGF V1.0;', found '#JSGF V2.0; "),
        ("#JSGF V1.0\ngrammar home;\n", r"expected the header"),
        ("#JSGF V1.0;", r"line 1, column 12: expected the declaration 'grammar <name>;'.*, found the end of the text"),
        ("#JSGF V1.0;\ngrammar ;", r"line 2, column 9: expected the grammar's name, found ';'"),
        ("#JSGF V1.0;\ngrammar a b;", r"line 2, column 11: expected ';' after the grammar's name, found 'b'"),
        (
            HEADER + "import <com.acme.polite>;",
            r"line 3, column 1: imports are not supported; copy the imported rules",
        ),
        (HEADER + "public go = go;", r"line 3, column 8: expected a rule such as '<name> = ...;'.*, found 'go'"),
        (HEADER + "<a> go;", r"line 3, column 5: expected '=' after <a>, found 'go'"),
        (HEADER + "<a> = ;", r"line 3, column 7: expected a word, '<rule>', '\(' or '\[', found ';'"),
        (HEADER + "<a> = b | | c;", r"line 3, column 11: expected a word, .*, found '\|'"),
        (HEADER + "<a> = ();", r"line 3, column 8: expected a word, .*, found '\)'"),
        (HEADER + "<a> = b\n<c> = d;", r"line 4, column 5: expected '\|', ';' or more of rule <a>, found '='"),
        (HEADER + "<a> = b", r"line 3, column 8: expected '\|', ';' or more of rule <a>, found the end of the text"),
        (HEADER + "<a> =\n  (b | c;", r"line 4, column 9: expected '\|', '\)' or more words, found ';'"),
        (HEADER + "<a> = [b);", r"line 3, column 9: expected '\|', '\]' or more words, found '\)'"),
        (HEADER + "<a> = b*+;", r"line 3, column 9: a second '\*' or '\+'; put the first with what it repeats into"),
        (HEADER + "<a> = b /2/ c;", r"line 3, column 9: expected '\|', ';' or more of rule <a>, found '/2/'"),
        (HEADER + "<a> = /1.2.3/ b;", r"line 3, column 7: expected a weight such as '/2.5/', found '/1.2.3/'"),
        (HEADER + '<a> = "b;', r"line 3, column 7: expected the closing '\"' after '\"b;'"),
        (HEADER + "<a> = b {c;", r"line 3, column 9: expected the tag's end '}' after '{c;'"),
        (HEADER + "<a> = b; /* c", r"line 3, column 10: expected the comment's end '\*/' after '/\* c'"),
        (HEADER + "<a> = <b c>;", r"line 3, column 7: expected '<rule name>' after '<b c>;'"),
        (HEADER + "<a> = km/h;", r"line 3, column 9: a token with this character needs quotes: '/h;'"),
        (HEADER + "<a> = b;\n<a> = c;", r"line 4, column 1: rule <a> is defined twice; join the two with '\|'"),
        (HEADER + "<VOID> = b;", r"line 3, column 1: <VOID> is built in and cannot be defined"),
        (HEADER + "<a> = b;\n<c> = <b>;", r"line 4, column 7: rule <b> is not defined; the grammar has <a>, <c>"),
        (HEADER + "<a> = b <a>;", r"line 3, column 9: recursive rules are not supported: <a> -> <a>;"),
    ],
)
def test_parse_jsgf_bad_grammar_raises_with_its_place(text, message):
    with pytest.raises(ValueError, match="grammar " + message if message.startswith("line") else message):
        parse_jsgf(text)


def test_parse_jsgf_longer_cycle_names_its_rules():
    text = HEADER + "public <s> = <a>;\n<a> = x [<b>];\n<b> = (y <c>)*;\n<c> = <a> | z;\n"
    cycle = "<a> -> <b> -> <c> -> <a>"
    rotations = "|".join([cycle, "<b> -> <c> -> <a> -> <b>", "<c> -> <a> -> <b> -> <c>"])
    with pytest.raises(ValueError, match=f"recursive rules are not supported: ({rotations}); write repetitions with"):
        parse_jsgf(text)
