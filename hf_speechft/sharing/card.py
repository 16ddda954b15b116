"""The model card of a finished run: facts in, README.md with `model-index` metadata out.

Training fills `CardFacts`; nothing here measures or guesses, and what is None reads "not recorded". Words are in
card_template.md (jinja2, rendered by huggingface_hub).
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import EvalResult, ModelCard, ModelCardData

if TYPE_CHECKING:
    # Its module loads evaluate, which takes seconds that saving and pushing don't need.
    from ..scoring.metrics import ErrorCounts

NOT_RECORDED = "not recorded"
TEMPLATE_PATH = Path(__file__).with_name("card_template.md")
SAMPLES_SHOWN = 5

# Only ids with a namespace: a bare name is as likely a folder or an alias.
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class SplitFacts:
    """One split of the data as used, after filtering."""

    name: str
    utterances: int
    duration_s: float
    speakers: int | None = None
    # Reason -> number of utterances that a filter removed; None where nothing was counted.
    dropped: Mapping[str, int] | None = None
    # Of those that were kept, files that could not be decoded when they were needed: left out of training, and counted
    # as wholly misheard in an evaluation.
    unreadable: int = 0


@dataclass(frozen=True)
class ResultFacts:
    """Errors on one split. Intervals are (low, high) fractions, as `bootstrap_interval` returns them.

    Where a split was decoded in several ways, `decoding` tells its results apart.
    """

    split: str
    utterances: int
    words: "ErrorCounts"
    characters: "ErrorCounts"
    wer_interval: tuple[float, float] | None = None
    cer_interval: tuple[float, float] | None = None
    decoding: str | None = None


@dataclass(frozen=True)
class SampleFacts:
    """What was said and what was recognised."""

    utterance_id: str
    reference: str
    hypothesis: str


@dataclass(frozen=True)
class CardFacts:
    """Everything a card says about a run. Only the first three must be known."""

    model_name: str
    text_checkpoint: str  # or the recogniser that went on learning
    dataset_name: str

    # Where things are on the Hub; `dataset_id` is the identifier in model-index (by default made from the name).
    repo_id: str | None = None
    dataset_id: str | None = None
    dataset_config: str | None = None
    language: str | None = None
    license: str | None = None

    splits: Sequence[SplitFacts] = ()
    results: Sequence[ResultFacts] = ()
    confidence: float = 0.95
    decoding: str | None = None
    samples: Sequence[SampleFacts] = ()
    samples_split: str = "test"
    curves_file: str | None = None

    parameters: int | None = None
    goes_on: bool = False  # the checkpoint was a recogniser already
    initialisation: str | None = None
    warmup: str | None = None  # the stage on synthetic speech
    frontend: str | None = None
    subsampling: int | None = None
    attention: str | None = None
    vocabulary: str | None = None
    vocabulary_size: int | None = None
    feature_type: str | None = None
    feature_size: int | None = None
    sampling_rate_hz: int | None = None
    text_normalizer: str | None = None
    epochs: float | None = None
    optimizer_steps: int | None = None
    batch_size: int | str | None = None
    optimizer: str | None = None
    scheduler: str | None = None
    learning_rate: float | None = None
    head_learning_rate: float | None = None
    augmentation: str | None = None
    precision: str | None = None
    seed: int | None = None
    # Further rows of the recipe table.
    more_settings: Mapping[str, str] = field(default_factory=dict)

    hardware: str | None = None
    training_minutes: float | None = None
    command: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    # Said after the limits that every model of this kind has.
    more_limits: Sequence[str] = ()


def render_card(facts: CardFacts) -> str:
    """Write the README.md of a run.

    Args:
        facts: what is known about the run.

    Returns:
        Markdown with YAML metadata at its start; `huggingface_hub.ModelCard` reads it back.

    Source: Mitchell et al., "Model Cards for Model Reporting", 2019; huggingface_hub.ModelCard.from_template.
    """
    metadata = _metadata(facts)
    card = ModelCard.from_template(
        metadata,
        template_path=str(TEMPLATE_PATH),
        title=_in_line(facts.model_name),
        checkpoint=_checkpoint_link(facts.text_checkpoint),
        goes_on=facts.goes_on,
        model_address=facts.repo_id or "path/to/this/folder",
        dataset=_dataset_link(facts),
        splits=[_split_row(split) for split in facts.splits],
        results=[row for result in facts.results for row in _result_rows(result, facts.decoding)],
        confidence=f"{100 * facts.confidence:g} %",
        decoding=_or_not_recorded(facts.decoding),
        text_normalizer=_or_not_recorded(facts.text_normalizer),
        samples=_sample_rows(facts.samples),
        samples_split=facts.samples_split,
        curves_file=facts.curves_file,
        recipe=_recipe_rows(facts),
        minutes=NOT_RECORDED if facts.training_minutes is None else f"{facts.training_minutes:.1f} minutes",
        hardware=_or_not_recorded(facts.hardware),
        command=facts.command,
        limits=_limits(facts),
        versions=", ".join(f"{name} {version}" for name, version in facts.versions.items()) or NOT_RECORDED,
    )
    return str(card)


def looks_like_hub_id(name: str) -> bool:
    """Tell a Hub id with a namespace from a local path.

    >>> looks_like_hub_id("google-bert/bert-base-uncased"), looks_like_hub_id("./checkpoints/bert")
    (True, False)
    """
    return _HUB_ID.fullmatch(name) is not None and not os.path.exists(name)


def _metadata(facts: CardFacts) -> ModelCardData:
    """Build the YAML block that the Hub reads; the library leaves out what is None.

    Its results are those of `facts.decoding`, which transformers' own pipeline gives.
    """
    usual = [result for result in facts.results if result.decoding in (None, facts.decoding)]
    eval_results = [entry for result in usual for entry in _eval_results(facts, result)]
    return ModelCardData(
        language=facts.language,
        license=facts.license,
        library_name="transformers",
        pipeline_tag="automatic-speech-recognition",
        tags=["automatic-speech-recognition", "hf_speechft", "speechbert", "ctc"],
        base_model=facts.text_checkpoint if looks_like_hub_id(facts.text_checkpoint) else None,
        datasets=[facts.dataset_id] if facts.dataset_id and looks_like_hub_id(facts.dataset_id) else None,
        metrics=["wer", "cer"] if eval_results else None,
        # The name belongs to model-index; without results it would stand there alone.
        model_name=facts.model_name if eval_results else None,
        eval_results=eval_results or None,
    )


def _eval_results(facts: CardFacts, result: ResultFacts) -> list[EvalResult]:
    """Give WER and CER of a split as model-index entries, in percent as is usual there."""
    # The identifier must not be empty; without a Hub dataset it is the name in the Hub's spelling.
    dataset_type = facts.dataset_id or re.sub(r"\W+", "-", facts.dataset_name.lower()).strip("-") or "unknown"
    return [
        EvalResult(
            task_type="automatic-speech-recognition",
            task_name="Automatic Speech Recognition",
            dataset_type=dataset_type,
            dataset_name=facts.dataset_name,
            dataset_config=facts.dataset_config,
            dataset_split=result.split,
            metric_type=metric,
            metric_name=f"{metric.upper()} (%)",
            metric_value=round(100 * counts.rate, 2),
            verified=False,
        )
        for metric, counts in (("wer", result.words), ("cer", result.characters))
    ]


def _result_rows(result: ResultFacts, usual_decoding: str | None) -> list[dict[str, str | int]]:
    """Give the table rows of one split, decoded in one way: its WER and its CER."""
    return [
        {
            "split": _in_cell(result.split),
            "decoding": _in_cell(_or_not_recorded(result.decoding or usual_decoding)),
            "measure": measure,
            "rate": _percent(counts.rate),
            "interval": f"{_percent(interval[0])} to {_percent(interval[1])}" if interval else NOT_RECORDED,
            "substitutions": counts.substitutions,
            "deletions": counts.deletions,
            "insertions": counts.insertions,
            "reference_length": counts.reference_length,
            "utterances": result.utterances,
        }
        for measure, counts, interval in (
            ("WER", result.words, result.wer_interval),
            ("CER", result.characters, result.cer_interval),
        )
    ]


def _split_row(split: SplitFacts) -> dict[str, str | int]:
    """Give the table row of one split of the data."""
    if split.dropped is None:
        dropped = NOT_RECORDED
    else:
        reasons = ", ".join(f"{count} {reason}" for reason, count in split.dropped.items() if count)
        dropped = f"{sum(split.dropped.values())} ({reasons})" if reasons else "0"
    if split.unreadable:
        dropped = f"{dropped}; {split.unreadable} more turned out unreadable"
    return {
        "name": _in_cell(split.name),
        "utterances": split.utterances,
        "hours": f"{split.duration_s / 3600:.2f}",
        "minutes": f"{split.duration_s / 60:.1f}",
        "speakers": _or_not_recorded(split.speakers),
        "dropped": _in_cell(dropped),
    }


def _sample_rows(samples: Sequence[SampleFacts]) -> list[dict[str, str]]:
    """Take the first utterances by id, so that nobody chose them."""
    first = sorted(samples, key=lambda sample: sample.utterance_id)[:SAMPLES_SHOWN]
    return [
        {
            "utterance_id": _in_cell(sample.utterance_id),
            "reference": _in_cell(sample.reference) or "(nothing)",
            "hypothesis": _in_cell(sample.hypothesis) or "(nothing)",
        }
        for sample in first
    ]


def _recipe_rows(facts: CardFacts) -> list[tuple[str, str]]:
    """Give names and values of the settings, in the order from model to training."""
    settings = {
        "recogniser at the start" if facts.goes_on else "text checkpoint": facts.text_checkpoint,
        **({} if facts.goes_on else {"initialisation of the body": facts.initialisation}),
        **({} if facts.warmup is None else {"first stage, synthetic speech": facts.warmup}),
        "parameters": None if facts.parameters is None else f"{facts.parameters:,}",
        "front-end": facts.frontend,
        "subsampling": None if facts.subsampling is None else f"{facts.subsampling}x",
        "attention": facts.attention,
        "vocabulary": facts.vocabulary,
        "vocabulary size": facts.vocabulary_size,
        "features": facts.feature_type,
        "feature size": facts.feature_size,
        "sampling rate": None if facts.sampling_rate_hz is None else f"{facts.sampling_rate_hz} Hz",
        "text normaliser": facts.text_normalizer,
        "epochs": None if facts.epochs is None else f"{facts.epochs:g}",
        "optimizer steps": facts.optimizer_steps,
        "batch size": facts.batch_size,
        "optimizer": facts.optimizer,
        "learning-rate schedule": facts.scheduler,
        "learning rate, body": None if facts.learning_rate is None else f"{facts.learning_rate:g}",
        "learning rate, front-end and head": (
            None if facts.head_learning_rate is None else f"{facts.head_learning_rate:g}"
        ),
        "augmentation": facts.augmentation,
        "precision": facts.precision,
        "seed": facts.seed,
        **facts.more_settings,
    }
    return [(_in_cell(name), _in_cell(_or_not_recorded(value))) for name, value in settings.items()]


def _limits(facts: CardFacts) -> list[str]:
    """Say what the numbers do not."""
    training = next((split for split in facts.splits if split.name == "train"), None)
    amount = f"{training.duration_s / 3600:.2f} hours of speech" if training else "speech"
    before = [f"on what the card of {facts.text_checkpoint} says"] if facts.goes_on else []
    before += [] if facts.warmup is None else ["on synthetic speech, as the recipe says"]
    heard = f"and before that {' and '.join(before)}" if before else "and on no other"
    ancestor = "The text checkpoint that it was first made from" if facts.goes_on else "The text checkpoint"
    limits = [
        f"It was trained on {amount} from {_in_line(facts.dataset_name)} {heard}. Expect more errors than in "
        "the table with other speakers, accents, words, noise and microphones.",
        f"{ancestor} had never heard sound. With little speech, models that were pre-trained on audio "
        "(wav2vec2, Whisper) are more accurate.",
        "It writes something for noise, music and other languages too, and does not say that it is unsure.",
        "The numbers are from one training run; another seed gives others.",
    ]
    if facts.text_normalizer not in (None, "none"):
        limits.append(
            f"Transcripts went through the text normaliser `{facts.text_normalizer}`; what it removes (such as case "
            "and punctuation) is never written."
        )
    if facts.sampling_rate_hz is not None:
        limits.append(f"It listens at {facts.sampling_rate_hz} Hz; recordings of other rates are resampled.")
    return [*limits, *facts.more_limits]


def _checkpoint_link(name: str) -> str:
    """Link a checkpoint of the Hub; quote a local one."""
    return f"[{name}](https://huggingface.co/{name})" if looks_like_hub_id(name) else f"`{name}`"


def _dataset_link(facts: CardFacts) -> str:
    """Name the dataset, with a link where it is on the Hub."""
    name = _in_line(facts.dataset_name)
    if facts.dataset_id and looks_like_hub_id(facts.dataset_id):
        name = f"[{name}](https://huggingface.co/datasets/{facts.dataset_id})"
    return name if facts.dataset_config is None else f"{name}, configuration {_in_line(facts.dataset_config)}"


def _percent(rate: float) -> str:
    return f"{100 * rate:.2f} %"


def _or_not_recorded(value: object) -> str:
    return NOT_RECORDED if value is None else str(value)


def _in_line(text: str) -> str:
    """Keep text on one line and its angle brackets from becoming tags."""
    return " ".join(text.split()).replace("<", "&lt;")


def _in_cell(text: str) -> str:
    """Keep text inside its table cell."""
    return _in_line(text).replace("|", "\\|")
