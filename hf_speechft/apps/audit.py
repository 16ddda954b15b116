"""`hf-speechft audit`: what a data set holds and what is wrong with it, before hours go into training on it."""

import json
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hf_speechft.apps.files import write_text
from hf_speechft.apps.models import load_processor

if TYPE_CHECKING:
    from hf_speechft.data.audit import Audit, SplitAudit
    from hf_speechft.data.audit_checks import Units
    from hf_speechft.data.findings import Finding

_WIDTH = 110
_NAMES_SHOWN = 2
_SUBSAMPLINGS = (2, 4, 8)
_COLUMNS = "{:<12} {:>10} {:>8} {:>8} {:>9}  {:<22} {}"


def audit(
    dataset: Annotated[
        str, typer.Argument(help="A Hub id, an audio folder, a manifest, a LibriSpeech tree, or demo; as --dataset.")
    ],
    train_split: Annotated[str, typer.Option(help="Training split; several are joined by '+'.")] = "train",
    validation_split: Annotated[str, typer.Option(help="Validation split.")] = "validation",
    test_split: Annotated[str, typer.Option(help="Test split.")] = "test",
    dataset_config_name: Annotated[str | None, typer.Option(help="Configuration of a Hub data set.")] = None,
    audio_column: Annotated[str | None, typer.Option(help="Column with audio; found by itself if usual.")] = None,
    text_column: Annotated[str | None, typer.Option(help="Column with transcripts; likewise.")] = None,
    speaker_column: Annotated[str | None, typer.Option(help="Column with speakers; likewise.")] = None,
    sample: Annotated[int, typer.Option(min=0, help="Utterances whose sound is decoded.")] = 500,
    model: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="SpeechBERT model whose units, features and subsampling are taken."),
    ] = None,
    subsampling: Annotated[
        int | None, typer.Option(help="Frames per step, 2, 4 or 8. Default: the model's, or 4 and characters.")
    ] = None,
    text_normalizer: Annotated[
        str | None, typer.Option(help="none, basic, english or cased. Default: the model's, or basic.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the sample, and of the cut where splits are missing.")] = 42,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write all findings here.")] = None,
    html_file: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write a page with plots and players here.")
    ] = None,
) -> None:
    """Look for what spoils training: clips that cannot be read or aligned, duplicates, shared speakers, odd sound.

    Headers of all files are read, and the sound of a sample. A split that the data set lacks is cut from its training
    split, as in a run with the same seed.
    """
    try:
        units, normalizer = find_units(model, subsampling, text_normalizer)
        columns = {"audio_column": audio_column, "text_column": text_column, "speaker_column": speaker_column}
        splits = {"train_split": train_split, "validation_split": validation_split, "test_split": test_split}
        options = {"config_name": dataset_config_name, "normalizer": normalizer, "seed": seed, **splits, **columns}
        _audit(dataset, options, units, sample, json_file, html_file)
    except (ValueError, OSError, ImportError) as error:
        typer.echo(f"hf-speechft: {error}", err=True)
        raise typer.Exit(1) from None


def find_units(model: str | None, subsampling: int | None, text_normalizer: str | None) -> "tuple[Units, str]":
    """Take units, features and normaliser of a model, or characters and the default features.

    Args:
        model: Folder or Hub id of a SpeechBERT model.
        subsampling: Frames per step, in place of the model's, or of 4.
        text_normalizer: Name of a normaliser, in place of the model's, or of "basic".

    Returns:
        What decides whether a transcript fits its sound, and the normaliser's name.

    Raises:
        ValueError: The subsampling is not possible, or the model cannot be loaded.
    """
    if subsampling not in (None, *_SUBSAMPLINGS):
        raise ValueError(f"--subsampling is {subsampling}; front-ends make one step of 2, 4 or 8 frames")
    from hf_speechft.data.audit_checks import Units, count_character_steps
    from hf_speechft.model.feature_extraction_speechbert import SpeechBertFeatureExtractor
    from hf_speechft.model.frontend_speechbert import output_lengths

    extractor, characters, count_needed_steps = SpeechBertFeatureExtractor(), None, count_character_steps
    if model is not None:
        from hf_speechft.training.selection import count_needed_steps as count_units

        config, processor = load_processor(model)
        extractor, tokenizer = processor.feature_extractor, processor.tokenizer
        characters = frozenset().union(*tokenizer.text_units)
        subsampling = subsampling or config.subsampling
        text_normalizer = text_normalizer or tokenizer.text_normalizer

        def count_needed_steps(text: str) -> int:
            return count_units(processor, text)

    units = Units(
        subsampling=subsampling or 4,
        sampling_rate_hz=extractor.sampling_rate,
        count_steps=lambda duration_s, times: output_lengths(
            extractor.frame_count(int(duration_s * extractor.sampling_rate)), times
        ),
        count_needed_steps=count_needed_steps,
        characters=characters,
        are_characters=model is None or tokenizer.longest_unit == 1,
    )
    return units, text_normalizer or "basic"


def _audit(
    dataset: str, options: dict, units: "Units", sample: int, json_file: Path | None, html_file: Path | None
) -> None:
    """Audit, print the summary, and then write the files: what cannot be written is not worth the summary."""
    from hf_speechft.data.audit import audit_corpus
    from hf_speechft.data.corpora import load_corpus

    corpus = load_corpus(dataset, **options)
    found = audit_corpus(corpus, units, sample=sample, seed=options["seed"], show_progress=sys.stderr.isatty())
    typer.echo(summary(dataset, found))
    if json_file is not None:
        content = {
            "dataset": dataset,
            "text_normalizer": options["normalizer"],
            "subsampling": units.subsampling,
            "seed": options["seed"],
            **found.to_dict(),
        }
        write_text(json_file, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    if html_file is not None:
        from hf_speechft.apps.audit_page import audit_page

        write_text(html_file, audit_page(dataset, found, corpus))


def summary(dataset: str, found: "Audit") -> str:
    """Write an audit for a terminal: facts of each split, then what needs work, then what is fine.

    Args:
        dataset: Its name.
        found: The audit.

    Returns:
        Lines of up to 110 characters.
    """
    lines = [f"{dataset}: the headers of {len(found.utterances):,} files, the sound of {len(found.measures):,}", ""]
    header = ("split", "utterances", "hours", "speakers", "words", "seconds", "characters/s (median, 5 to 95 %)")
    lines += [_COLUMNS.format(*header), *(_COLUMNS.format(*_split_cells(split)) for split in found.splits), ""]
    for finding in found.findings:
        if finding.severity != "fine":
            lines += _finding_lines(finding)
    fine = [finding.check for finding in found.findings if finding.severity == "fine"]
    return "\n".join([*lines, *_wrapped("fine", ", ".join(fine) or "nothing")])


def _split_cells(split: "SplitAudit") -> list[str]:
    def spread(values: dict[str, float], low: str, high: str) -> str:
        return f"{values['median']:.1f} ({values[low]:.1f} to {values[high]:.1f})" if values else "unknown"

    return [
        split.name,
        f"{split.utterances:,}",
        f"{split.duration_s / 3600:,.2f}",
        "unknown" if split.speakers is None else f"{split.speakers:,}",
        f"{split.words:,}",
        spread(split.clip_s, "min", "max"),
        spread(split.characters_per_s, "p5", "p95"),
    ]


def _finding_lines(finding: "Finding") -> list[str]:
    """What was found with two examples, and what to do."""
    names = [f"{flag.utterance.split} {flag.utterance.utterance_id}" for flag in finding.flags[:_NAMES_SHOWN]]
    more = len(finding.flags) - len(names)
    shown = f" [{', '.join(names)}{f', {more:,} more' if more else ''}]" if names else ""
    label = finding.severity.upper() if finding.severity == "problem" else finding.severity
    text = _wrapped(label, f"{finding.check}: {finding.message}{shown}")
    return text + (_wrapped("", f"-> {finding.remedy}") if finding.remedy else [])


def _wrapped(label: str, text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent=f"{label:<9}", subsequent_indent=" " * 9, break_on_hyphens=False)
