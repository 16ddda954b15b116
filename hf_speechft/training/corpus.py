"""The speech that a run's arguments name: one corpus or a mix of several, loaded or streamed, and its transcripts."""

import logging
from pathlib import Path

from datasets import Dataset, DatasetDict, IterableDataset

from hf_speechft.data.corpora import load_corpus, load_training_split
from hf_speechft.data.mixing import check_mix, join_corpora, mix_corpora, mix_streams
from hf_speechft.data.streaming import stream_corpus, stream_training_split
from hf_speechft.data.text import lacks_spaces, normalize_text, read_sentences
from hf_speechft.training.arguments import DataArguments

logger = logging.getLogger(__name__)

STREAM_TRANSCRIPTS = 2_000  # of the beginning of a stream

Corpus = DatasetDict | dict[str, IterableDataset | Dataset]


def read_corpus(data: DataArguments, seed: int, class_column: str | None = None) -> Corpus:
    """Load or open the corpus that the arguments name, and add the training splits of those to mix with it.

    Args:
        data: The arguments.
        seed: Of what is cut from a training split, and of a mix of streams.
        class_column: Column of the training split that is kept besides those that all corpora have.

    Returns:
        Splits of `load_corpus` or `stream_corpus`. Those of a mix are joined; `mix_training_split` mixes them.

    Raises:
        ValueError: None is named, or it cannot be used.
    """
    if data.dataset is None:
        raise ValueError("no data set was given; use --dataset, or a recipe such as recipes/demo.yaml")
    _check_mix(data)
    if class_column is not None and (data.streaming or data.mix_datasets):
        raise ValueError("--balance_by draws from one corpus; leave it out, or --streaming true and --mix_datasets")
    options = {
        "config_name": data.dataset_config_name,
        "train_split": data.train_split,
        "validation_split": data.validation_split,
        "test_split": data.test_split,
        "audio_column": data.audio_column,
        "text_column": data.text_column,
        "speaker_column": data.speaker_column,
        "normalizer": data.text_normalizer,
        "cache_dir": data.cache_dir,
    }
    if data.streaming:
        corpus = stream_corpus(data.dataset, **options)
    else:
        corpus = load_corpus(data.dataset, **options, class_column=class_column, seed=seed)
    if data.mix_datasets:
        load = stream_training_split if data.streaming else load_training_split
        splits = [load(name, normalizer=data.text_normalizer, cache_dir=data.cache_dir) for name in data.mix_datasets]
        splits.insert(0, corpus["train"])
        if data.streaming:
            strategy = data.mix_stopping_strategy
            corpus["train"] = mix_streams(splits, data.mix_weights, seed=seed, stopping_strategy=strategy)
        else:
            corpus["train"] = join_corpora(splits, _mix_names(data))
    return corpus


def mix_training_split(train: Dataset, data: DataArguments, seed: int) -> Dataset:
    """Draw from a training split that was joined, filtered and repeated at other speeds by the weights of its corpora.

    Raises:
        ValueError: Nothing is left of one of the corpora.
    """
    if not data.mix_datasets:
        return train
    strategy = data.mix_stopping_strategy
    mixed = mix_corpora(train, _mix_names(data), data.mix_weights, seed=seed, stopping_strategy=strategy)
    counts = {name: 0 for name in dict.fromkeys(train["corpus"])}
    for name in mixed["corpus"]:
        counts[name] += 1
    parts = ", ".join(f"{count} of {name}" for name, count in counts.items())
    logger.info("an epoch of the mix has %d clips: %s", len(mixed), parts)
    return mixed


def list_transcripts(corpus: Corpus) -> list[str]:
    """Transcripts of a training split; of a stream those of its beginning."""
    train = corpus["train"]
    if isinstance(train, Dataset):
        texts = train["text"][:]
    else:
        texts = [row["text"] for row in train.take(STREAM_TRANSCRIPTS)]
        logger.info("units and, without --lm_text, n-grams come from the first %d transcripts", len(texts))
    return texts


def list_vocabulary_texts(transcripts: list[str], data: DataArguments) -> list[str]:
    """Texts that give the units: the transcripts, and `--vocabulary_text`.

    Raises:
        ValueError: The text file cannot be read.
    """
    if data.vocabulary_text is None:
        return transcripts
    lines = read_sentences(data.vocabulary_text, "--vocabulary_text")
    return [*transcripts, *(normalize_text(line, data.text_normalizer) for line in lines)]


def advise_metric(transcripts: list[str], metric: str | None) -> None:
    """Say where word errors are no measure: in scripts without spaces, a sentence is one word."""
    if metric is not None and metric.removeprefix("eval_") == "wer" and lacks_spaces(transcripts):
        logger.warning(
            "the transcripts are in a script without spaces, where WER counts whole sentences; read CER instead, and "
            "choose the best checkpoint by it with --metric_for_best_model cer"
        )


def describe_sources(data: DataArguments) -> dict[str, str]:
    """Say for the model card what was mixed, and whether it was streamed, which its table of splits does not say."""
    described = {}
    if data.mix_datasets:
        names = [Path(name).name for name in _mix_names(data)]
        total = sum(data.mix_weights)
        shares = zip(names, data.mix_weights, strict=True)
        described["training data mixed"] = ", ".join(f"{weight / total:.0%} {name}" for name, weight in shares)
    if data.streaming:
        described["training data streamed"] = f"{data.shuffle_buffer} utterances shuffled at a time"
    return described


def _check_mix(data: DataArguments) -> None:
    if not data.mix_datasets:
        if data.mix_weights:
            raise ValueError("--mix_weights needs --mix_datasets, the corpora to mix with --dataset")
        return
    try:
        check_mix(_mix_names(data), data.mix_weights, data.mix_stopping_strategy)
    except ValueError as error:
        raise ValueError(f"--mix_datasets: {error}") from None


def _mix_names(data: DataArguments) -> list[str]:
    return [data.dataset, *data.mix_datasets]
