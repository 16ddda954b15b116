"""SpeechBertProcessor: the feature extractor and the tokenizer of one model, as one object."""

import json
import tempfile
from collections.abc import Iterable
from pathlib import Path

import torch
from transformers import BatchFeature, ProcessorMixin
from transformers.processing_utils import ProcessingKwargs, Unpack

from .feature_extraction_speechbert import SpeechBertFeatureExtractor
from .tokenization_speechbert import IGNORED_LABEL, SpeechBertTokenizer, build_vocabulary


class SpeechBertProcessorKwargs(ProcessingKwargs, total=False):
    """Arguments of a call, sorted into `audio_kwargs` and `text_kwargs`, with their defaults."""

    _defaults = {
        "audio_kwargs": {"return_tensors": "pt"},
        "text_kwargs": {"return_tensors": "pt", "padding": True, "add_special_tokens": False},
    }


class SpeechBertProcessor(ProcessorMixin):
    """Makes model inputs of audio, labels of transcripts, and text of ids.

    Args:
        feature_extractor: A `SpeechBertFeatureExtractor`.
        tokenizer: A `SpeechBertTokenizer`.
    """

    valid_processor_kwargs = SpeechBertProcessorKwargs

    def __init__(self, feature_extractor: SpeechBertFeatureExtractor, tokenizer: SpeechBertTokenizer) -> None:
        super().__init__(feature_extractor, tokenizer)

    @classmethod
    def from_text_pretrained(
        cls,
        name_or_path: str,
        *,
        texts: Iterable[str],
        vocabulary: str = "char",
        text_normalizer: str = "none",
        word_marks: bool = True,
        revision: str | None = None,
        token: str | bool | None = None,
        **feature_options: object,
    ) -> "SpeechBertProcessor":
        """Make the processor for a text checkpoint that is about to learn to hear.

        Args:
            name_or_path: Hub id or folder of the text checkpoint.
            texts: Normalised transcripts of the training split; the units come from them.
            vocabulary: `char`, or `native` for the checkpoint's own tokens that occur in the texts.
            text_normalizer: Name of the normaliser that the texts went through; saved with the tokenizer.
            word_marks: Whether units tell where words begin. `False` for scripts that write no spaces between words,
                such as Chinese, Japanese and Thai: then each character is a word to the decoder.
            revision: Branch, tag or commit of the checkpoint.
            token: Access token for the Hub.
            **feature_options: Arguments of `SpeechBertFeatureExtractor`, such as `feature_type="log_mel"`.

        Returns:
            A processor that has not seen audio; features need no fitting.

        Raises:
            ValueError: The vocabulary's name is unknown or the texts are empty.
        """
        units, checkpoint_ids = build_vocabulary(
            name_or_path, texts, vocabulary, word_marks, revision=revision, token=token
        )
        with tempfile.TemporaryDirectory() as folder:
            vocab_file = Path(folder) / "vocab.json"
            vocab_file.write_text(json.dumps({unit: index for index, unit in enumerate(units)}), encoding="utf-8")
            tokenizer = SpeechBertTokenizer(
                str(vocab_file), text_normalizer=text_normalizer, checkpoint_ids=checkpoint_ids
            )
        return cls(SpeechBertFeatureExtractor(**feature_options), tokenizer)

    def __call__(
        self,
        audio: object = None,
        text: str | list[str] | None = None,
        **kwargs: Unpack[SpeechBertProcessorKwargs],
    ) -> BatchFeature:
        """Make a padded batch.

        Args:
            audio: One clip or several: lists, arrays or tensors of samples.
            text: The transcript or transcripts, normalised as the tokenizer's were.
            **kwargs: `sampling_rate` of the audio in Hz (another rate than the model's is an error), `return_tensors`
                (`pt` unless given; `np`, or `None` for lists), `device`, `padding`, `max_length` and the other
                arguments of feature extractor and tokenizer. Those in `audio_kwargs={...}` and `text_kwargs={...}` go
                to one of the two only.

        Returns:
            With audio `input_features (batch, frames, mels)` and `attention_mask (batch, frames)`; with text also
            `labels (batch, tokens)`, padded with -100. Text alone gives the tokenizer's `input_ids`.

        Raises:
            ValueError: Neither audio nor text was given, or their numbers differ.
        """
        if audio is None and text is None:
            raise ValueError("neither audio nor text was given; pass audio=, text= or both")
        options = self._merge_kwargs(self.valid_processor_kwargs, self.tokenizer.init_kwargs, **kwargs)
        if audio is None:
            return self.tokenizer(text, **options["text_kwargs"])
        batch = self.feature_extractor(audio, **options["audio_kwargs"])
        if text is not None:
            texts = [text] if isinstance(text, str) else list(text)
            if len(texts) != len(batch["input_features"]):
                raise ValueError(
                    f"{len(batch['input_features'])} clips were given with {len(texts)} transcripts; "
                    "each clip needs its own"
                )
            batch["labels"] = self._labels(texts, **options["text_kwargs"])
        return batch

    def _labels(self, texts: list[str], return_tensors: str | None, **text_options: object) -> object:
        blank = self.tokenizer.pad_token_id  # pads, and stands nowhere else: no text contains it
        rows = self.tokenizer(texts, **text_options)["input_ids"]
        rows = [[IGNORED_LABEL if unit_id == blank else unit_id for unit_id in row] for row in rows]
        if not any(rows):  # a batch of empty transcripts keeps a column, and so its integer type
            rows = [[IGNORED_LABEL] for _ in rows]
        return BatchFeature({"labels": rows}, tensor_type=return_tensors)["labels"]

    def pad(self, input_features: object = None, labels: object = None, **kwargs: object) -> BatchFeature:
        """Pad what was made before, as the collators of transformers' CTC examples do.

        Args:
            input_features: Dictionaries with `input_features (frames, mels)`, as a call on a single clip gives them.
            labels: Dictionaries with `input_ids (tokens,)`.
            **kwargs: Arguments of the feature extractor's and the tokenizer's `pad`.

        Returns:
            `input_features` and `attention_mask`, the tokenizer's `input_ids`, or with both the latter as `labels`.
        """
        if input_features is None:
            return self.tokenizer.pad(labels, **kwargs)
        batch = self.feature_extractor.pad(input_features, **kwargs)
        if labels is not None:
            batch["labels"] = self.tokenizer.pad(labels, **kwargs)["input_ids"]
        return batch

    def decode(self, *args: object, **kwargs: object) -> object:
        """Text of one id sequence; see `SpeechBertTokenizer.decode`."""
        return self.tokenizer.decode(*args, **kwargs)

    def batch_decode(
        self, sequences: object, *args: object, decoder: object = None, lengths: object = None, **kwargs: object
    ) -> object:
        """Texts of several id sequences; or, with a decoder, of logits.

        Args:
            sequences: Ids `(batch, steps)`; with a decoder logits `(batch, steps, vocab)`, tensor or array.
            *args: Arguments of `SpeechBertTokenizer.batch_decode`.
            decoder: A `hf_speechft.decoding.CTCDecoder`, or an object whose `decode(log_probs, lengths)` returns a
                list of hypotheses with a `text` for each utterance, best first.
            lengths: With a decoder, steps of each utterance `(batch,)`; by default all.
            **kwargs: Arguments of `SpeechBertTokenizer.batch_decode`.

        Returns:
            With a decoder the best text of each utterance, else what `SpeechBertTokenizer.batch_decode` gives.
        """
        if decoder is None:
            return self.tokenizer.batch_decode(sequences, *args, **kwargs)
        log_probs = torch.as_tensor(sequences).float().log_softmax(dim=-1)
        return [hypotheses[0].text for hypotheses in decoder.decode(log_probs, lengths)]

    @property
    def model_input_names(self) -> list[str]:
        """Names of the tensors that the model takes."""
        return [*self.feature_extractor.model_input_names, "labels"]


__all__ = ["SpeechBertProcessor"]
