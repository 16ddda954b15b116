"""An ablation: a recipe trained in several ways (arms) and with several seeds, each run in a process of its own.

A process for each run, because the peak of memory is a process's and because the crash of one run is not the end of
the others. Runs lie in `<folder>/<arm>/seed<seed>`. One with metrics.json is finished; the others go on by themselves
when they are started again, from their last checkpoint. `ablation_results` reads what they found.
"""

import json
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hf_speechft.training.argument_checks import METHODS
from hf_speechft.training.arguments import Arguments
from hf_speechft.training.checkpoints import METRICS_FILE, changed_arguments, has_begun
from hf_speechft.training.recipes import check_values, known_arguments, parse_arguments, read_recipe
from hf_speechft.training.recogniser import adopt_speechbert, is_speechbert

CONTROL = "random"
SEED = 42
# The name of the program stands in the command that a run's model card tells.
TRAIN = "import sys; sys.argv[0] = 'run_finetune.py'; from hf_speechft.training.finetune import main; main()"
CHECK = "from hf_speechft.training.ablate import check_runs; check_runs()"
SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
# What the ablation itself decides for each run, and what would leave this machine or train anew each time.
DECIDED = ("output_dir", "seed", "overwrite_output_dir", "resume_from_checkpoint", "push_to_hub")
DATA = ("dataset", "dataset_config_name", "train_split", "validation_split", "test_split")
DATA += ("audio_column", "text_column", "speaker_column", "text_normalizer")


@dataclass(frozen=True)
class Arm:
    """One way to train: its name, what it was given as, and the arguments in which it differs from the recipe."""

    name: str
    given: str
    values: Mapping[str, str]


@dataclass(frozen=True)
class Run:
    """One arm with one seed: its folder and its command line for `finetune.main`."""

    arm: str
    seed: int
    folder: Path
    argv: Sequence[str]

    @property
    def is_finished(self) -> bool:
        """Whether the run has written its results."""
        return (self.folder / METRICS_FILE).exists()


@dataclass(frozen=True)
class Ablation:
    """A plan that was checked.

    Attributes:
        folder: Where runs and results go.
        arms: In the order given.
        seeds: In the order given.
        control: Name of the arm that the others are compared with.
        dataset: As the recipe names it.
        runs: All arms of the first seed, then of the second: so there is a comparison early.
        command: The command that repeats it.
    """

    folder: Path
    arms: Sequence[Arm]
    seeds: Sequence[int]
    control: str
    dataset: str
    runs: Sequence[Run]
    command: str

    @property
    def unfinished(self) -> list[Run]:
        """Runs that are still to be trained, or to be trained to their end."""
        return [run for run in self.runs if not run.is_finished]


def plan_ablation(
    recipe: str,
    arms: Sequence[str],
    *,
    folder: str | Path,
    seeds: Sequence[int] = (SEED,),
    control: str = CONTROL,
    settings: Sequence[str] = (),
) -> Ablation:
    """Plan the runs, and check what can be checked without loading data or weights.

    Args:
        recipe: YAML or JSON file with the arguments of all runs.
        arms: Each a training method, or `name:argument=value,argument=value`.
        folder: Where runs and results go.
        seeds: Each arm is trained once with each.
        control: Name of the arm that the others are compared with.
        settings: `argument=value` for all arms, in place of the recipe's values.

    Returns:
        The plan.

    Raises:
        ValueError: An arm, argument, value or seed cannot be used, the control is none of the arms, or the folder
            holds a run with other arguments.
    """
    known = known_arguments()
    shared = _parse_values("--set", settings)
    parsed = [parse_arm(arm) for arm in arms]
    _check_names([arm.name for arm in parsed], seeds, control)
    _check_values("--set", shared, known)
    for arm in parsed:
        _check_values(f"--arm {arm.name}", arm.values, known, refused=DATA)
    if "beam_width" not in read_recipe(Path(recipe), known):
        shared = {"beam_width": "1"} | shared  # training is compared, not decoding
    folder = Path(folder)
    runs = [_plan_run(recipe, folder, arm, seed, shared, known) for seed in seeds for arm in parsed]
    command = ["hf-speechft", "ablate", recipe, *(word for arm in parsed for word in ("--arm", arm.given))]
    command += [word for seed in seeds for word in ("--seeds", str(seed))]
    command += ["--output-dir", str(folder), "--control", control]
    command += [word for setting in settings for word in ("--set", setting)]
    dataset = parse_arguments(list(runs[0].argv))[1].dataset
    return Ablation(folder, parsed, list(seeds), control, dataset, runs, shlex.join(command))


def parse_arm(given: str) -> Arm:
    """Read an arm. A name that is a training method stands for that method, with or without other arguments.

    >>> parse_arm("lora:learning_rate=1e-3").values
    {'method': 'lora', 'learning_rate': '1e-3'}

    Raises:
        ValueError: The name is no safe folder name, nothing says what the arm changes, or an argument has no value.
    """
    name, colon, values = given.partition(":")
    if not SAFE_NAME.fullmatch(name):
        raise ValueError(
            f"--arm {given!r}: {name!r} cannot name a folder; begin with a letter or digit, and go on with letters, "
            "digits and . _ + -"
        )
    if name not in METHODS and not values:
        raise ValueError(
            f"--arm {given!r}: say what it changes, as in --arm {name}:learning_rate=1e-4; only a training method "
            f"({', '.join(METHODS)}) goes without"
        )
    parsed = _parse_values(f"--arm {name}", values.split(",") if colon else [])
    if name in METHODS and parsed.get("method", name) != name:
        raise ValueError(f"--arm {given!r} is named for a method and trains another; give it another name")
    return Arm(name, given, ({"method": name} if name in METHODS else {}) | parsed)


def _parse_values(source: str, settings: Sequence[str]) -> dict[str, str]:
    values: dict[str, str] = {}
    for setting in settings:
        name, equals, value = (part.strip() for part in setting.partition("="))
        if not (name and equals and value):
            raise ValueError(f"{source}: {setting!r} is not argument=value, such as num_train_epochs=5")
        if name in values:
            raise ValueError(f"{source}: {name} is given twice; leave one out")
        values[name] = value
    return values


def _check_names(names: Sequence[str], seeds: Sequence[int], control: str) -> None:
    if not names:
        raise ValueError("no arm was given; name two or more, such as --arm full --arm random")
    if not seeds:
        raise ValueError("no seed was given; give one or more, such as --seeds 42 --seeds 43")
    for flag, given in (("--arm", names), ("--seeds", seeds)):
        twice = [one for index, one in enumerate(given) if one in given[:index]]
        if twice:
            raise ValueError(f"{flag} {twice[0]} is given twice; leave one out, or give it another name")
    if control not in names:
        raise ValueError(
            f"--control {control} is none of the arms ({', '.join(names)}); add --arm {control}, or name one of them"
        )


def _check_values(
    source: str, values: Mapping[str, str], known: Mapping[str, object], refused: Sequence[str] = ()
) -> None:
    for name in values:
        if name in DECIDED or name.startswith("hub_"):
            raise ValueError(f"{source}: {name} is not for an ablation to change; leave it out")
        if name in refused:
            raise ValueError(f"{source}: {name} has to be the same for all arms; give it to all with --set")
    check_values(source, values, known)


def _plan_run(
    recipe: str, folder: Path, arm: Arm, seed: int, shared: Mapping[str, str], known: Mapping[str, object]
) -> Run:
    """Plan a run; what is in its folder has to be the same run."""
    run_folder = folder / arm.name / f"seed{seed}"
    argv = [recipe]
    for name, value in (shared | arm.values | {"output_dir": str(run_folder), "seed": str(seed)}).items():
        argv += [f"--{name}", *value.split()] if known[name].nargs == "+" else [f"--{name}={value}"]
    try:
        arguments = _resolve(parse_arguments(argv))
    except (ValueError, OSError, ImportError) as error:
        raise ValueError(f"arm {arm.name}: {error}") from error
    run = Run(arm.name, seed, run_folder, argv)
    changed = changed_arguments(run_folder, arguments) if run.is_finished or has_begun(run_folder) else []
    if changed:
        raise ValueError(
            f"{run_folder} holds a run with other arguments ({'; '.join(changed)}); go on with the same ones, choose "
            "another --output-dir, or remove that folder"
        )
    return run


def _resolve(arguments: Arguments) -> Arguments:
    """Arguments as a run records them."""
    model, data, training = arguments
    for name in ("overwrite_output_dir", "resume_from_checkpoint", "push_to_hub"):
        if getattr(training, name):
            raise ValueError(f"the recipe sets {name}, which is not for an ablation to do; leave it out")
    return (adopt_speechbert(model) if is_speechbert(model) else model), data, training


def check_start(ablation: Ablation) -> int:
    """Make the first unfinished run of each arm ready in a process of its own: what else is wrong shows before hours.

    Returns:
        The process's exit code; it has said on standard error what is wrong.
    """
    first = {run.arm: list(run.argv) for run in reversed(ablation.unfinished)}
    ordered = {arm.name: first[arm.name] for arm in ablation.arms if arm.name in first}
    return _execute([sys.executable, "-c", CHECK, json.dumps(ordered)]) if ordered else 0


def check_runs() -> None:
    """Make runs ready to train, and stop there. The command line is JSON: argv by arm.

    Raises:
        SystemExit: A run's input is wrong.
    """
    from hf_speechft.training.finetune import FineTuning, show_progress

    show_progress()
    for arm, argv in json.loads(sys.argv[1]).items():
        try:
            FineTuning(parse_arguments(argv))
        except (ValueError, OSError, ImportError) as error:
            raise SystemExit(f"error: arm {arm}: {error}") from None


def train(run: Run) -> int:
    """Train in a process of its own, whose output is shown as it comes.

    Returns:
        Its exit code, as a shell gives it; 0 where the run has its results.
    """
    return _execute([sys.executable, "-c", TRAIN, *run.argv])


def _execute(command: Sequence[str]) -> int:
    """Run a command to its end. SIGTERM is passed on, since a run then saves a checkpoint and ends itself."""
    with subprocess.Popen(command) as process:
        before = signal.signal(signal.SIGTERM, lambda number, frame: process.terminate())
        try:
            code = process.wait()
        finally:
            signal.signal(signal.SIGTERM, before)
    return 128 - code if code < 0 else code  # killed by a signal
