"""Where a run starts: anew, from its last whole checkpoint, or not at all because something would be lost."""

import json
import shutil
from dataclasses import MISSING, asdict, fields
from pathlib import Path

from hf_speechft.decoding.decoder_files import DECODER_FOLDER
from hf_speechft.training.arguments import Arguments

ARGUMENTS_FILE = "arguments.json"
METRICS_FILE = "metrics.json"
STATE_FILE = "trainer_state.json"
BATCH_PARTS = "batch_parts"  # of arguments.json, where memory ran out
WARMUP_FOLDER = "warmup"  # checkpoint of the stage on synthetic speech
UNEVALUATED_FOLDER = "unevaluated"  # checkpoint between evaluations; see preemption.py
STREAM_FOLDER = "stream"  # where passes over a stream begin
# Arguments that do not change what is learned and, of those, what only the final decoding and evaluations look at.
VOLATILE = {"output_dir", "overwrite_output_dir", "resume_from_checkpoint", "logging_dir", "run_name", "disable_tqdm"}
VOLATILE |= {"push_to_hub", "hub_model_id", "hub_token", "hub_private_repo", "report_to", "local_rank", "cache_dir"}
VOLATILE |= {"dry_run", "max_corrupt_files", "save_total_limit", "per_device_eval_batch_size"}
VOLATILE |= {"use_cpu", "dataloader_pin_memory", "eval_on_start", "eval_accumulation_steps"}
VOLATILE |= {"beam_width", "lm_order", "lm_text", "rescoring_model"}

# What a checkpoint brings along, so that another value would be ignored.
KEPT = ("learning_rate", "new_learning_rate", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "optim")
KEPT += ("step_lr_epochs", "step_lr_gamma", "metric_for_best_model")
KEPT += ("eval_steps", "save_steps", "logging_steps", "early_stopping_patience")


def find_start(arguments: Arguments) -> str | None:
    """Say which checkpoint a run goes on from.

    A folder with an unfinished run of the same arguments is resumed. The file that the Trainer writes last tells a
    whole checkpoint from one that a kill or a full disk cut short. Nothing is removed here, not even where the folder
    is to be overwritten: the rest of the input may still turn out to be wrong.

    Args:
        arguments: The run's arguments.

    Returns:
        The checkpoint's folder, or `None` to start anew.

    Raises:
        ValueError: The folder holds a finished run, one with other arguments or what came after the checkpoint asked
            for, or that is not there or not whole.
    """
    training = arguments[2]
    folder = Path(training.output_dir)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--output_dir {folder} is a file; give the path of a folder, which is made if absent")
    asked = training.resume_from_checkpoint
    if asked and str(asked).lower() != "true":
        if not _is_whole(Path(asked)):
            others = ", ".join(path.name for path in whole_checkpoints(folder)) or "none"
            raise ValueError(f"{asked} is no whole checkpoint, as it lacks {STATE_FILE}; those in {folder}: {others}")
        _check_kept_arguments(Path(asked), arguments)
        _check_nothing_follows(Path(asked), folder)
        return str(asked)
    if training.overwrite_output_dir:
        if asked:
            raise ValueError("--overwrite_output_dir removes what --resume_from_checkpoint needs; leave one out")
        _check_source_stays(arguments[0].model_name_or_path, folder)
        return None
    if (folder / METRICS_FILE).exists():
        raise ValueError(
            f"{folder} holds a finished run; choose another --output_dir, or replace it with --overwrite_output_dir"
        )
    if not has_begun(folder):
        if asked:
            raise ValueError(f"--resume_from_checkpoint was given, but {folder} holds no whole checkpoint")
        return None
    _check_same_arguments(folder, arguments)
    checkpoints = whole_checkpoints(folder)
    return str(checkpoints[-1]) if checkpoints else None


def _check_kept_arguments(checkpoint: Path, arguments: Arguments) -> None:
    """Refuse other values of what the checkpoint's optimiser and state hold."""
    folder = checkpoint.parent.parent if checkpoint.parent.name == UNEVALUATED_FOLDER else checkpoint.parent
    changed = [one for one in changed_arguments(folder, arguments) if one.split()[0] in KEPT]
    if changed:
        raise ValueError(
            f"{checkpoint} goes on with its optimiser and state ({'; '.join(changed)} would be ignored); give the "
            f"values that it has, or start from its weights by --model_name_or_path {checkpoint}"
        )


def _check_nothing_follows(checkpoint: Path, folder: Path) -> None:
    """Refuse a folder with what the run from a checkpoint would be mixed up with: later checkpoints, or an end."""
    if (folder / METRICS_FILE).exists():
        raise ValueError(f"{folder} holds a finished run; choose another --output_dir to go on from {checkpoint}")
    checkpoints = whole_checkpoints(folder)
    if checkpoints and checkpoints[-1].resolve() != checkpoint.resolve():
        raise ValueError(
            f"{folder} holds {checkpoints[-1].name}, which a run from {checkpoint} would be mixed up with; choose "
            "another --output_dir, or go on from the last checkpoint there with --resume_from_checkpoint true"
        )


def _check_source_stays(source: str, folder: Path) -> None:
    """Refuse to start from a checkpoint that is about to be removed."""
    if Path(source).expanduser().resolve() in [path.resolve() for path in _checkpoints(folder)]:
        raise ValueError(
            f"--overwrite_output_dir would remove {source}, the checkpoint to start from; choose another --output_dir"
        )


def is_trained(checkpoint: str) -> bool:
    """Tell whether training had ended, by its last update or by early stopping, when a checkpoint was saved."""
    state = json.loads((Path(checkpoint) / STATE_FILE).read_text(encoding="utf-8"))
    control = state.get("stateful_callbacks", {}).get("TrainerControl", {})
    return bool(control.get("args", {}).get("should_training_stop"))


def record_arguments(arguments: Arguments, batch_parts: int = 1) -> None:
    """Write the arguments into the run's folder, for `find_start` and for whoever wants to repeat the run.

    Args:
        arguments: As the user gave them.
        batch_parts: Parts that each batch is cut into because it did not fit into memory.
    """
    folder = Path(arguments[2].output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    content = _as_json(arguments) | ({BATCH_PARTS: batch_parts} if batch_parts > 1 else {})
    (folder / ARGUMENTS_FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def recorded_parts(arguments: Arguments) -> int:
    """Parts that an earlier start of the same run had to cut its batches into; 1 where it had not to."""
    folder = Path(arguments[2].output_dir)
    recorded = folder / ARGUMENTS_FILE
    if arguments[2].overwrite_output_dir or not recorded.exists() or changed_arguments(folder, arguments):
        return 1
    return json.loads(recorded.read_text(encoding="utf-8")).get(BATCH_PARTS, 1)


def _as_json(arguments: Arguments) -> dict[str, object]:
    model, data, training = arguments
    merged = asdict(model) | asdict(data) | training.to_dict() | {"world_size": training.world_size}
    if training.chose_precision:
        del merged["bf16"]  # another machine may choose another
    kept = {name: value for name, value in merged.items() if name not in VOLATILE and not name.startswith("hub_")}
    return json.loads(json.dumps(kept, default=str))


def changed_arguments(folder: Path, arguments: Arguments) -> list[str]:
    """Say in what the arguments differ from those recorded in a run's folder, such as `seed 1 -> 2`.

    One that the record lacks came with a newer version of this library or of transformers; it counts as what it is by
    default.
    """
    recorded = folder / ARGUMENTS_FILE
    if not recorded.exists():
        return []
    defaults = {
        one.name: one.default if one.default_factory is MISSING else one.default_factory()
        for part in arguments
        for one in fields(part)
    }
    now = _as_json(arguments)
    before = defaults | {"world_size": now["world_size"]} | json.loads(recorded.read_text(encoding="utf-8"))
    return [f"{name} {before.get(name)!r} -> {now[name]!r}" for name in now if before.get(name) != now[name]]


def _check_same_arguments(folder: Path, arguments: Arguments) -> None:
    if changed := changed_arguments(folder, arguments):
        raise ValueError(
            f"{folder} holds an unfinished run with other arguments ({'; '.join(changed)}); go on with the same ones, "
            "choose another --output_dir, or start anew with --overwrite_output_dir"
        )


def _checkpoints(folder: Path) -> list[Path]:
    found = [*folder.glob("checkpoint-*"), *folder.glob(f"{UNEVALUATED_FOLDER}/checkpoint-*")]
    numbered = [path for path in found if path.name.rpartition("-")[2].isdigit()]
    return sorted(numbered, key=lambda path: int(path.name.rpartition("-")[2]))


def _is_whole(checkpoint: Path) -> bool:
    try:
        json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


def whole_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints of a run's folder that were saved to their end, evaluated or not, the oldest first."""
    return [path for path in _checkpoints(folder) if _is_whole(path)]


def has_begun(folder: Path) -> bool:
    """Tell whether a folder holds a checkpoint to go on from, of the run or of its stage on synthetic speech."""
    return bool(whole_checkpoints(folder) or whole_checkpoints(folder / WARMUP_FOLDER))


def remove_run(folder: Path) -> None:
    """Remove what is left of an earlier run: its checkpoints, arguments, metrics and decoder.

    The new run may save no decoder, and the old one would go on deciding what the new model writes.
    """
    for checkpoint in _checkpoints(folder):
        shutil.rmtree(checkpoint)
    for name in (WARMUP_FOLDER, UNEVALUATED_FOLDER, STREAM_FOLDER, DECODER_FOLDER):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in (METRICS_FILE, ARGUMENTS_FILE):
        (folder / name).unlink(missing_ok=True)
