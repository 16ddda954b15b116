"""What a run trains: a text checkpoint with a new front-end and head, or a SpeechBERT that goes on learning.

A SpeechBERT checkpoint brings its features, front-end and units with it. Characters of the new transcripts that it
cannot write get units of their own, and rows of its head that start untrained.
"""

import json
import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from transformers import AutoConfig, PreTrainedConfig

from hf_speechft import SpeechBertConfig, SpeechBertForCTC, SpeechBertProcessor, SpeechBertTokenizer
from hf_speechft.data.demo import demo_checkpoint
from hf_speechft.data.text import lacks_spaces
from hf_speechft.model.backbone_speechbert import set_attention_dropout, set_body_dropout
from hf_speechft.model.normalization_speechbert import CAUSAL_NORMALIZE_MODES
from hf_speechft.model.tokenization_speechbert import WORD_START
from hf_speechft.training.arguments import PACKAGED_MINILM, DataArguments, ModelArguments

logger = logging.getLogger(__name__)


def is_speechbert(model: ModelArguments) -> bool:
    """Tell whether the checkpoint is a recogniser already; one that cannot be read is none."""
    if model.model_name_or_path == PACKAGED_MINILM:
        return False
    try:
        config, _ = PreTrainedConfig.get_config_dict(find_checkpoint(model), revision=model.model_revision)
    except OSError:
        return False
    return config.get("model_type") == SpeechBertConfig.model_type


def adopt_speechbert(model: ModelArguments) -> ModelArguments:
    """Put what a SpeechBERT checkpoint decides in place of the arguments, and say which of them it replaces."""
    source = {"pretrained_model_name_or_path": find_checkpoint(model), "revision": model.model_revision}
    config, processor = SpeechBertConfig.from_pretrained(**source), SpeechBertProcessor.from_pretrained(**source)
    extractor = processor.feature_extractor
    decided = {
        "vocabulary": "char" if processor.tokenizer.checkpoint_ids is None else "native",
        "feature_type": extractor.feature_type,
        "feature_size": extractor.feature_size,
        "normalize": extractor.normalize,
        "sampling_rate": extractor.sampling_rate,
        "frontend": config.frontend,
        "adapter_layers": config.adapter_layers,
        "subsampling": config.subsampling,
        "attention": config.attention,
        "lookahead_ms": config.lookahead_ms,
        "max_positions": config.max_positions,
    }
    replaced = [f"{name} {value}" for name, value in decided.items() if getattr(model, name) not in (None, value)]
    if replaced:
        logger.info("%s was made with, and keeps, %s", model.model_name_or_path, ", ".join(replaced))
    return replace(model, **decided)


def make_processor(model: ModelArguments, data: DataArguments, texts: Sequence[str]) -> SpeechBertProcessor:
    """Make the processor, its vocabulary from the training transcripts, or load it and add what it cannot write.

    Args:
        model: The checkpoint, and the features and units of a new processor.
        data: Names the normaliser.
        texts: Transcripts of the training split.

    Raises:
        ValueError: A SpeechBERT checkpoint learned from transcripts of another normaliser.
    """
    if is_speechbert(model):
        return _load_processor(model, data, texts)
    is_unspaced = lacks_spaces(texts)
    if is_unspaced:
        logger.info("the texts are in a script without spaces: each character is a word to the decoder")
    return SpeechBertProcessor.from_text_pretrained(
        find_checkpoint(model),
        texts=texts,
        vocabulary=model.vocabulary,
        text_normalizer=data.text_normalizer,
        word_marks=not is_unspaced,
        revision=model.model_revision,
        feature_type=model.feature_type,
        feature_size=model.feature_size,
        normalize=model.normalize,
        sampling_rate=model.sampling_rate,
    )


def make_model(model: ModelArguments, processor: SpeechBertProcessor) -> SpeechBertForCTC:
    """Give the text checkpoint its front-end and head, or load the recogniser that goes on learning.

    Raises:
        ValueError: Frequencies are to be warped, and the features have none.
    """
    if model.frequency_warp and processor.feature_extractor.feature_type == "mfcc":
        raise ValueError(
            f"--frequency_warp {model.frequency_warp:g} moves mel bins, and mfcc features are cepstra; leave it at 0, "
            "or set --feature_type fbank"
        )
    regularisation = {
        "frontend_dropout": model.dropout,
        "head_dropout": model.dropout,
        "position_shift": model.position_shift,
        "frequency_warp": model.frequency_warp,
        "mask_time_prob": model.mask_time_prob,
        "mask_time_length": model.mask_time_length,
        "mask_feature_prob": model.mask_feature_prob,
        "mask_feature_length": model.mask_feature_length,
        "intermediate_ctc_weight": model.intermediate_ctc_weight,
        "consistency_weight": model.consistency_weight,
    }
    if is_speechbert(model):
        recogniser = _load_recogniser(model, processor, regularisation)
    else:
        recogniser = SpeechBertForCTC.from_text_pretrained(
            find_checkpoint(model),
            processor=processor,
            revision=model.model_revision,
            frontend=model.frontend,
            adapter_layers=model.adapter_layers,
            subsampling=model.subsampling,
            attention=model.attention,
            lookahead_ms=model.lookahead_ms,
            max_positions=model.max_positions,
            body_dropout=model.body_dropout,
            attention_dropout=model.attention_dropout,
            **regularisation,
        )
    causal, normalize = recogniser.config.attention == "causal", processor.feature_extractor.normalize
    if causal and normalize not in CAUSAL_NORMALIZE_MODES:
        logger.info("the model will not stream: features are normalised over the utterance; see --normalize running")
    if model.attn_implementation is not None:
        recogniser.set_attn_implementation(model.attn_implementation)
    return recogniser


def find_checkpoint(model: ModelArguments) -> str:
    """Path or Hub id of the text checkpoint.

    Raises:
        ValueError: It looks like a path, and there is no such folder.
        ImportError: The packaged checkpoint is not installed.
    """
    name = model.model_name_or_path
    if name == PACKAGED_MINILM:
        return demo_checkpoint()
    folder = Path(name).expanduser()
    if not folder.is_dir() and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise ValueError(
            f"text checkpoint {name}: no such folder (looked in {Path.cwd()}); give a folder that a text model was "
            "saved in, or a Hub id such as google-bert/bert-base-uncased"
        )
    return str(folder) if folder.is_dir() else name


def find_rescoring_model(model: ModelArguments, goes_on: bool) -> str | None:
    """Path or Hub id of the language model that rescores: the text checkpoint, unless another or none is named.

    A SpeechBERT, which goes on learning, cannot score text.

    Raises:
        ValueError: The one that is named cannot be loaded, which would otherwise show after training.
    """
    name = model.rescoring_model
    if name is None:
        return None if goes_on else find_checkpoint(model)
    if name == "none":
        return None
    try:
        AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ValueError(f"--rescoring_model {name!r} cannot be loaded: {' '.join(str(error).split())}") from error
    return name


def _load_processor(model: ModelArguments, data: DataArguments, texts: Sequence[str]) -> SpeechBertProcessor:
    processor = SpeechBertProcessor.from_pretrained(find_checkpoint(model), revision=model.model_revision)
    tokenizer = processor.tokenizer
    if tokenizer.text_normalizer != data.text_normalizer:
        raise ValueError(
            f"{model.model_name_or_path} learned from transcripts normalised by {tokenizer.text_normalizer!r}, and "
            f"--text_normalizer is {data.text_normalizer!r}; set --text_normalizer {tokenizer.text_normalizer}"
        )
    known = {character for unit in tokenizer.text_units for character in unit}
    new = sorted({character for text in texts for character in text if not character.isspace()} - known)
    if not (tokenizer.separator or lacks_spaces(texts)) and any(" " in text for text in texts):
        logger.info("%s has no unit for the space between words; it gets one", model.model_name_or_path)
        new.insert(0, WORD_START)
    if new:
        processor.tokenizer = _add_units(tokenizer, new)
    return processor


def _add_units(tokenizer: SpeechBertTokenizer, new: list[str]) -> SpeechBertTokenizer:
    """The same units under the same ids, and more behind them."""
    units = [*tokenizer.unit_ids, *new]
    ids = tokenizer.checkpoint_ids
    with tempfile.TemporaryDirectory() as folder:
        vocab_file = Path(folder) / "vocab.json"
        vocab_file.write_text(json.dumps({unit: index for index, unit in enumerate(units)}), encoding="utf-8")
        return SpeechBertTokenizer(
            str(vocab_file),
            text_normalizer=tokenizer.text_normalizer,
            checkpoint_ids=None if ids is None else [*ids, *[-1] * len(new)],
        )


def _load_recogniser(
    model: ModelArguments, processor: SpeechBertProcessor, regularisation: Mapping[str, float | int]
) -> SpeechBertForCTC:
    source = {"pretrained_model_name_or_path": find_checkpoint(model), "revision": model.model_revision}
    config = SpeechBertConfig.from_pretrained(**source, **regularisation)
    if model.body_dropout is not None:
        set_body_dropout(config.backbone_config, model.body_dropout)
    set_attention_dropout(config.backbone_config, model.attention_dropout)
    recogniser, report = SpeechBertForCTC.from_pretrained(
        **source, config=config, dtype=torch.float32, output_loading_info=True
    )
    missing = sorted(report["missing_keys"])
    if missing:
        raise ValueError(
            f"{model.model_name_or_path} lacks {len(missing)} weights of its model, such as {missing[0]}; save it "
            "again"
        )
    if len(processor.tokenizer) > config.vocab_size:
        recogniser.resize_token_embeddings(len(processor.tokenizer))
    return recogniser
