"""The structure of the package: who imports whom, what travels to the Hub, what every module owes its readers."""

import ast
import importlib
import inspect
import re
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "hf_speechft"

# The order in which data passes through the folders; imports point to earlier ones.
FOLDERS = ["data", "model", "decoding", "scoring", "sharing", "training", "apps"]
IMPORT_EVERYTHING = {"training", "apps"}
# What a checkpoint may import where hf_speechft is not installed.
MODEL_LIBRARIES = {"torch", "numpy", "transformers", "tokenizers"} | sys.stdlib_module_names
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "misc"}

MODULES = sorted(PACKAGE.rglob("*.py"))
MODEL_FILES = [path for path in MODULES if path.parent.name == "model"]


def relative(path):
    return path.relative_to(ROOT).as_posix()


def imports_of(tree, package):
    """Yield (line, absolute dotted name) of everything imported in `tree`, lazy imports inside functions included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*parents, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{source}.{alias.name}") for alias in node.names)


def order_violations(source, folder):
    """List the imports in `source`, a module of `folder`, that don't point to the same or an earlier folder."""
    allowed = set(FOLDERS) if folder in IMPORT_EVERYTHING else set(FOLDERS[: FOLDERS.index(folder) + 1])
    violations = []
    for line, name in imports_of(ast.parse(source), f"hf_speechft.{folder}"):
        parts = name.split(".")
        if parts[0] != "hf_speechft" or folder in IMPORT_EVERYTHING:
            continue
        # The package's own __init__ imports everything, so a name taken from it counts as a later folder.
        if len(parts) < 2 or parts[1] not in allowed:
            violations.append(f"line {line}: {name}")
    return violations


def travel_violations(source, siblings):
    """List what keeps `source`, a file of model/, from working beside a checkpoint without hf_speechft."""
    tree = ast.parse(source)
    violations = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            foreign = [alias.name for alias in node.names if alias.name.split(".")[0] not in MODEL_LIBRARIES]
            violations += [f"line {node.lineno}: import {name}" for name in foreign]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            if node.module.split(".")[0] not in MODEL_LIBRARIES:
                violations.append(f"line {node.lineno}: from {node.module} import")
        elif isinstance(node, ast.ImportFrom) and (node.level != 1 or node.module not in siblings):
            violations.append(f"line {node.lineno}: from {'.' * node.level}{node.module or ''} import")
    # transformers looks for siblings with these expressions in the text, so prose in a docstring counts too.
    real_lines = {node.lineno for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    for number, line in enumerate(source.splitlines(), start=1):
        if number not in real_lines and re.match(r"\s*(from|import)\s+\.", line):
            violations.append(f"line {number}: text that looks like a relative import: {line.strip()}")
    return violations


def test_folders_of_the_package_are_known():
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert folders <= set(FOLDERS), f"unknown folders {sorted(folders - set(FOLDERS))}; known: {FOLDERS}"
    without_init = [name for name in sorted(folders) if not (PACKAGE / name / "__init__.py").is_file()]
    assert not without_init, f"folders without __init__.py: {without_init}"


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_module_imports_earlier_folders_only(path):
    folder = path.relative_to(PACKAGE).parts[0]
    if folder in FOLDERS:
        violations = order_violations(path.read_text(encoding="utf-8"), folder)
        assert not violations, f"{relative(path)} imports later folders: {violations}; the order is {FOLDERS}"


@pytest.mark.parametrize(
    ("folder", "source", "is_allowed"),
    [
        ("scoring", "from hf_speechft.data.audio import load_audio", True),
        ("scoring", "from ..data import audio", True),
        ("scoring", "from .metrics import WER", True),
        ("scoring", "import torch, transformers", True),
        ("data", "from hf_speechft.model import SpeechBertConfig", False),
        ("data", "def f():\n    from hf_speechft.model import SpeechBertConfig", False),
        ("scoring", "from ..training.trainer import train", False),
        ("scoring", "import hf_speechft", False),
        ("scoring", "from hf_speechft import SpeechBertForCTC", False),
        ("training", "from ..apps.command import main", True),
    ],
)
def test_order_violations_finds_imports_of_later_folders(folder, source, is_allowed):
    assert (not order_violations(source, folder)) == is_allowed


@pytest.mark.parametrize("path", MODEL_FILES, ids=relative)
def test_model_file_travels_without_the_package(path):
    siblings = {sibling.stem for sibling in MODEL_FILES} - {"__init__"}
    violations = travel_violations(path.read_text(encoding="utf-8"), siblings)
    assert not violations, (
        f"{relative(path)}: {violations}; files in model/ import the standard library, torch, numpy, transformers, "
        "tokenizers and `from .sibling import name` only"
    )


@pytest.mark.parametrize(
    ("source", "is_allowed"),
    [
        ("import math\nfrom torch import nn\nfrom .frontend_speechbert import output_lengths", True),
        ('"""Lengths come\n    from the front-end.\n"""', True),
        ("import torchaudio", False),
        ("from hf_speechft.model.frontend_speechbert import output_lengths", False),
        ("from . import frontend_speechbert", False),
        ("from ..model.frontend_speechbert import output_lengths", False),
        ("from .missing import name", False),
        ('"""Copied\n    from .frontend_speechbert import output_lengths\n"""', False),
    ],
)
def test_travel_violations_finds_what_transformers_cannot_copy(source, is_allowed):
    assert (not travel_violations(source, {"frontend_speechbert"})) == is_allowed


@pytest.mark.parametrize("path", [path for path in MODULES if path.stem != "__init__"], ids=relative)
def test_module_has_its_test_file(path):
    test_file = ROOT / "tests" / path.relative_to(PACKAGE).with_name(f"test_{path.name}")
    assert test_file.is_file(), f"{relative(path)} needs {relative(test_file)}"


def test_file_names_say_what_is_inside():
    folders = [PACKAGE, ROOT / "tests", ROOT / "benchmarks"]
    files = [path for folder in folders for path in folder.rglob("*.py")] + list(ROOT.glob("*.py"))
    vague = [relative(path) for path in files if path.stem.removeprefix("test_") in VAGUE_NAMES]
    assert not vague, f"name these files for what they hold: {vague}"


def public_objects():
    """Yield (module name, public name) for `hf_speechft` and each of its folders."""
    for folder in [None, *FOLDERS]:
        if folder is None or (PACKAGE / folder / "__init__.py").is_file():
            name = f"hf_speechft.{folder}" if folder else "hf_speechft"
            module = importlib.import_module(name)
            yield from ((name, public) for public in getattr(module, "__all__", []))


def own_docstring(value):
    """The docstring that was written for `value`: neither inherited nor the signature that dataclasses put there."""
    docstring = vars(value).get("__doc__", value.__doc__) or ""
    return "" if docstring.startswith(f"{value.__name__}(") else docstring


def test_public_names_import_and_have_a_docstring():
    assert importlib.import_module("hf_speechft").__all__
    missing, undocumented = [], []
    for module_name, public in public_objects():
        value = getattr(importlib.import_module(module_name), public, None)
        if value is None:
            missing.append(f"{module_name}.{public}")
        elif (inspect.isclass(value) or inspect.isroutine(value)) and not own_docstring(value):
            undocumented.append(f"{module_name}.{public}")
    assert not missing, f"named in __all__ but absent: {missing}"
    assert not undocumented, f"public but without a docstring: {undocumented}"


@pytest.mark.parametrize("path", [path for path in MODULES if path.parent.name != "apps"], ids=relative)
def test_module_prints_nothing(path):
    calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    lines = [call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]
    assert not lines, f"{relative(path)} prints in lines {lines}; library code logs, only apps print"


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_module_opens_with_a_docstring(path):
    source = path.read_text(encoding="utf-8")
    assert not source.strip() or ast.get_docstring(ast.parse(source)), f"{relative(path)} needs a module docstring"


def test_version_is_the_same_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert importlib.import_module("hf_speechft").__version__ == project["version"]
