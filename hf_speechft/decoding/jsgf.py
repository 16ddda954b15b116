"""JSGF, the JSpeech Grammar Format 1.0: the text of a grammar becomes rules.

    text -> lexical elements -> rules, whose expansions are trees

Header, grammar name, rules, references, alternatives, groups, optionals, `*` and `+`, quoted tokens, comments,
`<NULL>` and `<VOID>` are understood. The weight 0 takes its alternative out; other weights count where sentences are
drawn (`draw_sentences`). Tags are read and have no effect. Imports and recursion are errors.

Source: "JSpeech Grammar Format", W3C Note of 5 June 2000, https://www.w3.org/TR/2000/NOTE-jsgf-20000605/.
"""

import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from typing import NamedTuple, NoReturn

__all__ = [
    "Choice",
    "Expansion",
    "Reference",
    "Repetition",
    "Rule",
    "Sequence",
    "Token",
    "entries",
    "fail_at",
    "parse_jsgf",
]


class Token(NamedTuple):
    """A word, or several in quotes; `position` counts characters from the text's start."""

    text: str
    position: int


class Reference(NamedTuple):
    """`<name>`: what the rule of this name says."""

    name: str
    position: int


class Sequence(NamedTuple):
    """One part after the other; `<NULL>` is a sequence without parts."""

    parts: tuple["Expansion", ...]


class Choice(NamedTuple):
    """One of the parts; `<VOID>` is a choice without parts, and `[x]` one of `x` and `<NULL>`.

    `weights` say how often each part is said, compared with the others; where there are none, all are said alike.
    """

    parts: tuple["Expansion", ...]
    weights: tuple[float, ...] = ()


class Repetition(NamedTuple):
    """The part again and again: `x+`, or `x*` where it may also be absent."""

    part: "Expansion"
    at_least_once: bool


Expansion = Token | Reference | Sequence | Choice | Repetition
NULL, VOID = Sequence(()), Choice(())


class Rule(NamedTuple):
    """What a rule says, and whether sentences may begin with it."""

    is_public: bool
    expansion: Expansion


def parse_jsgf(jsgf: str) -> dict[str, Rule]:
    """Parse a grammar.

    >>> parse_jsgf("#JSGF V1.0; grammar home; public <go> = go [on];")["go"].expansion.parts[0].text
    'go'

    Args:
        jsgf: The grammar's text.

    Returns:
        The rules by name, in the text's order. Each rule that is referred to is among them, and none leads back to
        itself.

    Raises:
        ValueError: The text is no JSGF, imports, refers to a rule that is not defined, or is recursive. Line and
            column are named.
    """
    rules = _Parser(jsgf).rules()
    _check_references(jsgf, rules)
    return rules


def entries(rules: dict[str, Rule]) -> tuple[Expansion, ...]:
    """Return what sentences may begin with: the public rules' expansions.

    Raises:
        ValueError: There is no public rule.
    """
    public = tuple(rule.expansion for rule in rules.values() if rule.is_public)
    if not public:
        raise ValueError("the grammar has no public rule, so no sentence begins; write 'public <name> = ...;'")
    return public


def fail_at(jsgf: str, position: int, message: str) -> NoReturn:
    """Raise the error for what stands at a position of the text."""
    line = jsgf.count("\n", 0, position) + 1
    column = position - jsgf.rfind("\n", 0, position)
    raise ValueError(f"grammar line {line}, column {column}: {message}")


def _check_references(jsgf: str, rules: dict[str, Rule]) -> None:
    references = {name: list(_references(rule.expansion)) for name, rule in rules.items()}
    for reference in (reference for of_rule in references.values() for reference in of_rule):
        if reference.name not in rules:
            known = ", ".join(f"<{name}>" for name in list(rules)[:5])
            fail_at(jsgf, reference.position, f"rule <{reference.name}> is not defined; the grammar has {known}")
    try:
        TopologicalSorter({name: [part.name for part in of_rule] for name, of_rule in references.items()}).prepare()
    except CycleError as error:
        names = error.args[1][::-1]  # the sorter lists what is referred to before what refers to it
        position = next(part.position for part in references[names[0]] if part.name == names[1])
        path = " -> ".join(f"<{name}>" for name in names)
        fail_at(jsgf, position, f"recursive rules are not supported: {path}; write repetitions with '*' or '+'")


def _references(expansion: Expansion) -> Iterator[Reference]:
    match expansion:
        case Reference():
            yield expansion
        case Sequence(parts) | Choice(parts):
            for part in parts:
                yield from _references(part)
        case Repetition(part, _):
            yield from _references(part)


class _Lexeme(NamedTuple):
    kind: str
    text: str
    position: int


_HEADER = re.compile(r"\ufeff?#JSGF[ \t]+V1\.0(?:[ \t]+[^\s;]+){0,2}[ \t]*;")  # encoding and locale are optional
_LEXEME = re.compile(
    r"""(?P<skip>   \s+ | //[^\n]* | /\*.*?\*/)
      | (?P<weight> /\s*[\d.][\d.eE+-]*[fF]?\s*/)
      | (?P<rule>   <[^<>\s]+>)
      | (?P<quoted> "(?:[^"\\]|\\.)*")
      | (?P<tag>    \{(?:[^}\\]|\\.)*\})
      | (?P<symbol> [;=|*+()\[\]])
      | (?P<word>   [^\s;=|*+<>()\[\]{}/"]+)""",
    re.VERBOSE | re.DOTALL,
)
_UNFINISHED = {"/*": "the comment's end '*/'", '"': "the closing '\"'", "{": "the tag's end '}'", "<": "'<rule name>'"}


def _lexemes(jsgf: str) -> Iterator[_Lexeme]:
    """Cut the text after the header into its lexical elements; the last one is of the kind `end`."""
    header = _HEADER.match(jsgf)
    if header is None:
        fail_at(jsgf, 0, f"expected the header '#JSGF V1.0;', found {jsgf[:20]!r}; begin the text with it")
    position = header.end()
    while position < len(jsgf):
        match = _LEXEME.match(jsgf, position)
        if match is None:
            expected = next((end for start, end in _UNFINISHED.items() if jsgf.startswith(start, position)), None)
            what = f"expected {expected} after" if expected else "a token with this character needs quotes:"
            fail_at(jsgf, position, f"{what} {jsgf[position : position + 20]!r}")
        if match.lastgroup != "skip":
            yield _Lexeme(match.lastgroup, match[0], position)
        position = match.end()
    yield _Lexeme("end", "the end of the text", position)


class _Parser:
    """Recursive descent over the lexical elements; one method for each level of precedence."""

    def __init__(self, jsgf: str) -> None:
        self.jsgf = jsgf
        self.lexemes = _lexemes(jsgf)
        self.next = next(self.lexemes)

    def rules(self) -> dict[str, Rule]:
        self._take("word", "grammar", "the declaration 'grammar <name>;' without brackets, such as 'grammar home;'")
        grammar_name = self._take("word", None, "the grammar's name").text
        self._take("symbol", ";", "';' after the grammar's name")
        self.prefixes = (f"{grammar_name}.", f"{grammar_name.split('.')[-1]}.")
        rules: dict[str, Rule] = {}
        while self.next.kind != "end":
            if self._is("word", "import"):
                self._fail("imports are not supported; copy the imported rules into this grammar")
            is_public = self._accept("word", "public") is not None
            name = self._take("rule", None, "a rule such as '<name> = ...;' or 'public <name> = ...;'")
            if name.text[1:-1] in rules:
                fail_at(self.jsgf, name.position, f"rule {name.text} is defined twice; join the two with '|'")
            if name.text in ("<NULL>", "<VOID>"):
                fail_at(self.jsgf, name.position, f"{name.text} is built in and cannot be defined")
            self._take("symbol", "=", f"'=' after {name.text}")
            rules[name.text[1:-1]] = Rule(is_public, self._alternatives())
            self._take("symbol", ";", f"'|', ';' or more of rule {name.text}")
        return rules

    def _alternatives(self) -> Expansion:
        parts, weights = [], []
        while True:
            weight = self._accept("weight")
            weights.append(1.0 if weight is None else self._number(weight))
            part = self._sequence()
            parts.append(part if weights[-1] > 0 else VOID)
            if not self._accept("symbol", "|"):
                break
        if len(parts) == 1:
            return parts[0]
        return Choice(tuple(parts), () if len(set(weights)) == 1 else tuple(weights))

    def _number(self, weight: _Lexeme) -> float:
        try:
            return float(weight.text.strip("/").strip().rstrip("fF"))
        except ValueError:
            fail_at(self.jsgf, weight.position, f"expected a weight such as '/2.5/', found {weight.text!r}")

    def _sequence(self) -> Expansion:
        parts = []
        while self.next.kind in ("word", "quoted", "rule") or self._is("symbol", "(") or self._is("symbol", "["):
            parts.append(self._repeated())
        if not parts:
            self._fail_expecting("a word, '<rule>', '(' or '['")
        return parts[0] if len(parts) == 1 else Sequence(tuple(parts))

    def _repeated(self) -> Expansion:
        part, is_repeated = self._single(), False
        while True:
            if self._is("symbol", "*") or self._is("symbol", "+"):
                if is_repeated:
                    self._fail("a second '*' or '+'; put the first with what it repeats into '( )'")
                part, is_repeated = Repetition(part, self._advance().text == "+"), True
            elif not self._accept("tag"):
                return part

    def _single(self) -> Expansion:
        lexeme = self._advance()
        if lexeme.kind == "word":
            return Token(lexeme.text, lexeme.position)
        if lexeme.kind == "quoted":
            return Token(re.sub(r"\\(.)", r"\1", lexeme.text[1:-1], flags=re.DOTALL), lexeme.position)
        if lexeme.kind == "rule":
            return self._reference(lexeme)
        closing = {"(": ")", "[": "]"}[lexeme.text]
        inside = self._alternatives()
        self._take("symbol", closing, f"'|', {closing!r} or more words")
        return inside if closing == ")" else Choice((inside, NULL))

    def _reference(self, lexeme: _Lexeme) -> Expansion:
        name = lexeme.text[1:-1]
        if name in ("NULL", "VOID"):
            return NULL if name == "NULL" else VOID
        prefix = next((prefix for prefix in self.prefixes if name.startswith(prefix)), "")  # <grammar.rule>
        return Reference(name.removeprefix(prefix), lexeme.position)

    def _is(self, kind: str, text: str | None) -> bool:
        return self.next.kind == kind and text in (None, self.next.text)

    def _advance(self) -> _Lexeme:
        current, self.next = self.next, next(self.lexemes, self.next)
        return current

    def _accept(self, kind: str, text: str | None = None) -> _Lexeme | None:
        return self._advance() if self._is(kind, text) else None

    def _take(self, kind: str, text: str | None, expected: str) -> _Lexeme:
        return self._accept(kind, text) or self._fail_expecting(expected)

    def _fail_expecting(self, expected: str) -> NoReturn:
        found = self.next.text if self.next.kind == "end" else repr(self.next.text)
        self._fail(f"expected {expected}, found {found}")

    def _fail(self, message: str) -> NoReturn:
        fail_at(self.jsgf, self.next.position, message)
