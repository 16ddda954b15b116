"""Text while somebody speaks: samples in pieces of any size, and words as soon as a causal model has heard them.

    samples -> frames -> steps, with what the front-end and the text transformer remember -> best unit -> text

The text is that of the whole recording: only when it comes depends on the pieces, and it is never taken back.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from hf_speechft.model.backbone_speechbert import check_streaming
from hf_speechft.model.modeling_speechbert import SpeechBertPast

from .feature_stream import FeatureStream, to_float
from .longform import decode_words, last_word_start
from .transcript import TimedWord

if TYPE_CHECKING:
    from hf_speechft.model.modeling_speechbert import SpeechBertForCTC
    from hf_speechft.model.processing_speechbert import SpeechBertProcessor

__all__ = ["StreamingRecognizer"]

BLOCK_S = 10.0  # longer pieces are cut, which bounds the memory
PAUSE_S = 0.4  # without a unit, to begin anew there


class StreamingRecognizer:
    """Recognise one recording while it comes, by the best unit of each step.

    Memory and work grow with what the model remembers, a text checkpoint with learned positions comes to their end
    (GPT-2: 1,024 steps, 41 s at 4x), and any model was trained on clips of some seconds. So for long recordings give
    `restart_s`: then the model forgets in pauses, as if a new recording began there.

    Args:
        model: Causal, in evaluation mode; its device is used.
        processor: The one that was saved with it, its features normalised causally.
        sampling_rate: Rate of the samples that will come, in Hz.
        restart_s: Begin anew in the first pause of 0.4 s after so many seconds; `None` for never.

    Attributes:
        words: The words that are complete, with times.

    Raises:
        ValueError: The model or its features look ahead, or cannot stream; the model is in training mode; or the rate
            is not the model's.
    """

    def __init__(
        self,
        model: "SpeechBertForCTC",
        processor: "SpeechBertProcessor",
        *,
        sampling_rate: int,
        restart_s: float | None = None,
    ) -> None:
        check_streaming(model.config)
        if model.training:
            raise ValueError("the model is in training mode, which drops inputs; call model.eval() first")
        extractor = processor.feature_extractor
        if sampling_rate != extractor.sampling_rate:
            raise ValueError(
                f"the stream has {sampling_rate} Hz and the model needs {extractor.sampling_rate} Hz; resample it"
            )
        self.model, self.extractor, self.tokenizer = model, extractor, processor.tokenizer
        self.words: list[TimedWord] = []
        self._step_samples = model.config.inputs_to_logits_ratio
        self._step_s = self._step_samples / sampling_rate
        self._restart_steps = None if restart_s is None else round(restart_s / self._step_s)
        limit = model.speechbert.max_steps
        if limit is not None and self._restart_steps is not None:
            self._restart_steps = min(self._restart_steps, limit // 2)
        self._word_starts = self.tokenizer.word_start_ids
        self._waiting: list[int] = []  # best unit of each step since the last word began
        self._waiting_start = 0  # step of the recording
        self._shown = ""  # what was given out of the waiting word
        self._samples = self._skipping = 0
        self._is_finished = False
        self._forget()

    @property
    def latency_s(self) -> float:
        """Seconds from the start of a step to the last sample that it needs: what no computer makes shorter."""
        frames = self.model.speechbert.frontend.first_step_frames - 1
        samples = frames * self.extractor.hop_length + self.extractor.frame_length - self.extractor.lead_samples
        return samples / self.extractor.sampling_rate + self.model.config.lookahead_ms / 1000

    @property
    def text(self) -> str:
        """All that was given out so far."""
        return self._join(self.words)

    def accept(self, samples: np.ndarray | torch.Tensor) -> str:
        """Take the next samples.

        Args:
            samples: `(samples,)`, any number of them: floating point in [-1, 1], or int16.

        Returns:
            The text that follows what was given out before, its leading space included; often empty.

        Raises:
            ValueError: The samples are not mono, of another type, or not finite; the recording is finished, or longer
                than the model has positions for.
        """
        self._check_open()
        waveform = to_float(samples).to(self.model.device)
        self._samples += len(waveform)
        text, longest, limit = "", round(BLOCK_S / self._step_s), self.model.speechbert.max_steps
        while len(waveform):
            room = longest if limit is None else limit - self._past.steps  # a pause may come before the last position
            samples = max(1, min(longest, room)) * self._step_samples
            text += self._hear(waveform[:samples])
            waveform = waveform[samples:]
        return text

    def finish(self) -> str:
        """End the recording.

        Returns:
            The rest of the text, as `accept`; `words` is complete then.

        Raises:
            ValueError: It is finished already, or as `accept`.
        """
        self._check_open()
        self._is_finished = True
        rest = self._write(self._best_units(self._features.finish(), is_last=True))
        self._keep_words(len(self._waiting))
        duration_s = self._samples / self.extractor.sampling_rate
        if self.words and self.words[-1].end_s > duration_s:  # the last step may reach beyond the last sample
            self.words[-1] = replace(self.words[-1], end_s=duration_s)
        return rest

    def _check_open(self) -> None:
        if self._is_finished:
            raise ValueError("this recording is finished; make a new StreamingRecognizer for the next one")

    def _forget(self) -> None:
        """Begin anew."""
        self._features = FeatureStream(self.extractor, self.model.device)
        self._past = SpeechBertPast()
        self._recent = torch.empty(0, device=self.model.device)  # samples behind the last step that came out
        self._blanks = 0  # steps without a unit up to now

    def _hear(self, samples: torch.Tensor) -> str:
        """Text that the next samples bring; those behind a pause in which the model forgets are heard again."""
        text = ""
        while True:
            skipped = min(self._skipping, len(samples))
            self._skipping, samples = self._skipping - skipped, samples[skipped:]
            first_step = self._past.steps
            ids = self._best_units(self._features.accept(samples))
            steps = self._find_pause(ids, first_step)
            text += self._write(ids[:steps])
            end = self._step_samples * (first_step + len(ids[:steps]))
            beyond = self._features.samples - end  # below 0 where a step needs less than its samples
            self._recent = torch.cat([self._recent, samples])
            self._recent = self._recent[len(self._recent) - max(0, beyond) :]
            if steps is None:
                return text
            self._keep_words(len(self._waiting))
            samples, self._skipping = self._recent, max(0, -beyond)
            self._forget()

    def _find_pause(self, ids: Sequence[int], first_step: int) -> int | None:
        """Number of these steps up to the end of a pause in which to begin anew; `None` where there is none."""
        for place, unit_id in enumerate(ids, start=1):
            self._blanks = self._blanks + 1 if unit_id == self.model.config.pad_token_id else 0
            step = first_step + place
            is_late = self._restart_steps is not None and step >= self._restart_steps
            limit = self.model.speechbert.max_steps
            is_urgent = limit is not None and step >= 0.75 * limit  # before positions run out, any blank will do
            if is_late and self._blanks * self._step_s >= (self._step_s if is_urgent else PAUSE_S):
                return place
        return None

    @torch.inference_mode()
    def _best_units(self, features: torch.Tensor, is_last: bool = False) -> list[int]:
        """Best unit of each step that the next frames complete, `(frames, feature_size)`."""
        logits = self.model.stream(features[None], self._past, is_last)  # (1, steps, vocab)
        return logits[0].argmax(dim=-1).tolist()

    def _write(self, ids: Sequence[int]) -> str:
        """Text that the next best units bring."""
        self._waiting += ids
        if all(unit_id == self.model.config.pad_token_id for unit_id in ids):
            return ""
        shown, words = self._shown, len(self.words)
        self._keep_words(last_word_start(self._waiting, self._word_starts))
        self._shown = self.tokenizer.decode(self._waiting, skip_special_tokens=True)
        added = self._join(self.words[words:])[len(shown) :]  # it begins with what is shown of a word that goes on
        return f"{self.tokenizer.separator}{added}" if added and words and not shown else added

    def _join(self, words: Sequence[TimedWord]) -> str:
        """Text of some words and of what is shown of the one that waits."""
        return self.tokenizer.separator.join(filter(None, [*(word.text for word in words), self._shown]))

    def _keep_words(self, steps: int) -> None:
        """Move the words of the first waiting steps to `words`."""
        self.words += decode_words(self._waiting[:steps], self.tokenizer, self._waiting_start, self._step_s)
        self._waiting, self._waiting_start = self._waiting[steps:], self._waiting_start + steps
        self._shown = ""
