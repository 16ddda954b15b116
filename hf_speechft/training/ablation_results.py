"""What the arms of an ablation found: error rates, how sure they are, what they cost; as a table, JSON and a picture.

Errors are counted anew from each run's predictions.jsonl. An utterance's errors are summed over the seeds before
utterances are drawn: a bootstrap over (utterance, seed) pairs would take one hard utterance for several.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean

from hf_speechft.scoring.bootstrap import Interval, PairedComparison, bootstrap_interval, paired_bootstrap
from hf_speechft.scoring.comparison import Bar, plot_comparison
from hf_speechft.scoring.metrics import ErrorCounts, count_errors, total
from hf_speechft.training.ablate import Ablation, Run
from hf_speechft.training.checkpoints import METRICS_FILE
from hf_speechft.training.report import PREDICTIONS_FILE

TABLE_FILE = "ablation.md"
JSON_FILE = "ablation.json"
FIGURE_FILE = "ablation.png"
RESAMPLES = 10_000  # p-values down to 0.0002

Counts = Mapping[str, ErrorCounts]  # by utterance


@dataclass(frozen=True)
class RunResult:
    """What one run found: errors of each utterance of the test split, and its metrics.json."""

    run: Run
    words: Counts
    characters: Counts
    metrics: Mapping[str, object]


@dataclass(frozen=True)
class ArmResult:
    """What the runs of one arm found together.

    Attributes:
        name: The arm.
        utterances: Different utterances of the test split.
        words: Errors of all seeds, over the reference words of all seeds.
        wer_interval: 95 % bootstrap interval over utterances.
        seed_wers: WER of each seed.
        characters: As `words`.
        difference: WER less that of the control, on the seeds and utterances that both have; nothing for the control
            itself, and where they have none in common.
        minutes: Mean of training, its evaluations and the stage on synthetic speech included.
        peak_memory_gb: Of the run that took most: tensors on the GPU, or else what the process had resident.
        parameters: Number of weights.
        trainable_parameters: Number of weights that learned.
    """

    name: str
    utterances: int
    words: ErrorCounts
    wer_interval: Interval
    seed_wers: Mapping[int, float]
    characters: ErrorCounts
    difference: PairedComparison | None
    minutes: float
    peak_memory_gb: float
    parameters: int
    trainable_parameters: int


def read_run(run: Run) -> RunResult:
    """Read a finished run and count its errors anew."""
    metrics = json.loads((run.folder / METRICS_FILE).read_text(encoding="utf-8"))
    with (run.folder / PREDICTIONS_FILE).open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    ids = [row["utterance_id"] for row in rows]
    texts = [row["reference"] for row in rows], [row["hypothesis"] for row in rows]
    words, characters = (dict(zip(ids, count_errors(*texts, unit), strict=True)) for unit in ("word", "char"))
    return RunResult(run, words, characters, metrics)


def pool(seeds: Sequence[Counts]) -> dict[str, ErrorCounts]:
    """Sum the errors of each utterance over seeds."""
    pooled: dict[str, ErrorCounts] = {}
    for counts in seeds:
        for utterance, count in counts.items():
            pooled[utterance] = pooled.get(utterance, ErrorCounts()) + count
    return pooled


def compare(arm: Sequence[RunResult], control: Sequence[RunResult]) -> PairedComparison | None:
    """Compare the word errors of two arms, where a seed of both decoded the same utterance."""
    of_control = {result.run.seed: result.words for result in control}
    pairs = [(result.words, of_control[result.run.seed]) for result in arm if result.run.seed in of_control]
    shared = [[utterance for utterance in words if utterance in others] for words, others in pairs]
    ours = pool([{one: words[one] for one in names} for (words, _), names in zip(pairs, shared, strict=True)])
    theirs = pool([{one: others[one] for one in names} for (_, others), names in zip(pairs, shared, strict=True)])
    if not ours:
        return None
    return paired_bootstrap(list(ours.values()), list(theirs.values()), resamples=RESAMPLES)


def summarise(arm: Sequence[RunResult], control: Sequence[RunResult]) -> ArmResult:
    """Put the runs of an arm together.

    Args:
        arm: One or more runs.
        control: The runs of the control, maybe the same.
    """
    words = pool([result.words for result in arm])
    costs = [result.metrics["training"] for result in arm]
    warmups = [cost["warmup"]["minutes"] if cost["warmup"] else 0.0 for cost in costs]
    return ArmResult(
        name=arm[0].run.arm,
        utterances=len(words),
        words=total(words.values()),
        wer_interval=bootstrap_interval(list(words.values()), resamples=RESAMPLES),
        seed_wers={result.run.seed: total(result.words.values()).rate for result in arm},
        characters=total(pool([result.characters for result in arm]).values()),
        difference=None if arm is control else compare(arm, control),
        minutes=fmean(cost["minutes"] + warmup for cost, warmup in zip(costs, warmups, strict=True)),
        peak_memory_gb=max(cost["peak_gpu_memory_gb"] or cost["peak_memory_gb"] for cost in costs),
        parameters=costs[0]["parameters"],
        trainable_parameters=costs[0]["trainable_parameters"],
    )


def write_results(ablation: Ablation) -> str:
    """Write the table, the JSON and the picture of the runs that are finished.

    Returns:
        The table, with what it says about itself; a line where no run is finished, and then nothing is written.
    """
    results = [read_run(run) for run in ablation.runs if run.is_finished]
    if not results:
        return "no run is finished yet\n"
    by_arm = {arm.name: [result for result in results if result.run.arm == arm.name] for arm in ablation.arms}
    arms = [summarise(runs, by_arm[ablation.control]) for runs in by_arm.values() if runs]
    table = render(ablation, arms, results)
    (ablation.folder / TABLE_FILE).write_text(table, encoding="utf-8")
    summary = json.dumps(_as_json(ablation, arms, results), indent=2)
    (ablation.folder / JSON_FILE).write_text(summary + "\n", encoding="utf-8")
    bars = [Bar(arm.name, arm.words.rate, arm.wer_interval, list(arm.seed_wers.values())) for arm in arms]
    plot_comparison(bars, ablation.folder / FIGURE_FILE, reference=ablation.control)
    return table


def render(ablation: Ablation, arms: Sequence[ArmResult], results: Sequence[RunResult]) -> str:
    """Write the table in Markdown, with how to read it and where it comes from."""
    header = [
        "arm", "WER (95 % interval)", "seeds: lowest to highest", "CER",
        f"difference to {ablation.control}, points (95 % interval)", "p", "minutes", "peak memory, GB", "parameters",
        "that learned",
    ]  # fmt: skip
    rows = [header, ["---", *["---:"] * (len(header) - 1)], *(_row(arm, ablation.control) for arm in arms)]
    lines = ["# Ablation", "", *("| " + " | ".join(row) + " |" for row in rows), "", _caption(ablation, results), ""]
    todo = ablation.unfinished
    if todo:
        named = ", ".join(f"{run.arm} with seed {run.seed}" for run in todo)
        lines += [f"Not finished: {len(todo)} of {len(ablation.runs)} runs ({named}).", ""]
    return "\n".join([*lines, *_origin(ablation, results), ""])


def _row(arm: ArmResult, control: str) -> list[str]:
    low, high = min(arm.seed_wers.values()), max(arm.seed_wers.values())
    if arm.difference is None:
        difference, p_value = "control" if arm.name == control else "", ""
    else:
        difference = f"{100 * arm.difference.difference:+.1f} ({_range(arm.difference.interval, '+.1f')})"
        p_value = f"{arm.difference.p_value:.4f}"
    return [
        arm.name,
        f"{100 * arm.words.rate:.1f} % ({_range(arm.wer_interval, '.1f')})",
        f"{len(arm.seed_wers)}: {_range((low, high), '.1f')}",
        f"{100 * arm.characters.rate:.1f} %",
        difference,
        p_value,
        f"{arm.minutes:.1f}",
        f"{arm.peak_memory_gb:.2f}",
        f"{arm.parameters:,}",
        f"{arm.trainable_parameters:,}",
    ]


def _range(bounds: Sequence[float], form: str) -> str:
    return " to ".join(f"{100 * bound:{form}}" for bound in bounds)


def _caption(ablation: Ablation, results: Sequence[RunResult]) -> str:
    memory = {"GPU" if result.metrics["training"]["peak_gpu_memory_gb"] else "process" for result in results}
    sizes = {len(result.words) for result in results}
    uneven = (
        f" The runs decoded from {min(sizes)} to {max(sizes)} utterances, as their models take clips of other lengths."
    )
    return (
        "WER and CER are of the test split, decoded greedily: the errors of all seeds over the reference units of all "
        "seeds. Intervals are percentiles of a bootstrap over utterances, each with its errors summed over seeds "
        f"({RESAMPLES:,} resamples): they say what other utterances might have given, not what other seeds might; for "
        "that, see the lowest and the highest seed. The difference is on the seeds and utterances that both arms have "
        f"(below 0: fewer errors than {ablation.control}), its interval and two-sided p from a paired bootstrap, not "
        "corrected for the number of arms. Minutes are the mean over seeds, of training with its evaluations; memory "
        f"is the peak of the {' or '.join(sorted(memory))} in the run that took most; the last column counts the "
        f"weights that learned.{uneven if len(sizes) > 1 else ''}"
    )


def _origin(ablation: Ablation, results: Sequence[RunResult]) -> list[str]:
    """Lines about the data, the machine, the versions and the command."""
    splits = [
        f"{split['name']} {split['utterances']:,} utterances, {split['duration_s'] / 3600:.2f} h"
        for split in results[0].metrics["data"]
    ]
    words = total(results[0].words.values()).reference_length
    versions = [
        ", ".join(f"{name} {version}" for name, version in one.items()) for one in _distinct(results, "versions")
    ]
    return [
        f"- Data set: {ablation.dataset} ({'; '.join(splits)}, {words:,} words)",
        f"- Hardware: {'; '.join(_distinct(results, 'hardware'))}",
        f"- Versions: {'; '.join(versions)}",
        f"- Command: `{ablation.command}`",
    ]


def _distinct(results: Sequence[RunResult], key: str) -> list:
    """Values of the runs' metrics, each once: an ablation may go on on another machine."""
    found = []
    for result in results:
        value = result.metrics["training"][key]
        if value not in found:
            found.append(value)
    return found


def _as_json(ablation: Ablation, arms: Sequence[ArmResult], results: Sequence[RunResult]) -> dict[str, object]:
    values = {arm.name: dict(arm.values) for arm in ablation.arms}
    return {
        "command": ablation.command,
        "dataset": ablation.dataset,
        "data": results[0].metrics["data"],
        "hardware": _distinct(results, "hardware"),
        "versions": _distinct(results, "versions"),
        "control": ablation.control,
        "seeds": list(ablation.seeds),
        "resamples": RESAMPLES,
        "unfinished": [{"arm": run.arm, "seed": run.seed} for run in ablation.unfinished],
        "arms": [
            {
                "name": arm.name,
                "arguments": values[arm.name],
                "utterances": arm.utterances,
                "wer": arm.words.rate,
                "wer_interval_95": list(arm.wer_interval),
                "words": _counts(arm.words),
                "seed_wers": dict(arm.seed_wers),
                "cer": arm.characters.rate,
                "characters": _counts(arm.characters),
                "wer_difference": arm.difference and arm.difference.difference,
                "wer_difference_interval_95": arm.difference and list(arm.difference.interval),
                "wer_difference_p_value": arm.difference and arm.difference.p_value,
                "minutes": arm.minutes,
                "peak_memory_gb": arm.peak_memory_gb,
                "parameters": arm.parameters,
                "trainable_parameters": arm.trainable_parameters,
            }
            for arm in arms
        ],
    }


def _counts(counts: ErrorCounts) -> dict[str, int]:
    return asdict(counts) | {"reference_length": counts.reference_length}
