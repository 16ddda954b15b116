"""`run_finetune.py --dry_run`: what a run would use, drop and take, for a terminal."""

import textwrap
from typing import TYPE_CHECKING

import typer

from hf_speechft.training.dry_run import RunForecast, StageForecast, forecast

if TYPE_CHECKING:
    from hf_speechft.training.arguments import SpeechTrainingArguments
    from hf_speechft.training.finetune import FineTuning

_WIDTH = 110
_LABEL = 13
_COLUMNS = f"{{:<{_LABEL}}}{{:>8}} {{:>8}} {{:>8}}  {{}}"
_UNITS_SHOWN = 60


def show_forecast(run: "FineTuning") -> None:
    """Measure a run that is ready to train, and print what it would use, drop and take.

    Args:
        run: The run, which is not to be trained afterwards.
    """
    found = forecast(run)
    if run.trainer.is_world_process_zero():
        typer.echo(summary(found, run))


def summary(found: RunForecast, run: "FineTuning") -> str:
    """Write a forecast for a terminal.

    Args:
        found: The forecast.
        run: The run that it is of.

    Returns:
        Lines of up to 110 characters.
    """
    training = run.training_arguments
    start = f", going on from {run.checkpoint}" if run.checkpoint else ""
    facts = {
        "model": f"{run.model_arguments.model_name_or_path}, {found.parameters:,} weights, of which "
        f"{found.trainable_parameters:,} learn (method {training.method})",
        "units": f"{len(found.units)} and the blank ({run.model_arguments.vocabulary}): {_some(found.units)}",
        "batches": _batches(training),
        **{stage.name: _stage(stage) for stage in found.stages},
        "memory": _memory(found, training.world_size),
        "time": _time(found),
        "machine": f"{found.hardware}; {training.precision}",
    }
    lines = [f"dry run of {run.folder} on {run.data_arguments.dataset}{start}: nothing is trained or written", ""]
    lines += [_COLUMNS.format("split", "clips", "hours", "speakers", "dropped"), *_split_lines(found), ""]
    return "\n".join([*lines, *(line for label, text in facts.items() for line in _wrapped(label, text))])


def _split_lines(found: RunForecast) -> list[str]:
    lines = []
    for split in found.splits:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in split.dropped.items())
        hours = found.dropped_s[split.name] / 3600
        dropped = f"{sum(split.dropped.values()):,} clips, {hours:,.2f} h: {reasons}" if reasons else "nothing"
        speakers = "unknown" if split.speakers is None else f"{split.speakers:,}"
        cells = (split.name, f"{split.utterances:,}", f"{split.duration_s / 3600:,.2f}", speakers, dropped)
        lines.append(_COLUMNS.format(*cells))
    return lines


def _some(units: list[str]) -> str:
    more = len(units) - _UNITS_SHOWN
    return " ".join(units[:_UNITS_SHOWN]) + (f" and {more:,} more" if more > 0 else "")


def _batches(training: "SpeechTrainingArguments") -> str:
    size = f"{training.per_device_train_batch_size} clips"
    if training.batch_seconds is not None:
        limit = f" and {training.batch_clips} clips" if training.batch_clips else ""
        size = f"{training.batch_seconds:g} s{limit} at most"
    processes = f" on each of {training.world_size} processes" if training.world_size > 1 else ""
    return f"{size}; an update takes {training.gradient_accumulation_steps}{processes}"


def _stage(stage: StageForecast) -> str:
    done = f", of which {stage.updates_done:,} are made" if stage.updates_done else ""
    return (
        f"{stage.updates:,} updates{done}, {stage.updates_per_epoch:,} an epoch of {stage.clips:,} clips "
        f"({stage.duration_s / 3600:,.2f} h); {stage.padding:.1%} of a batch is padding; the largest holds "
        f"{stage.largest_clips:,} clips of up to {stage.largest_s:.1f} s; an update takes {stage.update_s:.2g} s, "
        f"{stage.loading:.0%} of the work is loading"
    )


def _memory(found: RunForecast, processes: int) -> str:
    of_all = f" of {found.memory_gb:.1f}" if found.memory_gb else ""
    each = f" in each of {processes} processes" if processes > 1 else ""
    return (
        f"{found.peak_memory_gb:.1f}{of_all} GB{each}: the peak of this dry run, which made the largest update twice"
    )


def _time(found: RunForecast) -> str:
    stages = [f"{stage.name} {stage.minutes:.1f}" for stage in found.stages]
    evaluations = f"{found.evaluations} evaluations {found.evaluation_minutes:.1f}"
    return (
        f"{found.minutes:.1f} min ({', '.join([*stages, evaluations])}), and besides that reading the data, saving "
        "and the final decoding"
    )


def _wrapped(label: str, text: str) -> list[str]:
    indent = " " * _LABEL
    return textwrap.wrap(text, _WIDTH, initial_indent=f"{label:<{_LABEL}}", subsequent_indent=indent)
