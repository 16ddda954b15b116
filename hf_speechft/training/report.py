"""What a finished run says about itself: metrics.json, predictions.jsonl, curves and the model card."""

import json
import os
import platform
import resource
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import torch

import hf_speechft
from hf_speechft.data.corpora import is_demo
from hf_speechft.data.shards import is_pattern
from hf_speechft.scoring.bootstrap import bootstrap_interval, paired_bootstrap
from hf_speechft.scoring.curves import plot_training_curves
from hf_speechft.scoring.metrics import ErrorCounts, count_errors, total
from hf_speechft.sharing.card import CardFacts, ResultFacts, SampleFacts, SplitFacts, render_card
from hf_speechft.training.arguments import PACKAGED_MINILM, Arguments, ModelArguments, SpeechTrainingArguments
from hf_speechft.training.augmentation import describe_augmentation
from hf_speechft.training.checkpoints import METRICS_FILE
from hf_speechft.training.corpus import describe_sources
from hf_speechft.training.decode import Decoding
from hf_speechft.training.warmup import WarmupFacts

PREDICTIONS_FILE = "predictions.jsonl"
CURVES_FILE = "training_curves.png"
CARD_FILE = "README.md"
GREEDY = "greedy"
PACKAGES = ("torch", "transformers", "accelerate", "datasets")
MINILM_ON_THE_HUB = "sentence-transformers/all-MiniLM-L6-v2"


@dataclass(frozen=True)
class Prediction:
    """One utterance of the test split, decoded."""

    utterance_id: str
    reference: str
    hypothesis: str


@dataclass(frozen=True)
class RunFacts:
    """What training knows at its end and a report needs.

    Attributes:
        parameters: Number of weights.
        trainable_parameters: Number of weights that learned; of `lora`, those of its low-rank updates too.
        vocabulary_size: Number of units, the blank included.
        goes_on: Whether the checkpoint was a SpeechBERT already.
        attention: Direction of the transformer's attention.
        splits: The data as used.
        predictions: The test split, decoded greedily.
        decodings: The test split, decoded in other ways, in the order of the predictions.
        log_history: The Trainer's log.
        optimizer_steps: Updates made.
        epochs: Epochs made; None where the training split was streamed.
        minutes: Minutes from the first update to the last, evaluations included.
        warmup: The stage on synthetic speech, if there was one.
        averaged: Checkpoints whose weights were averaged; none where the weights are the best checkpoint's.
        blank_penalty: What was subtracted from the blank's bias after training.
    """

    parameters: int
    trainable_parameters: int
    vocabulary_size: int
    goes_on: bool
    attention: str
    splits: Sequence[SplitFacts]
    predictions: Sequence[Prediction]
    decodings: Sequence[Decoding]
    log_history: Sequence[Mapping[str, float]]
    optimizer_steps: int
    epochs: float | None
    minutes: float
    averaged: Sequence[str] = ()
    blank_penalty: float = 0.0
    warmup: WarmupFacts | None = None


def write_report(folder: Path, arguments: Arguments, facts: RunFacts) -> dict[str, object]:
    """Write predictions, curves, the card and, last, the metrics.

    Args:
        folder: The run's folder.
        arguments: The run's arguments.
        facts: What the run found.

    Returns:
        What metrics.json holds.
    """
    references = [one.reference for one in facts.predictions]
    hypotheses = [one.hypothesis for one in facts.predictions]
    decoded = {GREEDY: hypotheses} | {one.name: one.hypotheses for one in facts.decodings}
    words = {name: count_errors(references, texts, "word") for name, texts in decoded.items()}
    with (folder / PREDICTIONS_FILE).open("w", encoding="utf-8") as file:
        for index, (prediction, counts) in enumerate(zip(facts.predictions, words[GREEDY], strict=True)):
            others = {one.name: one.hypotheses[index] for one in facts.decodings}
            line = asdict(prediction) | {"word_errors": counts.errors} | ({"decodings": others} if others else {})
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    plot_training_curves(facts.log_history, folder / CURVES_FILE)
    results = {
        name: _result(arguments[1].test_split, name, words[name], count_errors(references, texts, "char"))
        for name, texts in decoded.items()
    }
    card = render_card(_card_facts(arguments, facts, list(results.values())))
    (folder / CARD_FILE).write_text(card, encoding="utf-8")
    metrics = _metrics(facts, results, words, arguments[2])
    (folder / METRICS_FILE).write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    return metrics


def _result(split: str, decoding: str, words: Sequence[ErrorCounts], characters: Sequence[ErrorCounts]) -> ResultFacts:
    return ResultFacts(
        split=split,
        decoding=decoding,
        utterances=len(words),
        words=total(words),
        characters=total(characters),
        wer_interval=bootstrap_interval(words),
        cer_interval=bootstrap_interval(characters),
    )


def _metrics(
    facts: RunFacts,
    results: Mapping[str, ResultFacts],
    words: Mapping[str, Sequence[ErrorCounts]],
    training: SpeechTrainingArguments,
) -> dict[str, object]:
    greedy = _rates(results[GREEDY])
    others = {
        one.name: _rates(results[one.name])
        | _compare(words[one.name], words[GREEDY])
        | {"settings": dict(one.settings)}
        for one in facts.decodings
    }
    return {
        "test": greedy,
        "decoding": {GREEDY: greedy} | others,
        "validation": _best_validation(facts.log_history, training),
        "data": [asdict(split) for split in facts.splits],
        "training": {
            "minutes": facts.minutes,
            "optimizer_steps": facts.optimizer_steps,
            "epochs": facts.epochs,
            "parameters": facts.parameters,
            "trainable_parameters": facts.trainable_parameters,
            "averaged_checkpoints": list(facts.averaged),
            "blank_penalty": facts.blank_penalty,
            "warmup": asdict(facts.warmup) if facts.warmup else None,
            "peak_memory_gb": peak_memory_gb(),
            "peak_gpu_memory_gb": peak_gpu_memory_gb(),
            "hardware": describe_hardware(),
            "versions": _versions(),
        },
    }


def _rates(result: ResultFacts) -> dict[str, object]:
    return {
        "utterances": result.utterances,
        "wer": result.words.rate,
        "wer_interval_95": list(result.wer_interval),
        "words": _counts(result.words),
        "cer": result.characters.rate,
        "cer_interval_95": list(result.cer_interval),
        "characters": _counts(result.characters),
    }


def _compare(words: Sequence[ErrorCounts], greedy: Sequence[ErrorCounts]) -> dict[str, object]:
    """The difference of a decoding from greedy decoding: below 0 where it has fewer errors."""
    comparison = paired_bootstrap(words, greedy)
    return {
        "wer_difference": comparison.difference,
        "wer_difference_interval_95": list(comparison.interval),
        "wer_difference_p_value": comparison.p_value,
    }


def _counts(counts: ErrorCounts) -> dict[str, int]:
    return asdict(counts) | {"reference_length": counts.reference_length}


def _best_validation(
    log_history: Sequence[Mapping[str, float]], training: SpeechTrainingArguments
) -> dict[str, float]:
    """The evaluation of the checkpoint that was kept, without averaging and the lowered blank."""
    evaluations = [entry for entry in log_history if "eval_wer" in entry and entry.get("step") != 0]
    if not evaluations:
        return {}
    best = evaluations[-1]
    if training.load_best_model_at_end:
        metric = f"eval_{training.metric_for_best_model.removeprefix('eval_')}"
        best = min(evaluations, key=lambda entry: entry[metric])
    return {"wer": best["eval_wer"], "cer": best["eval_cer"], "loss": best["eval_loss"], "epoch": best["epoch"]}


def _card_facts(arguments: Arguments, facts: RunFacts, results: Sequence[ResultFacts]) -> CardFacts:
    model, data, training = arguments
    step_schedule = f"StepLR every {training.step_lr_epochs} epochs, factor {training.step_lr_gamma}"
    packaged = model.model_name_or_path == PACKAGED_MINILM
    dataset = Path(data.dataset).expanduser()
    is_local = dataset.exists() or is_pattern(dataset)
    return CardFacts(
        model_name=Path(training.hub_model_id or training.output_dir).name,
        text_checkpoint=MINILM_ON_THE_HUB if packaged else model.model_name_or_path,
        dataset_name=dataset.name if is_local else data.dataset,
        repo_id=training.hub_model_id,
        dataset_id=None if is_local or is_demo(data.dataset) else data.dataset,
        dataset_config=data.dataset_config_name,
        splits=facts.splits,
        results=results,
        decoding=GREEDY,
        samples=[
            SampleFacts(one.utterance_id, one.reference, one.hypothesis)
            for one in sorted(facts.predictions, key=lambda one: one.utterance_id)
        ],
        samples_split=data.test_split,
        curves_file=CURVES_FILE,
        parameters=facts.parameters,
        goes_on=facts.goes_on,
        initialisation=_initialisation(training.method, model.vocabulary, facts.goes_on),
        warmup=_warmup(facts.warmup),
        frontend=_frontend(model),
        subsampling=model.subsampling,
        attention=facts.attention,
        vocabulary=model.vocabulary,
        vocabulary_size=facts.vocabulary_size,
        feature_type=model.feature_type,
        feature_size=model.feature_size,
        sampling_rate_hz=model.sampling_rate,
        text_normalizer=data.text_normalizer,
        epochs=facts.epochs,
        optimizer_steps=facts.optimizer_steps,
        batch_size=_batch_size(training),
        optimizer=str(getattr(training.optim, "value", training.optim)),
        scheduler=step_schedule if training.step_lr_epochs else str(training.lr_scheduler_type.value),
        learning_rate=training.learning_rate,
        head_learning_rate=training.new_learning_rate,
        augmentation=_augmentation(arguments),
        more_settings=_more_settings(arguments, facts) | _decoding_settings(facts.decodings),
        precision=training.precision,
        seed=training.seed,
        hardware=describe_hardware(),
        training_minutes=facts.minutes + (facts.warmup.minutes if facts.warmup else 0.0),
        command=command_line(training.hub_token),
        versions=_versions(),
    )


def _batch_size(training: SpeechTrainingArguments) -> int | str:
    """What one update learns from: a number of utterances, or seconds of speech."""
    batches = training.world_size * training.gradient_accumulation_steps
    if training.batch_seconds is None:
        return training.per_device_train_batch_size * batches
    seconds = f"at most {training.batch_seconds * batches:g} s of speech, padding included"
    return seconds if training.batch_clips is None else f"{seconds}, and {training.batch_clips * batches} utterances"


def _initialisation(method: str, vocabulary: str, goes_on: bool) -> str | None:
    if goes_on:
        return None
    if method == "random":
        return "random weights in the text checkpoint's shape; front-end and head new"
    if vocabulary == "native":
        return "pre-trained text checkpoint; front-end new, head from its word embeddings where they are as wide"
    return "pre-trained text checkpoint; front-end and head new"


def _warmup(warmup: WarmupFacts | None) -> str | None:
    if warmup is None:
        return None
    hours = warmup.duration_s / 3600
    return (
        f"{warmup.utterances} utterances ({hours:.2f} hours) of {warmup.text}, spoken by espeak-ng; "
        f"{warmup.epochs:g} epochs, {warmup.minutes:.1f} minutes"
    )


def _frontend(model: ModelArguments) -> str:
    return f"{model.frontend}, {model.adapter_layers} conformer layers" if model.adapter_layers else model.frontend


def _augmentation(arguments: Arguments) -> str:
    model, data, training = arguments
    masks = (
        f"SpecAugment: {model.mask_time_prob:.0%} of frames in masks of {model.mask_time_length}, "
        f"{model.mask_feature_prob:.0%} of mel bins in masks of {model.mask_feature_length}"
    )
    warp = [f"frequencies up to {model.frequency_warp:.0%} higher or lower"] if model.frequency_warp else []
    shift = [f"positions up to {model.position_shift} steps later"] if model.position_shift else []
    speeds = ", ".join(f"{factor:g}" for factor in data.speed_factors)
    clean = "epoch" if training.clean_epochs == 1 else f"{training.clean_epochs} epochs"
    stays = "speeds and positions" if shift else "speeds"
    parts = [
        masks,
        *warp,
        *shift,
        *([] if data.speed_factors == [1.0] else [f"speeds {speeds}"]),
        *describe_augmentation(data),
        *([f"but for {stays} none of it, nor CR-CTC, in the last {clean}"] if training.clean_epochs else []),
    ]
    return "; ".join(parts)


def _more_settings(arguments: Arguments, facts: RunFacts) -> dict[str, str]:
    model, data, training = arguments
    used = {
        "intermediate CTC, share": model.intermediate_ctc_weight,
        "consistency of two views (CR-CTC), weight": model.consistency_weight,
        "checkpoints averaged": len(facts.averaged),
        "blank's bias lowered on validation by": facts.blank_penalty,
    }
    balance = f"by {training.balance_by}, power {training.balance_power:g}" if training.balance_by else "no"
    warmup = f"{training.warmup_steps:g} {'of the updates' if training.warmup_steps < 1 else 'updates'}"
    body = "the checkpoint's own" if model.body_dropout is None else f"{model.body_dropout:g}"
    return {
        "training method": training.method,
        "classes balanced": balance,
        "warm-up": "none" if training.step_lr_epochs else warmup,
        "weight decay": f"{training.weight_decay:g}",
        "Adam's betas": f"{training.adam_beta1:g}, {training.adam_beta2:g}",
        "gradient norm at most": f"{training.max_grad_norm:g}",
        "dropout, front-end and head": f"{model.dropout:g}",
        "dropout, body": body,
        "dropout, attention": f"{model.attention_dropout:g}",
        **describe_sources(data),
    } | {name: f"{value:g}" for name, value in used.items() if value}


def _decoding_settings(decodings: Sequence[Decoding]) -> dict[str, str]:
    """What the last decoding was done with; the others use a part of it."""
    settings = decodings[-1].settings if decodings else {}
    return {
        name.replace("_", " "): f"{value:g}" if isinstance(value, float) else str(value)
        for name, value in settings.items()
    }


def command_line(hub_token: str | None = None) -> str:
    """The command that repeats the run; environment, launcher options and the Hub token are not in it.

    Args:
        hub_token: What a card, which is public, must not tell, however its option was spelled.
    """
    words = sys.argv[1:]
    if hub_token:
        is_secret = [hub_token in (word, word.partition("=")[2]) for word in words]
        names_it = [*(word == hub_token for word in words[1:]), False]
        words = [word for word, *leave_out in zip(words, is_secret, names_it, strict=True) if not any(leave_out)]
    return shlex.join(["accelerate", "launch", Path(sys.argv[0]).name, *words])


def describe_hardware() -> str:
    """Processor or GPU of this machine, in words."""
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    name = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        models = [line.partition(":")[2].strip() for line in information.open() if line.startswith("model name")]
        name = models[0] if models else name
    return f"{os.cpu_count()} CPU cores, {name}"


def peak_memory_gb() -> float:
    """Most memory in GB that this process has had resident."""
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / (1e9 if sys.platform == "darwin" else 1e6)  # bytes there, kilobytes on Linux


def peak_gpu_memory_gb() -> float | None:
    """Most memory in GB that this process has had tensors in, on the GPU that uses most; nothing without a GPU."""
    if not torch.cuda.is_available():
        return None
    return max(torch.cuda.max_memory_allocated(index) for index in range(torch.cuda.device_count())) / 1e9


def _versions() -> dict[str, str]:
    return {"hf_speechft": hf_speechft.__version__} | {package: version(package) for package in PACKAGES}
