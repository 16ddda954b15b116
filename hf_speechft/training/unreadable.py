"""How many unreadable clips a run bears with, and what its report says of them."""

import logging
import math
from collections.abc import Mapping, Sequence

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_speechft.data.unreadable import UnreadableClips

logger = logging.getLogger(__name__)

NAMED = 5  # files that an error names


class UnreadableLimit(TrainerCallback):
    """Names each unreadable file when it is met, and stops the run where there are too many.

    Only files met since the process began count: after a stop some may have been mended.

    Args:
        clips: Where the collator notes them.
        limit: `--max_corrupt_files`: a number of files, or a share below 1, rounded up.
        recordings: Of the training split, which the share is of.
    """

    def __init__(self, clips: UnreadableClips, limit: float, recordings: int) -> None:
        self.clips = clips
        self.limit = math.ceil(limit * recordings) if limit < 1 else int(limit)
        self._met: dict[str, str] = {}

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Look after an update."""
        self.check(state)

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Look after an evaluation."""
        self.check(state)

    def on_predict(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metrics: object, **kwargs: object
    ) -> None:
        """Look after the test split was decoded."""
        self.check(state)

    def check(self, state: TrainerState) -> None:
        """Name what was met since the last time.

        Raises:
            ValueError: Too many files were.
        """
        for clip in self.clips.new():
            if clip.file not in self._met and state.is_world_process_zero:
                logger.warning("unreadable: utterance %s: %s", clip.utterance_id, clip.error)
            self._met.setdefault(clip.file, clip.error)
        if len(self._met) > self.limit:
            raise ValueError(
                f"{len(self._met)} files cannot be read, and --max_corrupt_files bears with {self.limit}: "
                f"{'; '.join(list(self._met.values())[:NAMED])}. All are listed in {self.clips.path}. Mend them, drop "
                "their rows and start anew, or raise the limit; the same command goes on from the last checkpoint"
            )


def keep_readable(batch: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], int]:
    """Take the clips out of a batch that could not be read.

    Args:
        batch: From the collator, with the mask `unreadable (batch,)` where there are such clips.

    Returns:
        The rest without the mask, and how many clips it has; where none could be read, all of them and 0.
    """
    kept = dict(batch)
    unreadable = kept.pop("unreadable", None)
    if unreadable is None:
        return kept, len(kept["labels"])
    readable = int((~unreadable).sum())
    return ({name: value[~unreadable] for name, value in kept.items()} if readable else kept), readable


def count_unreadable(clips: UnreadableClips, utterance_ids: Sequence[str]) -> int:
    """Count the unreadable files of a split.

    Args:
        clips: Where they were noted.
        utterance_ids: Of the split.
    """
    known = set(utterance_ids)
    return len({clip.file for clip in clips.all() if clip.utterance_id in known})
