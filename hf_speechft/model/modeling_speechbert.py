"""SpeechBertModel and SpeechBertForCTC: a text transformer that hears.

input_features (batch, frames, mels)
  -> SpecAugment masks, in training
  -> front-end (batch, steps, hidden)     in place of the checkpoint's word embeddings
  -> text transformer (batch, steps, hidden)   takes `inputs_embeds`
  -> linear head (batch, steps, vocab)    CTC; blank = config.pad_token_id
"""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn
from transformers import AutoConfig, Cache
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutput
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.generic import can_return_tuple

from .backbone_speechbert import (
    adapt_backbone,
    build_backbone,
    check_streaming,
    check_text_model,
    copy_embedding_rows,
    first_position_id,
    load_backbone,
    load_stretched,
    position_limit,
    set_attention_dropout,
    set_body_dropout,
    word_vectors,
)
from .configuration_speechbert import SpeechBertConfig
from .ctc_speechbert import blank_padding, ctc_loss, inconsistency, needed_steps
from .frontend_speechbert import build_frontend, match_embedding_scale
from .padding_speechbert import FrontendPast, count_frames, length_mask, output_lengths
from .pretrained_speechbert import SpeechBertPreTrainedModel
from .spec_augment_speechbert import mask_features, warp_frequencies

CACHE_NAMES = ("cache", "past_key_values")  # of transformers 5.24, and of 5.17


@dataclass
class SpeechBertPast:
    """What a causal model remembers of utterances that come in pieces, all of the same length.

    Attributes:
        frontend: What the front-end remembers.
        key_values: The text transformer's cache, under the name of its argument.
        steps: Steps that came out so far.
    """

    frontend: FrontendPast = field(default_factory=FrontendPast)
    key_values: dict[str, Cache] = field(default_factory=dict)
    steps: int = 0


class SpeechBertModel(SpeechBertPreTrainedModel):
    """Front-end and text transformer, without a head."""

    def __init__(self, config: SpeechBertConfig) -> None:
        super().__init__(config)
        self.frontend = build_frontend(config)
        self.backbone = build_backbone(config)
        self.max_steps = position_limit(self.backbone)
        self.first_position_id = first_position_id(self.backbone)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutput:
        """Encode features.

        Args:
            input_features: `(batch, frames, mels)`, padded on the right.
            attention_mask: `(batch, frames)`, 1 where a frame is real; `None` where all are.
            **kwargs: `output_hidden_states`, `output_attentions` and other arguments of the text transformer.

        Returns:
            `last_hidden_state (batch, steps, hidden)` and what was asked for.

        Raises:
            ValueError: The features have another width than the model takes, or make more steps than the
                checkpoint has positions for.
        """
        batch, frames, mels = input_features.shape
        self._check_width(mels)
        if attention_mask is not None and attention_mask.shape != (batch, frames):
            raise ValueError(
                f"attention_mask has the shape {tuple(attention_mask.shape)}; features of {(batch, frames, mels)} "
                f"need {(batch, frames)}, one number for each frame"
            )
        self._check_steps(output_lengths(frames, self.config.subsampling))
        frame_lengths = count_frames(input_features, attention_mask)
        features = input_features.to(self.frontend.dtype)
        if self.training and self.config.apply_spec_augment:
            if self.config.frequency_warp:
                features = warp_frequencies(features, self.config.frequency_warp, self.config.sampling_rate)
            features = mask_features(features, frame_lengths, self.config)
        hidden = self.frontend(features, frame_lengths)  # (batch, steps, hidden)
        step_lengths = output_lengths(frame_lengths, self.config.subsampling)
        if self.training and self.config.position_shift:
            kwargs["position_ids"] = self._shifted_positions(hidden)
        for name in ("output_hidden_states", "output_attentions"):
            if kwargs.get(name) is None:
                kwargs[name] = getattr(self.config, name)
        outputs = self.backbone(
            inputs_embeds=hidden,
            attention_mask=length_mask(step_lengths, hidden.shape[1]).long(),  # (batch, steps)
            **kwargs,
        )
        return BaseModelOutput(outputs.last_hidden_state, outputs.get("hidden_states"), outputs.get("attentions"))

    def stream(self, input_features: torch.Tensor, past: SpeechBertPast, is_last: bool = False) -> torch.Tensor:
        """Encode the next frames of utterances that come in pieces; the steps are those of the whole.

        Args:
            input_features: `(batch, frames, mels)`, any number of frames, all of them real.
            past: What the calls before left, a new one for new utterances. It is changed.
            is_last: Whether the utterances end here.

        Returns:
            `(batch, steps, hidden)`: the steps that these frames complete, often none.

        Raises:
            ValueError: The model is not causal or of a family that cannot stream, or as `forward`.
        """
        check_streaming(self.config)
        self._check_width(input_features.shape[2])
        hidden = self.frontend.stream(input_features.to(self.frontend.dtype), past.frontend, is_last)
        batch, steps, _ = hidden.shape
        if steps == 0:
            return hidden.new_empty(batch, 0, self.config.output_size)
        self._check_steps(past.steps + steps)
        outputs = self.backbone(inputs_embeds=hidden, use_cache=True, **past.key_values)
        cache_name = next(name for name in CACHE_NAMES if outputs.get(name) is not None)
        past.key_values = {cache_name: outputs[cache_name]}
        past.steps += steps
        return outputs.last_hidden_state

    def _shifted_positions(self, hidden: torch.Tensor) -> torch.Tensor:
        """Draw where the positions of each utterance begin: ids `(batch, steps)` for `(batch, steps, width)`."""
        batch, steps, _ = hidden.shape
        largest = min(self.config.position_shift, self.max_steps - steps)
        shifts = torch.randint(largest + 1, (batch, 1), device=hidden.device)
        return self.first_position_id + shifts + torch.arange(steps, device=hidden.device)

    def _check_width(self, mels: int) -> None:
        if mels != self.config.num_mel_bins:
            raise ValueError(
                f"input_features have {mels} values a frame; this model takes {self.config.num_mel_bins}. "
                "Use the processor that was saved with it."
            )

    def _check_steps(self, steps: int) -> None:
        if self.max_steps is not None and steps > self.max_steps:
            step_s = self.config.inputs_to_logits_ratio / self.config.sampling_rate
            raise ValueError(
                f"the longest utterance makes {steps} steps ({steps * step_s:.1f} s); the text checkpoint has "
                f"positions for {self.max_steps} ({self.max_steps * step_s:.1f} s). Cut it into chunks (pipeline(..., "
                "chunk_length_s=20), hf-speechft transcribe does so by itself), drop it with --max_duration_s, "
                "or train with a larger subsampling or with max_positions, which stretches the positions."
            )


class SpeechBertForCTC(SpeechBertPreTrainedModel):
    """`SpeechBertModel` with a linear head over CTC units: a speech recogniser."""

    def __init__(self, config: SpeechBertConfig) -> None:
        super().__init__(config)
        self.speechbert = SpeechBertModel(config)
        self.dropout = nn.Dropout(config.head_dropout)
        self.head = nn.Linear(config.output_size, config.vocab_size)
        self.post_init()

    @classmethod
    def from_text_pretrained(
        cls,
        name_or_path: str,
        *,
        processor: object,
        revision: str | None = None,
        token: str | bool | None = None,
        dtype: torch.dtype = torch.float32,
        body_dropout: float | None = None,
        attention_dropout: float | None = None,
        **config_options: object,
    ) -> "SpeechBertForCTC":
        """Turn a text checkpoint into a speech model that is ready to be fine-tuned.

        The pre-trained transformer is taken over, of an encoder-decoder the encoder. The word embeddings are not: the
        front-end comes in their place, its output scaled as theirs was. With a `native` vocabulary the
        head starts from their rows.

        Args:
            name_or_path: Hub id or folder of a text checkpoint whose model takes `inputs_embeds`.
            processor: The `SpeechBertProcessor` made for it.
            revision: Branch, tag or commit of the checkpoint.
            token: Access token for the Hub.
            dtype: Type of the weights; float32 is right for training, mixed precision included.
            body_dropout: Dropout probability in the transformer; the checkpoint's own by default.
            attention_dropout: That of attention's weights, if it shall be another.
            **config_options: Fields of `SpeechBertConfig`, such as `frontend="rnn"` or `subsampling=8`.

        Returns:
            The model, in evaluation mode as from `from_pretrained`.

        Raises:
            ValueError: The checkpoint is no text encoder or decoder, its model does not take `inputs_embeds`, or its
                family cannot take the direction of attention or the number of positions asked for.
        """
        hub_options = {"revision": revision, "token": token}
        text_config = AutoConfig.from_pretrained(name_or_path, **hub_options)
        check_text_model(text_config, name_or_path)
        if body_dropout is not None:
            set_body_dropout(text_config, body_dropout)
        if attention_dropout is not None:
            set_attention_dropout(text_config, attention_dropout)
        extractor, tokenizer = processor.feature_extractor, processor.tokenizer
        config = SpeechBertConfig(
            backbone_config=text_config,
            vocab_size=len(tokenizer),
            pad_token_id=tokenizer.pad_token_id,
            num_mel_bins=extractor.feature_size,
            sampling_rate=extractor.sampling_rate,
            hop_length=extractor.hop_length,
            **config_options,
        )
        backbone = load_backbone(config, name_or_path, dtype=dtype, **hub_options)
        embeddings = word_vectors(backbone)
        model = cls(config).to(dtype)
        match_embedding_scale(model.speechbert.frontend, embeddings)
        if tokenizer.checkpoint_ids is not None:
            copy_embedding_rows(model.head, embeddings, tokenizer.checkpoint_ids)
        backbone = adapt_backbone(backbone, config)
        if model.speechbert.max_steps != position_limit(backbone):
            backbone = load_stretched(model.speechbert.backbone, backbone)
        model.speechbert.backbone = backbone
        if Path(name_or_path).is_dir():  # a path of this machine does not travel to the Hub; a Hub id does
            config.backbone_config._name_or_path = ""
        return model.eval()

    @can_return_tuple
    def forward(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        middle_targets: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> CausalLMOutput:
        """Compute logits and, where labels are given, the CTC loss.

        Args:
            input_features: `(batch, frames, mels)`, padded on the right.
            attention_mask: `(batch, frames)`, 1 where a frame is real; `None` where all are.
            labels: `(batch, tokens)` unit ids, padded with -100.
            middle_targets: What the middle layer learns in training if `config.intermediate_ctc_weight` is above 0,
                in units of the same vocabulary, such as `tokenizer.spell(labels)`; `labels` by default. The middle
                layer learns nothing from utterances that have fewer steps than these need.
            **kwargs: Arguments of the text transformer.

        Returns:
            `loss` (scalar, or `None`), `logits (batch, steps, vocab)`, where a model that does not train leaves only
            the blank behind an utterance's end, and what was asked for.

        Raises:
            ValueError: A label lies outside the vocabulary or is the blank, or an utterance has fewer steps than its
                labels need.
        """
        if not self.training or labels is None or self.config.consistency_weight == 0:
            return self._forward(input_features, attention_mask, labels, middle_targets, **kwargs)
        twice = [
            None if tensor is None else torch.cat([tensor, tensor])
            for tensor in (input_features, attention_mask, labels, middle_targets)
        ]  # as one batch: in training each row has masks of its own
        both = self._forward(*twice, **kwargs)
        logits, other = both.logits.chunk(2)
        step_lengths = self.step_lengths(input_features, attention_mask)
        disagreement = inconsistency(logits, other, step_lengths, labels, self.config)
        loss = both.loss / 2 if self.config.ctc_loss_reduction == "sum" else both.loss
        return CausalLMOutput(
            loss + self.config.consistency_weight * disagreement,
            logits,
            first_view(both.hidden_states),
            first_view(both.attentions),
        )

    def _forward(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None,
        labels: torch.Tensor | None,
        middle_targets: torch.Tensor | None,
        output_hidden_states: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> CausalLMOutput:
        """Logits and loss of one pass."""
        wanted = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        middle_share = self.config.intermediate_ctc_weight if self.training and labels is not None else 0.0
        outputs = self.speechbert(
            input_features,
            attention_mask,
            output_hidden_states=wanted or middle_share > 0,
            **kwargs | {"return_dict": True},
        )
        logits = self.head(self.dropout(outputs.last_hidden_state))  # (batch, steps, vocab)
        step_lengths = self.step_lengths(input_features, attention_mask)
        loss = None
        if labels is not None:
            loss = ctc_loss(logits, step_lengths, labels, self.config)
        if middle_share > 0:
            middle_targets = labels if middle_targets is None else middle_targets
            fits = needed_steps(middle_targets) <= step_lengths
            middle = outputs.hidden_states[len(outputs.hidden_states) // 2][fits]
            middle = nn.functional.layer_norm(middle, middle.shape[-1:])  # some checkpoints norm after the last layer
            logits_there = self.head(self.dropout(middle))
            loss = (1 - middle_share) * loss
            if fits.any():
                loss = loss + middle_share * ctc_loss(
                    logits_there, step_lengths[fits], middle_targets[fits], self.config
                )
        if attention_mask is not None and not self.training:
            logits = blank_padding(logits, step_lengths, self.config.pad_token_id)
        return CausalLMOutput(loss, logits, outputs.hidden_states if wanted else None, outputs.attentions)

    @torch.no_grad()
    def resize_token_embeddings(self, new_num_tokens: int | None = None, *_: object, **__: object) -> nn.Module:
        """Give the head rows for units that were added; they start as unlikely as its least likely unit.

        Args:
            new_num_tokens: Units in all, such as `len(tokenizer)`; `None` changes nothing.

        Returns:
            The head: word embeddings there are none.

        Raises:
            ValueError: There would be fewer units than before.
        """
        old, size = self.head, new_num_tokens or self.config.vocab_size
        if size < old.out_features:
            raise ValueError(f"{size} units are fewer than the model's {old.out_features}; none can be taken away")
        if size > old.out_features:
            self.head = nn.Linear(old.in_features, size, device=old.weight.device, dtype=old.weight.dtype)
            self._init_weights(self.head)
            self.head.weight[: old.out_features] = old.weight
            self.head.bias[:] = old.bias.min()
            self.head.bias[: old.out_features] = old.bias
            self.config.vocab_size = size
        return self.head

    @torch.no_grad()
    def generate(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        """Take the best unit of each step.

        Args:
            input_features: `(batch, frames, mels)`.
            attention_mask: `(batch, frames)`.
            **kwargs: Arguments of `forward`.

        Returns:
            Ids `(batch, steps)`, blank behind an utterance's end; `processor.batch_decode` makes text of them.
        """
        logits = self(input_features, attention_mask, **kwargs | {"return_dict": True}).logits
        step_lengths = self.step_lengths(input_features, attention_mask)
        return blank_padding(logits, step_lengths, self.config.pad_token_id).argmax(dim=-1)

    @torch.no_grad()
    def stream(self, input_features: torch.Tensor, past: SpeechBertPast, is_last: bool = False) -> torch.Tensor:
        """Compute the logits of the next frames of utterances that come in pieces: those of `forward` on the whole.

        `hf_speechft.decoding.StreamingRecognizer` does so from samples to text.

        Args:
            input_features: `(batch, frames, mels)`, any number of frames, all of them real, normalised causally.
            past: What the calls before left, a new one for new utterances. It is changed.
            is_last: Whether the utterances end here.

        Returns:
            `(batch, steps, vocab)`: the steps that these frames complete, often none.

        Raises:
            ValueError: The model is not causal or of a family that cannot stream, the features have another width
                than the model takes, or the utterances make more steps than it has positions for.
        """
        return self.head(self.speechbert.stream(input_features, past, is_last))

    def step_lengths(self, input_features: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Steps of each utterance, `(batch,)`, from the arguments of `forward`."""
        return output_lengths(count_frames(input_features, attention_mask), self.config.subsampling)


def first_view(layers: tuple[torch.Tensor, ...] | None) -> tuple[torch.Tensor, ...] | None:
    """Take the first half of the rows of each layer."""
    return None if layers is None else tuple(layer.chunk(2)[0] for layer in layers)


__all__ = ["SpeechBertForCTC", "SpeechBertModel", "SpeechBertPast", "SpeechBertPreTrainedModel"]
