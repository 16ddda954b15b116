"""What depends on the epoch: what the augmentation draws, and whether there is any.

`--clean_epochs` are the last ones. Masks, warp and noise teach what speech may be like, and what will be recognised is
not like that: a few epochs without them bring the weights back to it. Other speeds stay, as people differ in them, and
so do other positions.

Source: He et al., "Data Augmentation Revisited: Rethinking the Distribution Gap between Clean and Augmented Data",
2019 (arXiv:1909.09148).
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

from transformers import TrainerCallback, TrainerControl, TrainerState

from hf_speechft import SpeechBertConfig
from hf_speechft.data.collate import SpeechCollator
from hf_speechft.training.arguments import SpeechTrainingArguments


def check_clean_epochs(args: SpeechTrainingArguments, updates_per_epoch: int) -> None:
    """Refuse more clean epochs than `--max_steps` makes, since no update would hear a mask then.

    Raises:
        ValueError: Saying how many epochs there are.
    """
    epochs = math.ceil(args.max_steps / updates_per_epoch)
    if args.clean_epochs > epochs:
        raise ValueError(
            f"--clean_epochs is {args.clean_epochs}; they are the last of the epochs that --max_steps "
            f"{args.max_steps} makes, {epochs} of {updates_per_epoch} updates, so give a number from 0 to that"
        )


def masked_epochs(args: SpeechTrainingArguments, state: TrainerState) -> int:
    """Count the epochs before `--clean_epochs`."""
    return state.num_train_epochs - args.clean_epochs


def is_clean_epoch(args: SpeechTrainingArguments, state: TrainerState) -> bool:
    """Tell whether the epoch that a Trainer is in is one of `--clean_epochs`."""
    return int(state.epoch or 0) >= masked_epochs(args, state)


@contextmanager
def unmasked(config: SpeechBertConfig) -> Iterator[None]:
    """Let a model that trains hear features as they are, and once: without warp, masks and CR-CTC's second view."""
    kept = config.apply_spec_augment, config.consistency_weight
    config.apply_spec_augment, config.consistency_weight = False, 0.0
    try:
        yield
    finally:
        config.apply_spec_augment, config.consistency_weight = kept


class EpochCallback(TrainerCallback):
    """Tells the collator which epoch begins, so that a resumed run draws what the run itself would have drawn."""

    def __init__(self, collator: SpeechCollator) -> None:
        self.collator = collator

    def on_epoch_begin(
        self, args: SpeechTrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Count whole epochs; before the first update there is none, and a checkpoint may lie within one."""
        self.collator.set_epoch(int(state.epoch or 0), is_clean=is_clean_epoch(args, state))
