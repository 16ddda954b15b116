"""`hf-speechft tune`: give a model a decoder, with a language model and the weights that fit a validation split."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hf_speechft.apps.lm import load_lm
from hf_speechft.apps.models import load_model

KEPT = ("hotwords", "phrases", "token_min_logp", "beam_prune_logp")  # of the decoder that the model has

if TYPE_CHECKING:
    from datasets import DatasetDict

    from hf_speechft.decoding import CTCDecoder, NGramLM
    from hf_speechft.decoding.rescoring import SentenceScorer
    from hf_speechft.model.processing_speechbert import SpeechBertProcessor


def tune(
    model: Annotated[str, typer.Option(metavar="DIR", help="Folder of a SpeechBERT model; the decoder goes there.")],
    dataset: Annotated[
        str, typer.Option(help="Data set with the split: a Hub id, an audio folder, a manifest, demo.")
    ],
    split: Annotated[str, typer.Option(help="Split that the weights are found on.")] = "validation",
    train_split: Annotated[str, typer.Option(help="Training split; several are joined by '+'.")] = "train",
    dataset_config_name: Annotated[str | None, typer.Option(help="Configuration of a Hub data set.")] = None,
    audio_column: Annotated[str | None, typer.Option(help="Column with audio; found by itself if usual.")] = None,
    text_column: Annotated[str | None, typer.Option(help="Column with transcripts; likewise.")] = None,
    lm: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="N-gram model, .arpa, .arpa.gz or .safetensors (`hf-speechft lm build` makes them). Default: that of "
            "the model's decoder, or 4-grams of the data set's training transcripts.",
        ),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(
            help="The run's --seed: it cut a data set without splits, and another would mix training and validation."
        ),
    ] = 42,
    rescoring_model: Annotated[
        str | None,
        typer.Option(
            metavar="DIR_OR_ID",
            help="Causal or masked language model that puts the 10 best hypotheses in a new order. It is named in the "
            "decoder, not copied, and makes decoding slower. Without this option the decoder has none.",
        ),
    ] = None,
    beams: Annotated[int, typer.Option(min=2, help="Token sequences that the beam search keeps.")] = 32,
    batch_size: Annotated[int, typer.Option(min=1, help="Utterances that go through the model at once.")] = 16,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1, mps… Default: an accelerator if there is one.")
    ] = None,
) -> None:
    """Find the weights of a language model on a validation split, and save them with the model.

    `hf-speechft transcribe` and the pipeline use the decoder from then on. Hot words, phrases and limits of the search
    stay those of the model's decoder, if it has one.
    """
    try:
        if not Path(model).is_dir():
            raise ValueError(f"{model} is no folder; tune a copy of the model that the decoder can be written into")
        source = {"config_name": dataset_config_name, "train_split": train_split, "validation_split": split}
        source |= {"audio_column": audio_column, "text_column": text_column, "seed": seed}
        typer.echo(_tune(model, dataset, source, lm, rescoring_model, beams, batch_size, device))
    except (ValueError, OSError, ImportError) as error:
        typer.echo(f"hf-speechft: {error}", err=True)
        raise typer.Exit(1) from None


def _tune(
    model: str,
    dataset: str,
    source: dict[str, Any],
    lm: str | None,
    rescoring_model: str | None,
    beams: int,
    batch_size: int,
    device: str | None,
) -> str:
    """Tune and save; return what was found, in a line."""
    recogniser, processor = load_model(model, device)
    from hf_speechft.data.corpora import filter_corpus, load_corpus
    from hf_speechft.decoding import CTCDecoder
    from hf_speechft.decoding.decoder_files import DECODER_FOLDER
    from hf_speechft.sharing.save import save_atomically
    from hf_speechft.training.selection import duration_limits
    from hf_speechft.training.tuning import (
        NBEST,
        decode_batch,
        emissions,
        error_unit,
        tune_decoder,
        tune_rescoring,
        tuning_sample,
    )

    kept = _kept_settings(model, lm)
    scorer = None if rescoring_model is None else _load_scorer(rescoring_model, device)
    corpus = load_corpus(dataset, normalizer=processor.tokenizer.text_normalizer, **source)
    shortest_s, longest_s = duration_limits(processor, recogniser)
    split = source["validation_split"]
    validation, _ = filter_corpus(
        corpus["validation"], min_duration_s=shortest_s, max_duration_s=longest_s, name=split
    )
    decoder = CTCDecoder.from_processor(processor, lm=_find_lm(lm, model, corpus, processor), beam_width=beams, **kept)
    utterances = tuning_sample(validation)
    options = {"batch_size": batch_size, "show_progress": sys.stderr.isatty(), "description": split}
    batches = list(emissions(recogniser, processor, utterances, **options))
    references = list(map(processor.tokenizer.written, utterances["text"]))
    unit = error_unit(decoder)
    tuned, rate = tune_decoder(decoder, batches, references)
    if scorer is not None:
        nbest = [hypotheses for batch in batches for hypotheses in decode_batch(tuned, batch, NBEST)]
        rescoring, rate = tune_rescoring(nbest, scorer, references, unit)
        tuned = tuned.with_rescoring(rescoring if rescoring.weight > 0 else None)
    save_atomically(model, lambda folder: tuned.save_pretrained(folder / DECODER_FOLDER))
    measure = {"word": "WER", "char": "CER"}[unit]
    return (
        f"{model}/{DECODER_FOLDER}: lm_weight {tuned.lm_weight:g}, word_bonus {tuned.word_bonus:g}, "
        f"unknown_word_score {tuned.unknown_word_score:g}{_rescoring_line(tuned)}; {measure} on {split} "
        f"{100 * rate:.1f} %, {len(references)} utterances"
    )


def _kept_settings(model: str, lm: str | None) -> dict[str, object]:
    """What stays of the decoder that the model has, which may have no language model but n-grams."""
    from hf_speechft.decoding.decoder_files import CONFIG_FILE, DECODER_FOLDER, read_settings

    folder = Path(model) / DECODER_FOLDER
    if not (folder / CONFIG_FILE).is_file():
        return {}
    try:
        saved = read_settings(folder)
    except ValueError as error:
        raise ValueError(f"{error}, or remove {folder}") from error
    if lm is None and isinstance(saved["lm"], dict):
        raise ValueError(
            f"{folder} has the causal language model {saved['lm']['causal_lm']}, and weights are found for n-gram "
            "models only; give one in its place with --lm FILE"
        )
    return {name: saved[name] for name in KEPT}


def _load_scorer(name_or_path: str, device: str | None) -> "SentenceScorer":
    from hf_speechft.decoding.rescoring import SentenceScorer

    return SentenceScorer.from_pretrained(name_or_path, device=device)


def _rescoring_line(decoder: "CTCDecoder") -> str:
    if decoder.rescoring is None:
        return ""
    return f", rescoring weight {decoder.rescoring.weight:g}, word_bonus {decoder.rescoring.word_bonus:g}"


def _find_lm(lm: str | None, model: str, corpus: "DatasetDict", processor: "SpeechBertProcessor") -> "NGramLM":
    """The language model that is named, the one that the model has, or one of the training transcripts."""
    from hf_speechft.decoding import NGramLM
    from hf_speechft.decoding.decoder_files import DECODER_FOLDER, LM_FILE
    from hf_speechft.training.tuning import transcripts_lm

    if lm is not None:
        return load_lm(lm)
    saved = Path(model) / DECODER_FOLDER / LM_FILE
    if saved.is_file():
        return NGramLM.load(saved)
    return transcripts_lm(processor, corpus["train"]["text"], 4)
