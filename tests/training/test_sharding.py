"""FSDP for real, with two processes on the CPU; and the configurations of accelerate_configs/, read by Accelerate."""

import json
from pathlib import Path
from types import SimpleNamespace

import jiwer
import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DeepSpeedPlugin, DistributedType, FullyShardedDataParallelPlugin
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env
from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy
from transformers import AutoModelForCTC

from hf_speechft.training.sharding import check_sharding
from tests.stranger import MODEL_FILES
from tests.training.two_processes import ONE_UPDATE, hear_alone, run_in_two_processes, whole_batch_step

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted(path.name for path in (ROOT / "accelerate_configs").glob("*.yaml"))
TYPES = {"fsdp": "FSDP", "deepspeed_zero2": "DEEPSPEED", "deepspeed_zero3": "DEEPSPEED"}
TYPES |= {"ddp": "MULTI_GPU", "cpu_ddp": "MULTI_GPU", "multi_node": "MULTI_GPU"}


@pytest.fixture(scope="module")
def outcome(argv, corpus, tmp_path_factory):
    """The folder of the launch, and what each process found."""
    folder = tmp_path_factory.mktemp("fsdp")
    run = {"num_train_epochs": 2, "learning_rate": 2e-3, "new_learning_rate": 6e-3, "average_checkpoints": 2}
    run |= {"per_device_train_batch_size": 2, "per_device_eval_batch_size": 3}
    plan = {
        "update": argv(folder / "update", **ONE_UPDATE | {"per_device_train_batch_size": 4}),
        "run": argv(folder / "run", **run),
        "output_dir": str(folder / "run"),
    }
    (folder / "plan.json").write_text(json.dumps(plan))
    run_in_two_processes("tests/training/fsdp_process.py", "fsdp.yaml", folder / "plan.json")
    return folder, [json.loads((folder / f"found{process}.json").read_text()) for process in range(2)]


@pytest.mark.slow
def test_fsdp_shares_front_end_and_every_layer_among_processes(outcome):
    _, found = outcome
    wrapped = found[0]["wrapped"]
    assert {"speechbert.frontend", *(f"speechbert.backbone.encoder.layer.{index}" for index in range(2))} <= set(
        wrapped
    )
    assert wrapped["speechbert.backbone.encoder.layer.1"] == "FSDPBertLayer"
    assert found[0]["all"] == found[1]["all"] == found[0]["held"] + found[1]["held"]
    assert max(found[0]["held"], found[1]["held"]) < 0.6 * found[0]["all"]


@pytest.mark.slow
def test_fsdp_gives_the_gradient_of_one_process(outcome, argv, tmp_path):
    folder, _ = outcome
    weights = [torch.load(folder / f"weights{process}.pt") for process in range(2)]
    _, expected = whole_batch_step(argv, tmp_path, weights[0]["before"], 8)
    for process in weights:
        assert set(process["after"]) == set(process["before"])
        for parameter, weight in expected.items():
            torch.testing.assert_close(process["after"][parameter], weight, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_fsdp_whole_run_saves_a_model_that_gives_its_predictions(outcome, corpus):
    folder = outcome[0] / "run"
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    assert sorted(row["utterance_id"] for row in rows) == [f"test{index}.wav" for index in range(8)]
    clips = [(corpus / "test" / row["utterance_id"], row["reference"]) for row in rows]
    texts, _ = hear_alone(folder, clips)
    assert [row["hypothesis"] for row in rows] == texts
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["test"]["wer"] == pytest.approx(jiwer.wer([text for _, text in clips], texts))
    assert set(metrics["decoding"]) == {"greedy", "beam search", "beam search, 4-gram"}
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["SpeechBertForCTC"]


@pytest.mark.slow
def test_fsdp_checkpoint_loads_as_any_other(outcome):
    """The run's weights are those of a checkpoint, or the mean of both."""
    folder = outcome[0] / "run"
    checkpoints = sorted(folder.glob("checkpoint-*"))
    assert len(checkpoints) == 2
    each = []
    for checkpoint in checkpoints:
        assert {path.name for path in checkpoint.iterdir() if path.suffix in (".py", ".safetensors")} == {
            name for name in MODEL_FILES if name.endswith((".py", ".safetensors"))
        }
        configs = [json.loads((one / "config.json").read_text()) for one in (checkpoint, folder)]
        assert configs[0]["auto_map"] == configs[1]["auto_map"]
        each.append(AutoModelForCTC.from_pretrained(checkpoint).state_dict())
    saved = AutoModelForCTC.from_pretrained(folder).state_dict()
    averaged = json.loads((folder / "metrics.json").read_text())["training"]["averaged_checkpoints"]
    means = {name: (each[0][name] + each[1][name]) / 2 for name in saved}
    expected = [means] if averaged else each
    assert any(all(torch.allclose(one[name], weight, atol=1e-6) for name, weight in saved.items()) for one in expected)


@pytest.mark.slow
def test_fsdp_run_that_was_killed_while_decoding_ends_the_same(outcome):
    folder, found = outcome
    assert [process["same"] for process in found] == [True, True]
    assert {process["from"] for process in found} == {str(folder / "run" / "checkpoint-24")}


def read_by_accelerate(name, *options):
    """Arguments of `accelerate launch` with a configuration."""
    parser = launch_command_parser()
    path = str(ROOT / "accelerate_configs" / name)
    args, *_ = _validate_launch_command(parser.parse_args(["--config_file", path, *options, "run_finetune.py"]))
    return args


@pytest.mark.parametrize("name", CONFIGS)
def test_config_names_only_what_accelerate_knows(name):
    config = load_config_from_file(str(ROOT / "accelerate_configs" / name))
    assert config.distributed_type is DistributedType[TYPES[name.removesuffix(".yaml")]]
    known = vars(launch_command_parser().parse_args(["run_finetune.py"]))
    assert set(config.fsdp_config) | set(config.deepspeed_config) <= set(known)
    args = read_by_accelerate(name, "--num_processes", "8")
    assert (args.num_processes, args.mixed_precision) == (8, "no")
    assert name in (ROOT / "README.md").read_text()


def test_every_config_is_tested():
    assert {name.removesuffix(".yaml") for name in CONFIGS} == set(TYPES)


@pytest.fixture
def plugin_of(monkeypatch):
    """A function that makes the plugin which processes get from a configuration, through their environment."""

    def make(name):
        args = read_by_accelerate(name)
        is_deepspeed = "deepspeed" in name
        args.deepspeed_fields_from_accelerate_config = ""  # as `accelerate launch` sets it
        environment = prepare_deepspeed_cmd_env(args)[1] if is_deepspeed else prepare_multi_gpu_env(args)
        for variable, value in environment.items():
            monkeypatch.setenv(variable, value)
        return DeepSpeedPlugin() if is_deepspeed else FullyShardedDataParallelPlugin()

    return make


def trainer_with(**plugins):
    """What `check_sharding` looks at."""
    return SimpleNamespace(
        is_fsdp_enabled="fsdp_plugin" in plugins,
        is_deepspeed_enabled="deepspeed_plugin" in plugins,
        accelerator=SimpleNamespace(state=SimpleNamespace(**plugins)),
    )


def test_fsdp_config_leaves_the_classes_to_the_model_and_saves_whole_checkpoints(plugin_of):
    plugin = plugin_of("fsdp.yaml")
    assert (plugin.fsdp_version, plugin.reshard_after_forward) == (2, True)
    assert plugin.auto_wrap_policy is transformer_auto_wrap_policy
    assert plugin.transformer_cls_names_to_wrap is None
    check_sharding(trainer_with(fsdp_plugin=plugin))
    plugin.set_state_dict_type("SHARDED_STATE_DICT")
    with pytest.raises(ValueError, match="set fsdp_state_dict_type to FULL_STATE_DICT"):
        check_sharding(trainer_with(fsdp_plugin=plugin))


@pytest.mark.parametrize("stage", [2, 3])
def test_deepspeed_config_has_its_stage_and_saves_whole_checkpoints(plugin_of, stage):
    """DeepSpeed itself is not installed: this is as far as its configurations are tested."""
    plugin = plugin_of(f"deepspeed_zero{stage}.yaml")
    assert plugin.zero_stage == plugin.deepspeed_config["zero_optimization"]["stage"] == stage
    assert not plugin.zero3_init_flag
    assert plugin.deepspeed_config["gradient_accumulation_steps"] == "auto"
    check_sharding(trainer_with(deepspeed_plugin=plugin))
    plugin.deepspeed_config["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"] = False
    if stage == 3:
        with pytest.raises(ValueError, match="set zero3_save_16bit_model to true"):
            check_sharding(trainer_with(deepspeed_plugin=plugin))


def test_multi_node_config_divides_the_processes_among_machines():
    args = read_by_accelerate("multi_node.yaml", "--main_process_ip", "10.0.0.1", "--machine_rank", "1")
    prepare_multi_gpu_env(args)
    assert (args.nnodes, args.node_rank, args.nproc_per_node) == ("2", 1, "4")
    assert (args.rdzv_backend, args.rdzv_endpoint) == ("static", "10.0.0.1:29500")
