"""The speech recognition pipeline of transformers with beam search for CTC models.

    sound -> chunks -> logits of each -> logits of the recording (steps, vocab) -> CTCDecoder -> text, times, n-best

`pipeline("automatic-speech-recognition", ...)` gives a `CTCPipeline` where hf_speechft has been imported. Without the
arguments that it adds, and without a decoder beside the model, all work is left to transformers.

The logits of chunks are joined without their strides and decoded once, as transformers does for decoders with a
language model, so a word or hot word may span a seam.
"""

import copy
import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import AutomaticSpeechRecognitionPipeline
from transformers.pipelines.automatic_speech_recognition import rescale_stride
from transformers.utils import cached_file

from .align import viterbi_path
from .decoder import CTCDecoder, Hypothesis
from .decoder_files import CONFIG_FILE, DECODER_FOLDER, LM_FILE, SETTINGS, load_decoder
from .passages import PASSAGE_S, search_passages

if TYPE_CHECKING:
    from transformers import FeatureExtractionMixin, PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["CTCPipeline", "find_decoder"]

logger = logging.getLogger(__name__)

LENGTH_METHODS = ("_get_feat_extract_output_lengths", "_get_subsampling_output_length")


class CTCPipeline(AutomaticSpeechRecognitionPipeline):
    """Speech recognition for every model of transformers; for CTC models with beam search.

    The arguments below come on top of those of `AutomaticSpeechRecognitionPipeline`, which mean what they mean there.
    All but `decoder` may be given to `pipeline(...)` or to a call. They are for CTC models; `num_beams` goes to
    `generate` for others.

    Args:
        model: A CTC model, or any other that the task takes.
        decoder: A `CTCDecoder`. By default the one in the folder `decoder` beside the model, if there is one; a Hub
            repository is looked up at the revision of the model where transformers tells it, else at `main`.
        hotwords: Phrases to listen for, or a mapping of each to its weight; see `CTCDecoder`.
        phrases: The only sentences that may come out: a list, or the text of a JSGF grammar.
        num_beams: Width of the beam. 1, without hot words, phrases and n-best, is greedy decoding by transformers,
            whatever decoder there is.
        return_nbest: Number of hypotheses to return, at most.
        **kwargs: Arguments of `AutomaticSpeechRecognitionPipeline`.

    Results of a beam search are dictionaries with `text`, with `chunks` if `return_timestamps` is `"word"` or
    `"char"`, with `rejection_score` where only phrases may come out, and with `nbest` if asked for: a list of
    `{"text", "score", "confidence", "words"}`, best first, where `words` holds `{"text", "timestamp", "confidence"}`
    and the confidence of a hypothesis is the mean of its words' (`None` without words).

    Raises:
        ValueError: The model is no CTC model, or the decoder refuses the arguments or the logits.
    """

    def __init__(
        self,
        model: "PreTrainedModel",
        feature_extractor: "FeatureExtractionMixin | None" = None,
        tokenizer: "PreTrainedTokenizerBase | None" = None,
        decoder: CTCDecoder | None = None,
        device: int | str | torch.device | None = None,
        **kwargs: Any,
    ) -> None:
        is_ours = isinstance(decoder, CTCDecoder)
        super().__init__(model, feature_extractor, tokenizer, None if is_ours else decoder, device, **kwargs)
        self._built: tuple[dict[str, Any], CTCDecoder] | None = None
        if is_ours:
            self._check_is_ctc(["decoder"])
            self.decoder = decoder
        elif self.type == "ctc":
            self.decoder = _load_decoder(model)

    @property
    def _non_generation_params(self) -> tuple[str, ...]:
        """Arguments that are not for `generate`, though they have the names of its arguments."""
        return ("num_beams",) if self.type == "ctc" else ()

    def _sanitize_parameters(
        self,
        hotwords: list[str] | dict[str, float] | None = None,
        phrases: list[str] | str | None = None,
        num_beams: int | None = None,
        return_nbest: int | None = None,
        **stock: Any,
    ) -> tuple[dict, dict, dict]:
        options = {"hotwords": hotwords, "phrases": phrases, "num_beams": num_beams, "return_nbest": return_nbest}
        options = {name: value for name, value in options.items() if value is not None}
        if self.type != "ctc" and num_beams is not None:
            stock["num_beams"] = options.pop("num_beams")
        self._check_is_ctc(options)
        for name in ("num_beams", "return_nbest"):
            if options.get(name, 1) < 1:
                raise ValueError(f"{name} is {options[name]}; it needs to be 1 or more")
        preprocess, forward, postprocess = super()._sanitize_parameters(**stock)
        if options:
            # Options of a call are added to those that the pipeline was made with.
            options = getattr(self, "_postprocess_params", {}).get("beam_options", {}) | options
            forward["beam_options"] = postprocess["beam_options"] = options
        return preprocess, forward, postprocess

    def _check_is_ctc(self, arguments: Iterable[str]) -> None:
        if arguments and self.type != "ctc":
            raise ValueError(
                f"{', '.join(arguments)} needs a CTC model, decoded by a CTCDecoder; {type(self.model).__name__} runs "
                f"as {self.type!r}. Leave the argument out."
            )

    def _forward(
        self, model_inputs: dict[str, Any], beam_options: dict[str, Any] | None = None, **stock: Any
    ) -> dict[str, Any]:
        if self._choose_decoder(beam_options or {}) is None:
            return super()._forward(model_inputs, **stock)
        outputs = {"is_last": model_inputs.pop("is_last")}
        stride, attention_mask = model_inputs.pop("stride", None), model_inputs.pop("attention_mask", None)
        features = model_inputs.pop(self.model.main_input_name)
        outputs["logits"] = self.model(features, attention_mask=attention_mask).logits  # (batch, steps, vocab)
        if stride is not None:
            strides = rescale_stride([stride] if isinstance(stride, tuple) else stride, 1 / self._align_to)
            outputs["stride"] = strides[0] if isinstance(stride, tuple) else strides
        elif attention_mask is not None:
            outputs["steps"] = self._step_lengths(attention_mask, outputs["logits"].shape[1])
        return outputs | model_inputs

    def _step_lengths(self, attention_mask: torch.Tensor, steps: int) -> torch.Tensor:
        """Steps of each utterance `(batch,)`, so that padding is not decoded; all where the model cannot tell."""
        lengths = attention_mask.sum(-1)
        for name in LENGTH_METHODS:
            if hasattr(self.model, name):
                return getattr(self.model, name)(lengths).clamp(max=steps)
        return torch.full_like(lengths, steps)

    def postprocess(
        self,
        model_outputs: list[dict[str, Any]],
        beam_options: dict[str, Any] | None = None,
        return_timestamps: str | None = None,
        **stock: Any,
    ) -> dict[str, Any]:
        """Turn the model's outputs for one recording into its text and what else was asked for.

        Args:
            model_outputs: What `_forward` gave for each chunk.
            beam_options: The arguments of the beam search that were given.
            return_timestamps: `"word"` or `"char"`.
            **stock: Arguments of `AutomaticSpeechRecognitionPipeline.postprocess`.

        Returns:
            The result; see the class.
        """
        options = beam_options or {}
        decoder = self._choose_decoder(options)
        if decoder is None:
            return super().postprocess(model_outputs, return_timestamps=return_timestamps, **stock)
        log_probs = torch.cat([_without_stride(outputs) for outputs in model_outputs]).log_softmax(-1).numpy()
        if decoder.phrases is None and "return_nbest" not in options:
            longest = round(PASSAGE_S * self.feature_extractor.sampling_rate / self._align_to)
            passages = list(search_passages([log_probs], decoder, longest))
        else:  # of the whole recording
            hypotheses = decoder.decode(log_probs[None], nbest=options.get("return_nbest", 1))[0]
            passages = [(0, hypotheses[0])]
        texts = [best.text for _, best in passages if best.text]
        result: dict[str, Any] = {"text": decoder.units.separator.join(texts)}
        if return_timestamps == "word":
            result["chunks"] = [
                {"text": word.text, "timestamp": self._times(start + word.start_step, start + word.end_step)}
                for start, best in passages
                for word in best.words
            ]
        elif return_timestamps == "char":
            result["chunks"] = self._char_chunks(passages, log_probs, decoder)
        if decoder.phrases is not None:
            result["rejection_score"] = hypotheses[0].rejection_score
        if "return_nbest" in options:
            result["nbest"] = [self._describe(hypothesis) for hypothesis in hypotheses]
        return result | _extra(model_outputs)

    def _choose_decoder(self, options: dict[str, Any]) -> CTCDecoder | None:
        """The decoder for these options, or `None` where transformers decodes."""
        if self.type != "ctc" or options == {"num_beams": 1}:
            return None
        replaced = {name: options[name] for name in ("hotwords", "phrases") if name in options}
        if "num_beams" in options:
            replaced["beam_width"] = options["num_beams"]
        if not replaced and (self.decoder is not None or not options):
            return self.decoder
        # A list may change between two calls, and calls may come from several threads.
        built = self._built
        if built is None or built[0] != replaced:
            self._built = built = copy.deepcopy(replaced), self._build_decoder(replaced)
        return built[1]

    def _build_decoder(self, replaced: dict[str, Any]) -> CTCDecoder:
        if self.decoder is not None:
            kept = {name: getattr(self.decoder, name) for name in (*SETTINGS, "lm", "rescoring")}
            return CTCDecoder(**kept | replaced)
        plain = CTCDecoder.from_processor(self.tokenizer)
        # Some models have more or fewer outputs than their tokenizers have tokens.
        vocab = self.model.config.vocab_size
        return CTCDecoder((plain.tokens + [""] * vocab)[:vocab], plain.blank_id, **replaced)

    def _times(self, start_step: float, end_step: float) -> tuple[float, float]:
        rate_hz = self.feature_extractor.sampling_rate
        return start_step * self._align_to / rate_hz, end_step * self._align_to / rate_hz

    def _char_chunks(
        self, passages: Sequence[tuple[int, Hypothesis]], log_probs: np.ndarray, decoder: CTCDecoder
    ) -> list[dict[str, Any]]:
        """Characters and spaces as the tokenizer finds them in the best alignments; `log_probs` `(steps, vocab)`."""
        chunks: list[dict[str, Any]] = []
        ends = [start for start, _ in passages[1:]] + [len(log_probs)]
        for (start, hypothesis), end in zip(passages, ends, strict=True):
            found = self._passage_chars(start, hypothesis, log_probs[start:end], decoder.blank_id)
            if chunks and found and decoder.units.separator:
                between = chunks[-1]["timestamp"][1], found[0]["timestamp"][0]
                chunks.append({"text": decoder.units.separator, "timestamp": between})
            chunks += found
        return chunks

    def _passage_chars(
        self, start: int, hypothesis: Hypothesis, log_probs: np.ndarray, blank_id: int
    ) -> list[dict[str, Any]]:
        states = viterbi_path(log_probs, np.array(hypothesis.token_ids, np.int32), blank_id)  # (steps,) odd: a token
        token_at = np.array([*hypothesis.token_ids, blank_id])  # the last one also stands for -1, no path
        aligned = np.where(states % 2 == 1, token_at[states // 2], blank_id)  # (steps,)
        offsets = self.tokenizer.decode(aligned, skip_special_tokens=False, output_char_offsets=True)["char_offsets"]
        return [
            {
                "text": offset["char"],
                "timestamp": self._times(start + offset["start_offset"], start + offset["end_offset"]),
            }
            for offset in offsets
        ]

    def _describe(self, hypothesis: Hypothesis) -> dict[str, Any]:
        words = [
            {
                "text": word.text,
                "timestamp": self._times(word.start_step, word.end_step),
                "confidence": word.confidence,
            }
            for word in hypothesis.words
        ]
        confidence = sum(word["confidence"] for word in words) / len(words) if words else None
        return {"text": hypothesis.text, "score": hypothesis.score, "confidence": confidence, "words": words}


def find_decoder(model: "PreTrainedModel") -> Path | None:
    """Find the folder `decoder` beside a model.

    Args:
        model: A model that was loaded from a folder or from the Hub; offline, only the Hub's cache is looked at.

    Returns:
        The local folder, of a Hub repository the cached one; `None` where there is none.
    """
    if not model.name_or_path:
        return None
    options = {
        "subfolder": DECODER_FOLDER,
        "revision": getattr(model.config, "_commit_hash", None),
        "_raise_exceptions_for_missing_entries": False,
        "_raise_exceptions_for_connection_errors": False,
        "_raise_exceptions_for_gated_repo": False,
    }
    try:
        config_file = cached_file(model.name_or_path, CONFIG_FILE, **options)
        if config_file is None:
            return None
        cached_file(model.name_or_path, LM_FILE, **options)  # lies beside the configuration, if there is one
    except OSError as error:  # a folder that is gone, or no name of a repository
        logger.info("no decoder was looked for beside the model %r: %s", model.name_or_path, error)
        return None
    return Path(config_file).parent


def _load_decoder(model: "PreTrainedModel") -> CTCDecoder | None:
    folder = find_decoder(model)
    if folder is None:
        return None
    decoder = CTCDecoder(**load_decoder(folder, model.device))
    if len(decoder.tokens) != model.config.vocab_size:
        # As when a loaded model was given a new head: its name is still that of the one it came from.
        logger.warning(
            "the decoder in %s has %d tokens and the model %d; it is not used",
            folder,
            len(decoder.tokens),
            model.config.vocab_size,
        )
        return None
    return decoder


def _without_stride(outputs: dict[str, Any]) -> torch.Tensor:
    """Logits of one chunk without the parts that its neighbours see better, and without padding, `(steps, vocab)`."""
    logits = outputs["logits"][0].float()
    if "stride" in outputs:
        total, left, right = outputs["stride"]
        return logits[left : total - right]
    return logits[: int(outputs["steps"][0])] if "steps" in outputs else logits


def _extra(model_outputs: list[dict[str, Any]]) -> dict[str, list]:
    """What the caller sent along with the sound comes back, a list with an entry for each chunk."""
    extra = defaultdict(list)
    for outputs in model_outputs:
        for name, value in outputs.items():
            if name not in ("logits", "stride", "steps"):
                extra[name].append(value)
    return dict(extra)
