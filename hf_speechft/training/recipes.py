"""How a run's arguments are given: a recipe (YAML or JSON), the command line, or both."""

import argparse
import difflib
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import yaml
from transformers import HfArgumentParser

from hf_speechft.training.arguments import Arguments, DataArguments, ModelArguments, SpeechTrainingArguments

RECIPE_ENDINGS = (".yaml", ".yml", ".json")
DEMO_RECIPE = Path(__file__).parents[2] / "recipes" / "demo.yaml"


def parse_arguments(argv: list[str] | None = None) -> Arguments:
    """Read the arguments of a run.

    Args:
        argv: A recipe file, arguments, or a recipe followed by arguments that replace some of its values. Where
            neither a recipe nor `--dataset` is given, the demo recipe is the recipe. Defaults to the command line.

    Returns:
        The three dataclasses.

    Raises:
        ValueError: The recipe cannot be read; it or the command line names an argument that does not exist; or a
            value cannot be used.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    recipe = Path(argv.pop(0)) if argv and argv[0].endswith(RECIPE_ENDINGS) else None
    if recipe is None and not any(argument.split("=")[0] in ("--dataset", "-h", "--help") for argument in argv):
        recipe = DEMO_RECIPE
    parser, known = _make_parser()
    if recipe is not None:
        parser.set_defaults(**read_recipe(recipe, known))
    *arguments, rest = parser.parse_args_into_dataclasses(argv, return_remaining_strings=True)
    if rest and not rest[0].startswith("--"):
        raise ValueError(f"{rest[0]!r} is the value of no argument; a recipe comes first and ends in .yaml or .json")
    if rest:
        name = rest[0].removeprefix("--").partition("=")[0]
        raise ValueError(f"there is no argument --{name}{_suggest(name, known)}")
    return tuple(arguments)


def _make_parser() -> tuple[HfArgumentParser, dict[str, argparse.Action]]:
    parser = HfArgumentParser((ModelArguments, DataArguments, SpeechTrainingArguments))
    # What is on by default has a second option without a value, such as --no_load_best_model_at_end.
    return parser, {action.dest: action for action in parser._actions if action.nargs != 0}


def known_arguments() -> dict[str, argparse.Action]:
    """The arguments that a run has, by name."""
    return _make_parser()[1]


def check_values(source: str, values: Mapping[str, str], known: Mapping[str, argparse.Action]) -> None:
    """Check names and types of values as the command line would, but with an error instead of an exit.

    Args:
        source: Where they were given, for the error.
        values: Text by argument; the parts of a list stand apart by blanks.
        known: The arguments that there are, by name.

    Raises:
        ValueError: An argument does not exist, or a value has the wrong type or is none of the choices.
    """
    for name, text in values.items():
        if name not in known:
            raise ValueError(f"{source}: there is no argument {name!r}{_suggest(name, known)}")
        action = known[name]
        value = _convert(source, action, text.split() if action.nargs == "+" else text)
        if action.choices and value not in action.choices:
            raise ValueError(f"{source}: {name} is {text!r}; choose one of {', '.join(map(str, action.choices))}")


def read_recipe(path: Path, known: Mapping[str, argparse.Action]) -> dict[str, object]:
    """Read a recipe, and check its names and values as the command line's are.

    Args:
        path: YAML or JSON file.
        known: The arguments that there are, by name.

    Returns:
        Value of each argument that the recipe names; a number too where YAML took one such as `3e-4` for text.

    Raises:
        ValueError: No such file, not a mapping, an unknown name, or a value of the wrong type.
    """
    if not path.is_file():
        raise ValueError(f"no recipe at {path}; give the path of a YAML or JSON file with a run's arguments")
    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))  # JSON is YAML
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(recipe, dict):
        raise ValueError(f"{path} holds {json.dumps(recipe)}; a recipe is a mapping from argument to value")
    for name in recipe:
        if name not in known:
            hint = _suggest(str(name), known)
            raise ValueError(f"{path} names the argument {name!r}, which does not exist{hint}")
    return {name: _convert(str(path), known[name], value) for name, value in recipe.items()}


def _suggest(name: str, known: Iterable[str]) -> str:
    similar = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {similar[0]}?" if similar else "; see run_finetune.py --help"


def _convert(source: str, action: argparse.Action, value: object) -> object:
    """Give a recipe's value the type that it would have from the command line."""
    if value is None or isinstance(value, dict) or not callable(action.type):
        return value
    wants_list = action.nargs == "+"
    if isinstance(value, list) and not wants_list and action.type is str:
        return value  # some of the Trainer's arguments, such as report_to, take text or a list
    try:
        converted = [action.type(str(one)) for one in (value if isinstance(value, list) and wants_list else [value])]
    except (ValueError, TypeError, argparse.ArgumentTypeError) as error:
        kind = getattr(action.type, "__name__", "value")
        kind = {"string_to_bool": "true or false", "int": "an integer", "float": "a number"}.get(kind, "such a value")
        raise ValueError(f"{source} gives {action.dest} the value {value!r}, which is not {kind}") from error
    return converted if wants_list else converted[0]
