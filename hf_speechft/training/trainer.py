"""SpeechTrainer: the Hugging Face Trainer with two learning rates and greedy CTC decoding at evaluation."""

from collections.abc import Callable, Sequence

import torch
from torch.utils.data import SequentialSampler
from transformers import EvalPrediction, Trainer

from hf_speechft.model.modeling_speechbert import best_path, needed_steps
from hf_speechft.scoring.metrics import CER, WER
from hf_speechft.training.arguments import SpeechTrainingArguments
from hf_speechft.training.optim import group_parameters, step_schedule


class SpeechTrainer(Trainer):
    """Trains a `SpeechBertForCTC`; predictions are the best unit of each step, blank or -100 where there is none."""

    args: SpeechTrainingArguments

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """Make the optimiser that `--optim` names, with a learning rate for the body and one for the rest."""
        if self.optimizer is None:
            trained = self.model if model is None else model
            unwrapped = self.accelerator.unwrap_model(trained)
            optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, trained)
            groups = group_parameters(
                unwrapped,
                learning_rate=self.args.learning_rate,
                new_learning_rate=self.args.new_learning_rate,
                weight_decay=self.args.weight_decay,
                decayed=self.get_decay_parameter_names(unwrapped),
            )
            self.optimizer = optimizer_class(groups, **options)
        return self.optimizer

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """Make the schedule: decay in steps where `--step_lr_epochs` is given, else `--lr_scheduler_type`."""
        if self.args.step_lr_epochs is None or self.lr_scheduler is not None:
            return super().create_scheduler(num_training_steps, optimizer)
        steps_per_epoch = num_training_steps / self.args.num_train_epochs
        self.lr_scheduler = step_schedule(
            self.optimizer if optimizer is None else optimizer,
            steps_per_decay=round(steps_per_epoch * self.args.step_lr_epochs),
            gamma=self.args.step_lr_gamma,
        )
        self._created_lr_scheduler = True  # the Trainer steps and saves it
        return self.lr_scheduler

    def _get_eval_sampler(self, eval_dataset: torch.utils.data.Dataset) -> SequentialSampler:
        """Keep the order of the data, which references rely on; the Trainer would group by length here too."""
        return SequentialSampler(eval_dataset)

    def prediction_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Decode a batch greedily; the loss is over the utterances that can be aligned, 0 if none can.

        Returns:
            The loss, ids `(batch, steps)` and labels `(batch, tokens)`.
        """
        inputs = dict(self._prepare_inputs(inputs))
        labels = inputs.pop("labels")
        recogniser = self.accelerator.unwrap_model(model)
        with torch.no_grad(), self.compute_loss_context_manager():
            logits = model(**inputs).logits  # (batch, steps, vocab)
        step_lengths = recogniser.step_lengths(**inputs)
        alignable = needed_steps(labels) <= step_lengths
        loss = logits.new_zeros((), dtype=torch.float32)
        if alignable.any():
            loss = recogniser.ctc_loss(logits[alignable], step_lengths[alignable], labels[alignable])
        if prediction_loss_only:
            return loss, None, None
        return loss, best_path(logits, step_lengths, recogniser.config.pad_token_id), labels


def error_rates(processor: object, references: Sequence[str]) -> Callable[[EvalPrediction], dict[str, float]]:
    """Make the Trainer's `compute_metrics`: WER and CER of greedy hypotheses.

    Args:
        processor: Turns ids into text.
        references: Transcripts in the order of the evaluated split.
    """
    references = list(references)

    def compute(prediction: EvalPrediction) -> dict[str, float]:
        hypotheses = processor.batch_decode(prediction.predictions, skip_special_tokens=True)
        scores = {}
        for metric in (WER(), CER()):
            scores |= metric.compute(predictions=hypotheses, references=references)
        return scores

    return compute
