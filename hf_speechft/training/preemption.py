"""SIGTERM, as clusters send it before they take a machine away: a checkpoint after the update at hand, then the end.

Unlike transformers' `enable_jit_checkpoint`, which waits for 3 s, may save between a backward pass and its update
(whose random numbers are then drawn twice), does not ask the other processes, and marks the run as trained to its end.

Such checkpoints lie in a folder of their own until the next evaluation: they have no validation result, and must not
push those that have one out of `save_total_limit`. So do those of `--save_strategy steps --eval_strategy epoch`.
"""

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState

from hf_speechft.data.workers import sigterm_held_back
from hf_speechft.training.arguments import SpeechTrainingArguments

logger = logging.getLogger(__name__)

TERMINATED = 128 + signal.SIGTERM  # the status that shells give a process that the signal ended


class Preemption(TrainerCallback):
    """Saves between evaluations, where asked by the arguments or by SIGTERM; the latter then ends the process.

    What is due after an update anyhow, an evaluation and its checkpoint, comes first. So nothing is saved after the
    last update of an epoch before its evaluation: a run that went on from there would miss it.

    Attributes:
        is_asked: Whether SIGTERM came.
        is_between: Whether the checkpoint that is being saved has no evaluation.
    """

    def __init__(self) -> None:
        self.is_asked = False
        self.is_between = False

    @contextmanager
    def listening(self, args: SpeechTrainingArguments) -> Iterator[None]:
        """Take SIGTERM as a wish, not as the end; only the main thread can.

        Raises:
            SystemExit: With status 143, where it came after the last checkpoint.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGTERM, self._note)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
        if self.is_asked:
            self._exit("training had ended", args)

    def holding_back(self) -> AbstractContextManager[None]:
        """While training, let SIGTERM wait where workers of a data loader start: they outlive it then."""
        is_listening = signal.getsignal(signal.SIGTERM) == self._note
        return sigterm_held_back() if is_listening else nullcontext()

    def _note(self, number: int, frame: object) -> None:
        if not self.is_asked:  # a launcher may pass on what the group has been sent already
            logger.info("SIGTERM: ending after this update")
        self.is_asked = True

    def on_step_end(
        self, args: SpeechTrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Ask for a checkpoint, unless one is due."""
        is_asked = self._anyone_is_asked(args)
        is_due = args.saves_between_evaluations and state.global_step % state.save_steps == 0
        is_last = state.epoch == int(state.epoch) or control.should_training_stop
        if (is_asked or is_due) and not control.should_save and not is_last:
            control.should_save = self.is_between = True

    def on_epoch_end(
        self, args: SpeechTrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Ask for a checkpoint where SIGTERM came and the end of an epoch is no reason for one."""
        if self._anyone_is_asked(args) and not control.should_save:
            control.should_save = self.is_between = True

    def on_save(
        self, args: SpeechTrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """End where SIGTERM came, once the checkpoint is whole on all processes."""
        self.is_between = False
        if not self._anyone_is_asked(args):
            return
        if args.world_size > 1:
            torch.distributed.barrier()
        self._exit(f"{state.global_step} of {state.max_steps} updates are made and saved in {args.output_dir}", args)

    def _anyone_is_asked(self, args: SpeechTrainingArguments) -> bool:
        """Agree: the processes may be told at different updates, and can only save together."""
        if args.world_size == 1:
            return self.is_asked
        asked = torch.tensor(float(self.is_asked), device=args.device)
        torch.distributed.all_reduce(asked, torch.distributed.ReduceOp.MAX)
        return bool(asked)

    def _exit(self, what: str, args: SpeechTrainingArguments) -> None:
        names_checkpoint = str(args.resume_from_checkpoint or True).lower() != "true"
        changes = ["without --overwrite_output_dir"] * args.overwrite_output_dir
        changes += ["with --resume_from_checkpoint true"] * names_checkpoint
        changed = f", {' and '.join(changes)}," if changes else ""
        logger.info("ended by SIGTERM; %s; the same command%s goes on from there", what, changed)
        raise SystemExit(TERMINATED)
