"""Every family of text checkpoints that the README names, as tiny random checkpoints: what must hold for each."""

import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import FullyShardedDataParallelPlugin
from accelerate.utils.fsdp_utils import fsdp2_prepare_auto_wrap_policy
from transformers import (
    CONFIG_MAPPING,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    CLIPConfig,
    FNetConfig,
    Gemma3Config,
    PegasusConfig,
    WhisperConfig,
    XLNetConfig,
)

from hf_speechft import (
    SpeechBertConfig,
    SpeechBertFeatureExtractor,
    SpeechBertForCTC,
    SpeechBertModel,
    SpeechBertProcessor,
    SpeechBertTokenizer,
)
from hf_speechft.model.backbone_speechbert import (
    BOTH,
    ENCODERS,
    FAMILIES,
    NOT_STREAMED,
    check_text_model,
    find_positions,
    word_vectors,
)
from hf_speechft.model.configuration_speechbert import family_attention
from hf_speechft.model.frontend_speechbert import FRONTENDS
from hf_speechft.model.modeling_speechbert import SpeechBertPast
from tests.model.tiny_text_models import in_own_memory
from tests.stranger import WITHOUT_HF_SPEECHFT

ROOT = Path(__file__).resolve().parents[2]
MELS, STEPS = 8, 64
UNITS = ["<pad>", "<unk>", "▁", *"abcdefgh"]

IDS = {"vocab_size": 40, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0}
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, **IDS}
ENCODER = {**SIZES, "max_position_embeddings": STEPS}
OFFSET = {**SIZES, "max_position_embeddings": STEPS + 2, "pad_token_id": 1}  # RoBERTa's two rows that are never used
DECODER = {**ENCODER, "num_key_value_heads": 1, "head_dim": 8}
DISENTANGLED = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False}
BUCKETS = {"position_buckets": 8, "share_att_key": True, "norm_rel_ebd": "layer_norm", "conv_kernel_size": 3}
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "vocab_size": 40}
BART = {"d_model": 16, "encoder_layers": 2, "decoder_layers": 1, "max_position_embeddings": STEPS, "vocab_size": 40}
BART |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
GPT_NEO = {"num_layers": 2, "num_heads": 2, "attention_types": [[["global", "local"], 1]], "window_size": 4}

# What sets a family apart is switched on: widths that differ, local attention, scaled embeddings.
CONFIGS = {
    "bert": ENCODER,
    "roberta": OFFSET,
    "xlm-roberta": OFFSET,
    "camembert": OFFSET,
    "electra": {**ENCODER, "embedding_size": 8},
    "distilbert": {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, "max_position_embeddings": STEPS, **IDS},
    "albert": {**ENCODER, "embedding_size": 8, "num_hidden_groups": 2},
    "deberta": {**ENCODER, **DISENTANGLED},
    "deberta-v2": {**ENCODER, **DISENTANGLED, **BUCKETS},
    "mpnet": OFFSET,
    "modernbert": {**ENCODER, "local_attention": 4, "global_attn_every_n_layers": 2},
    "t5": T5,
    "mt5": T5,
    "bart": {**BART, "scale_embedding": True},
    "mbart": {**BART, "scale_embedding": True},
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": STEPS, **IDS},
    "gpt_neo": {"hidden_size": 16, "max_position_embeddings": STEPS, **GPT_NEO, **IDS},
    "gpt_neox": ENCODER,
    "opt": {**ENCODER, "ffn_dim": 32, "word_embed_proj_dim": 8, "do_layer_norm_before": False},
    "bloom": {"hidden_size": 16, "n_layer": 2, "n_head": 2, **IDS},
    "llama": DECODER,
    "mistral": {**DECODER, "sliding_window": 4},
    "qwen2": DECODER,
    "qwen3": DECODER,
    "gemma": DECODER,
    "smollm3": DECODER,
}
LEARNED = {"bert", "roberta", "xlm-roberta", "camembert", "electra", "distilbert", "albert", "mpnet", "bart", "mbart"}
LEARNED |= {"gpt2", "gpt_neo", "opt"}
COUNTS_ITSELF = {"bart", "mbart"}  # they take no position ids
WITHOUT_CHECKPOINTING = {"albert", "mpnet"}  # transformers has none for them
WITH_SDPA = set(FAMILIES) - {"deberta", "deberta-v2", "mpnet", "gpt_neo", "bloom"}

every_family = pytest.mark.parametrize("family", CONFIGS)


def text_config(family):
    return CONFIG_MAPPING[family](**CONFIGS[family])


def enlarge(model):
    """Weights large enough for every path through the model to show."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3)
    return model.eval()


def make_model(family, implementation=None, model_class=SpeechBertForCTC, **fields):
    options = {"vocab_size": len(UNITS), "num_mel_bins": MELS, "apply_spec_augment": False, **fields}
    config = SpeechBertConfig(backbone_config=text_config(family), **options)
    torch.manual_seed(0)
    return enlarge(model_class._from_config(config, attn_implementation=implementation))


def make_batch(*frame_counts):
    """Features `(batch, frames, mels)` with noise behind each end, and their mask."""
    torch.manual_seed(1)
    features = torch.randn(len(frame_counts), max(frame_counts), MELS)
    return features, (torch.arange(max(frame_counts))[None, :] < torch.tensor(frame_counts)[:, None]).long()


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """A function from a family to a checkpoint with a language-model head, as those of the Hub are, and its body."""
    made = {}

    def make(family):
        if family not in made:
            auto_class = AutoModelForCausalLM if family_attention(family) == "causal" else AutoModelForMaskedLM
            auto_class = AutoModelForSeq2SeqLM if family in ENCODERS else auto_class
            torch.manual_seed(0)
            folder = tmp_path_factory.mktemp(family)
            enlarge(auto_class.from_config(text_config(family))).save_pretrained(folder)
            made[family] = AutoModel.from_pretrained(folder), str(folder)
        return made[family]

    return make


@pytest.fixture(scope="module")
def processor(tmp_path_factory):
    vocab_file = tmp_path_factory.mktemp("units") / "vocab.json"
    vocab_file.write_text(json.dumps({unit: index for index, unit in enumerate(UNITS)}), encoding="utf-8")
    extractor = SpeechBertFeatureExtractor(feature_size=MELS)
    return SpeechBertProcessor(extractor, SpeechBertTokenizer(str(vocab_file)))


@pytest.fixture(scope="module")
def native_processor(processor, tmp_path_factory):
    vocab_file = tmp_path_factory.mktemp("native") / "vocab.json"
    vocab_file.write_text(json.dumps({unit: index for index, unit in enumerate(UNITS)}), encoding="utf-8")
    ids = [-1, -1, -1, *range(5, len(UNITS) + 2)]
    return SpeechBertProcessor(processor.feature_extractor, SpeechBertTokenizer(str(vocab_file), checkpoint_ids=ids))


def test_every_family_is_tested_and_in_the_readme():
    assert set(CONFIGS) == set(FAMILIES)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    table = re.findall(r"<!-- families -->\n(.*?)<!-- /families -->", readme, flags=re.DOTALL)[0]
    rows = [row.strip("|").split("|") for row in table.strip().splitlines()[2:]]
    named = {}
    for names, attention, positions, _ in rows:
        for family in re.findall(r"`([\w-]+)`", names):
            named[family] = (attention.strip(), positions.strip().startswith("learned"))
    told = {BOTH: "both", ("bidirectional",): "bidirectional", ("causal",): "causal"}
    assert named == {family: (told[directions], family in LEARNED) for family, directions in FAMILIES.items()}


# Widths, padding, directions


@pytest.mark.parametrize("frontend", FRONTENDS)
@pytest.mark.parametrize("family", ["albert", "electra", "opt", "bart", "gpt_neo"])
def test_every_frontend_speaks_at_the_width_of_the_embeddings(family, frontend):
    model = make_model(family, frontend=frontend)
    features, _ = make_batch(40)
    width = AutoModel.from_config(text_config(family)).get_input_embeddings().weight.shape[1]
    assert model.speechbert.frontend(features, torch.tensor([40])).shape == (1, 10, width)
    assert model.config.embedding_size == width
    assert model(features).logits.shape == (1, 10, len(UNITS))


@every_family
def test_logits_are_invariant_to_padding(family):
    features, mask = make_batch(80, 53, 9)
    for implementation in ("sdpa", "eager") if family in WITH_SDPA else ("eager",):
        for attention in FAMILIES[family]:
            model = make_model(family, implementation, attention=attention)
            with torch.no_grad():
                together = model(features, mask).logits
                for row, frames in enumerate((80, 53, 9)):
                    alone = model(features[row : row + 1, :frames]).logits[0]
                    torch.testing.assert_close(together[row, : len(alone)], alone, atol=1e-4, rtol=0)


@every_family
def test_attention_looks_where_it_says(family):
    torch.manual_seed(2)
    for implementation in ("sdpa", "eager") if family in WITH_SDPA else ("eager",):
        for attention in FAMILIES[family]:
            model = make_model(family, implementation, attention=attention)
            hidden = torch.randn(2, 12, model.config.embedding_size)
            mask = torch.tensor([[1] * 12, [1] * 10 + [0] * 2])
            changed = hidden.clone()
            changed[:, 8] += torch.randn(model.config.embedding_size)
            for rows in (slice(0, 1), slice(0, 2)):  # without and with padding
                with torch.no_grad():
                    before, after = (
                        model.speechbert.backbone(inputs_embeds=given[rows], attention_mask=mask[rows])
                        for given in (hidden, changed)
                    )
                difference = (before.last_hidden_state - after.last_hidden_state).abs().amax(dim=-1)
                assert (difference[:, 8:10] > 1e-4).all()
                assert (
                    (difference[:, 7] > 1e-4).all() if attention == "bidirectional" else difference[:, :8].max() == 0
                )


@pytest.mark.parametrize("family", [family for family, ways in FAMILIES.items() if "causal" in ways])
def test_stream_of_pieces_gives_the_logits_of_the_whole_or_is_refused(family):
    features, _ = make_batch(150, 150)
    for options in ({}, {"implementation": "eager", "frontend": "stack", "lookahead_ms": 80, "adapter_layers": 1}):
        model = make_model(family, attention="causal", **options)
        past, logits, start = SpeechBertPast(), [], 0
        if family in NOT_STREAMED:
            with pytest.raises(ValueError, match=f"{family} cannot stream; train from a checkpoint of .*gpt2.*llama"):
                model.stream(features, past)
            continue
        for size in [1, 3, 0, 30, 4, 5, 4, 60, 43]:
            logits.append(model.stream(features[:, start : start + size], past))
            start += size
        logits.append(model.stream(features[:, start:], past, is_last=True))
        with torch.no_grad():
            whole = model(features).logits
        assert past.steps == whole.shape[1]
        torch.testing.assert_close(torch.cat(logits, dim=1), whole, atol=1e-4, rtol=0)


def test_stream_longer_than_learned_positions_raises():
    past, (features, _) = SpeechBertPast(), make_batch(4 * STEPS)
    model = make_model("gpt2")
    assert model.stream(features, past).shape == (1, STEPS, len(UNITS))
    with pytest.raises(ValueError, match=f"makes {STEPS + 1} steps .* has positions for {STEPS}"):
        model.stream(features[:, :4], past)
    assert make_model("llama").stream(features, SpeechBertPast()).shape == (1, STEPS, len(UNITS))


def test_stream_of_a_bidirectional_model_or_other_features_raises():
    features, _ = make_batch(40)
    with pytest.raises(ValueError, match="attention is bidirectional: each step hears the whole utterance"):
        make_model("bert").stream(features, SpeechBertPast())
    with pytest.raises(ValueError, match="input_features have 5 values a frame; this model takes 8"):
        make_model("gpt2").stream(features[..., :5], SpeechBertPast())


@pytest.mark.parametrize("family", [family for family, directions in FAMILIES.items() if directions != BOTH])
def test_attention_of_the_other_direction_raises(family, checkpoints, processor):
    (possible,) = FAMILIES[family]
    other = "causal" if possible == "bidirectional" else "bidirectional"
    message = f"attention is '{other}'; {family} can only be {possible}. Leave attention out"
    with pytest.raises(ValueError, match=message):
        make_model(family, attention=other)
    with pytest.raises(ValueError, match=message):
        SpeechBertForCTC.from_text_pretrained(checkpoints(family)[1], processor=processor, attention=other)
    assert make_model(family).config.attention == possible


# Training


@every_family
def test_fsdp_wraps_the_front_end_and_every_layer(family):
    model = make_model(family, frontend="conv2d")
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, auto_wrap_policy="transformer_based_wrap")
    plugin.set_auto_wrap_policy(model)  # fails where the model names a class that it lacks
    is_wrapped = fsdp2_prepare_auto_wrap_policy(plugin, model)
    wrapped = [name for name, module in model.named_modules() if is_wrapped(module)]
    assert "speechbert.frontend" in wrapped
    in_layers = [name for name, _ in model.named_parameters() if re.search(r"backbone\..*\.\d+\.", name)]
    assert len(in_layers) > 10
    assert all(any(name.startswith(f"{module}.") for module in wrapped) for name in in_layers)


def gradients(model):
    model.zero_grad()
    torch.manual_seed(5)
    features, mask = make_batch(60, 30)
    model(features, mask, labels=torch.tensor([[3, 4], [5, -100]])).loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@every_family
def test_gradients_reach_every_weight_and_checkpointing_keeps_them(family):
    model = make_model(family).train()
    expected = gradients(model)
    assert not [name for name, gradient in expected.items() if gradient is None]
    assert all(expected[name].abs().sum() > 0 for name in expected if name.startswith("speechbert.frontend"))
    if family in WITHOUT_CHECKPOINTING:
        with pytest.raises(ValueError, match="gradient checkpointing"):
            model.gradient_checkpointing_enable()
        return
    model.gradient_checkpointing_enable()
    given = gradients(model)
    for name, gradient in expected.items():
        torch.testing.assert_close(given[name], gradient, atol=1e-5, rtol=1e-3, msg=name)


@every_family
def test_bfloat16_is_finite_and_near_float32(family):
    features, mask = make_batch(60, 30)
    with torch.no_grad():
        expected = make_model(family)(features, mask).logits
        model = make_model(family)
        with torch.autocast("cpu", torch.bfloat16):
            if family == "deberta":  # transformers masks with float32's least number there, as the README says
                with pytest.raises(RuntimeError, match="without overflow"):
                    model(features, mask)
            mixed = expected if family == "deberta" else model(features, mask).logits
        pure = model.to(torch.bfloat16)(features, mask).logits
    assert pure.dtype == torch.bfloat16
    for given in (mixed, pure):
        error = (given.float() - expected)[mask[:, ::4].bool()].abs().mean()
        assert error < 0.1 * expected.std()


@every_family
def test_body_dropout_reaches_every_layer(family, checkpoints, processor):
    model = SpeechBertForCTC.from_text_pretrained(checkpoints(family)[1], processor=processor, body_dropout=0.3)
    found = {module.p for module in model.speechbert.backbone.modules() if isinstance(module, torch.nn.Dropout)}
    assert found <= {0.3}


@every_family
def test_attention_dropout_reaches_every_layer_and_no_other_module(family, checkpoints, processor):
    if family in ("t5", "mt5"):
        pytest.skip("has one dropout probability for all of a layer")
    model = SpeechBertForCTC.from_text_pretrained(
        checkpoints(family)[1], processor=processor, body_dropout=0.3, attention_dropout=0.25
    )
    config = model.config.backbone_config
    fields = {name: value for name, value in config.to_dict().items() if value in (0.25, 0.3) and "drop" in name}
    attention = {name for name, value in fields.items() if value == 0.25}
    assert attention == {name for name in fields if "att" in name}
    assert len(attention) == 1


# Saving and loading


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with a saved recogniser of each family, and features."""
    work = tmp_path_factory.mktemp("work")
    torch.save(make_batch(60, 30), work / "batch.pt")
    for family in CONFIGS:
        make_model(family).save_pretrained(work / family)
    return work


@every_family
def test_save_pretrained_round_trips(work, family):
    loaded, report = SpeechBertForCTC.from_pretrained(work / family, output_loading_info=True)
    assert not any(report.values()), report
    features, mask = torch.load(work / "batch.pt")
    with torch.no_grad():
        logits, expected = in_own_memory(loaded)(features, mask).logits, make_model(family)(features, mask).logits
    assert torch.equal(logits, expected)


# Run where hf_speechft cannot be imported; leaves the logits of each family.
STRANGER = (
    WITHOUT_HF_SPEECHFT
    + """
from pathlib import Path
import torch
from transformers import AutoModelForCTC

torch.set_num_threads(1)
work = Path(sys.argv[1])
features, mask = torch.load(work / "batch.pt")
logits = {}
for family in sys.argv[2:]:
    model = AutoModelForCTC.from_pretrained(work / family, trust_remote_code=True)
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    with torch.no_grad():
        logits[family] = model(features, mask).logits
assert not [module for module in sys.modules if module.split(".")[0] == "hf_speechft"]
torch.save(logits, work / "logits.pt")
"""
)


def test_stranger_reproduces_logits_exactly(work):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "HF_"))}
    environment |= {"HF_MODULES_CACHE": str(work / "modules"), "HF_HOME": str(work / "home"), "HF_HUB_OFFLINE": "1"}
    environment["OMP_NUM_THREADS"] = str(torch.get_num_threads())
    ran = subprocess.run(
        [sys.executable, "-I", "-c", STRANGER, str(work), *CONFIGS],
        capture_output=True,
        text=True,
        cwd=work,
        env=environment,
    )
    assert ran.returncode == 0, ran.stderr
    features, mask = torch.load(work / "batch.pt")
    logits = torch.load(work / "logits.pt")
    for family in CONFIGS:
        with torch.no_grad():
            expected = make_model(family)(features, mask).logits
        torch.testing.assert_close(logits[family], expected, atol=1e-6, rtol=1e-6, msg=family)


# From text checkpoints


def part_taken(text_model):
    return text_model.get_encoder() if text_model.config.model_type in ENCODERS else text_model


@every_family
def test_from_text_pretrained_takes_over_all_but_word_embeddings_and_pooler(family, checkpoints, processor):
    text_model, folder = checkpoints(family)
    model = SpeechBertForCTC.from_text_pretrained(folder, processor=processor)
    expected, given = part_taken(text_model).state_dict(), model.speechbert.backbone.state_dict()
    assert given.keys() <= expected.keys()
    embeddings = part_taken(text_model).get_input_embeddings().weight.data_ptr()
    dropped = {name for name in expected.keys() - given.keys() if "pooler" not in name}
    assert {expected[name].data_ptr() for name in dropped} == {embeddings}
    assert all(torch.equal(weight, expected[name]) for name, weight in given.items())
    assert model.config.backbone_config.model_type == family


@every_family
def test_from_text_pretrained_hears_embeddings_as_the_text_model_reads_words(family, checkpoints, processor):
    text_model, folder = checkpoints(family)
    text_model, vectors = part_taken(text_model), word_vectors(part_taken(text_model))
    model = SpeechBertForCTC.from_text_pretrained(folder, processor=processor)
    words = torch.tensor([[7, 3, 39, 12, 7, 20]])
    with torch.no_grad():
        expected = text_model(input_ids=words, attention_mask=torch.ones_like(words)).last_hidden_state
        given = model.speechbert.backbone(inputs_embeds=vectors[words], attention_mask=torch.ones_like(words))
    torch.testing.assert_close(given.last_hidden_state, expected, atol=1e-5, rtol=0)
    norm = model.speechbert.frontend.output_norm
    torch.testing.assert_close(norm.weight, vectors.std(dim=0))
    torch.testing.assert_close(norm.bias, vectors.mean(dim=0))


@every_family
def test_from_text_pretrained_native_head_starts_from_embeddings_of_its_width(
    family, checkpoints, native_processor, caplog
):
    text_model, folder = checkpoints(family)
    with caplog.at_level(logging.WARNING, logger="hf_speechft"):
        model = SpeechBertForCTC.from_text_pretrained(folder, processor=native_processor)
    vectors = word_vectors(part_taken(text_model))
    if family in ("albert", "electra"):
        assert "word embeddings are 8 wide and the transformer's output 16: the head starts untrained" in caplog.text
        return
    assert "untrained" not in caplog.text
    centred = (vectors - vectors.mean(dim=0))[native_processor.tokenizer.checkpoint_ids[3:]]
    cosine = torch.nn.functional.cosine_similarity(model.head.weight[3:], centred, dim=-1)
    torch.testing.assert_close(cosine, torch.ones(len(UNITS) - 3), atol=1e-4, rtol=0)


def test_set_attn_implementation_reaches_an_encoder(checkpoints, processor):
    for family in ("t5", "bart", "bert"):
        model = SpeechBertForCTC.from_text_pretrained(checkpoints(family)[1], processor=processor)
        assert model.speechbert.backbone.config._attn_implementation == "sdpa"
        model.set_attn_implementation("eager")
        assert model.speechbert.backbone.config._attn_implementation == "eager"


# Positions


@pytest.mark.parametrize("family", sorted(LEARNED))
def test_max_positions_stretches_learned_positions(family, checkpoints, processor, tmp_path, caplog):
    text_model, folder = checkpoints(family)
    with caplog.at_level(logging.WARNING, logger="hf_speechft"):
        model = SpeechBertForCTC.from_text_pretrained(folder, processor=processor, max_positions=127)
    assert "learned positions stretched from 64 to 127 by linear interpolation" in caplog.text
    assert model.speechbert.max_steps == model.config.max_positions == 127
    name, reserved = find_positions(model.speechbert.backbone)
    old, new = part_taken(text_model).state_dict()[name], model.speechbert.backbone.state_dict()[name]
    assert torch.equal(new[:reserved], old[:reserved])
    torch.testing.assert_close(new[reserved::2], old[reserved:])  # 127 are 64 with one between each two
    torch.testing.assert_close(new[reserved + 1 :: 2], (old[reserved:-1] + old[reserved + 1 :]) / 2)
    others = part_taken(text_model).state_dict()
    assert all(torch.equal(w, others[n]) for n, w in model.speechbert.backbone.state_dict().items() if n != name)
    model.save_pretrained(tmp_path)
    loaded, report = SpeechBertForCTC.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    assert loaded.speechbert.max_steps == loaded.config.max_positions == 127
    features, _ = make_batch(4 * 127)
    with torch.no_grad():
        assert torch.equal(in_own_memory(loaded)(features).logits, in_own_memory(model)(features).logits)
    with pytest.raises(ValueError, match="128 steps .*has positions for 127 .*larger subsampling or with max_positi"):
        loaded(make_batch(4 * 127 + 1)[0])


@pytest.mark.parametrize("family", [family for family in CONFIGS if family not in LEARNED])
def test_computed_positions_have_no_limit_and_are_not_stretched(family, checkpoints, processor):
    model = make_model(family)
    assert model.speechbert.max_steps is None
    assert torch.isfinite(model(make_batch(4 * STEPS + 200)[0]).logits).all()
    message = f"max_positions is 100; this {family} computes its positions and has no limit. Leave max_positions out"
    with pytest.raises(ValueError, match=message):
        make_model(family, max_positions=100)
    with pytest.raises(ValueError, match=message):
        SpeechBertForCTC.from_text_pretrained(checkpoints(family)[1], processor=processor, max_positions=100)


@pytest.mark.parametrize("family", sorted(LEARNED - COUNTS_ITSELF))
def test_position_shift_is_a_table_of_positions_that_begins_later(family, monkeypatch):
    model = make_model(family, position_shift=5).speechbert
    features, mask = make_batch(40, 32)
    monkeypatch.setattr(torch, "randint", lambda *size, **_: torch.tensor([[5], [0]]))
    model.training = True  # the layers stay in evaluation, without dropout
    with torch.no_grad():
        shifted = model(features, mask).last_hidden_state
        model.eval()
        plain = model(features, mask).last_hidden_state
        name, reserved = find_positions(model.backbone)
        table = model.backbone.get_parameter(name)
        table[reserved:-5] = table[reserved + 5 :].clone()
        later = model(features, mask).last_hidden_state
    torch.testing.assert_close(shifted[0], later[0])
    torch.testing.assert_close(shifted[1, :8], plain[1, :8])
    assert not torch.allclose(later[0], plain[0])


@pytest.mark.parametrize("family", [family for family in CONFIGS if family not in LEARNED - COUNTS_ITSELF])
def test_position_shift_of_a_family_without_position_ids_raises(family):
    reason = "counts its positions by itself" if family in COUNTS_ITSELF else "computes its positions"
    with pytest.raises(ValueError, match=f"position_shift is 5; this {family} {reason}. Leave position_shift at 0"):
        make_model(family, position_shift=5)


def test_max_positions_fewer_than_there_are_raises(checkpoints, processor):
    message = r"max_positions is 63; this roberta has 64 learned positions, .*Give more than 64, or leave max_posit"
    with pytest.raises(ValueError, match=message):
        SpeechBertForCTC.from_text_pretrained(checkpoints("roberta")[1], processor=processor, max_positions=63)
    with pytest.raises(ValueError, match=message):
        make_model("roberta", max_positions=63)


def test_max_positions_as_many_as_there_are_changes_nothing(checkpoints, processor, caplog):
    with caplog.at_level(logging.WARNING, logger="hf_speechft"):
        model = SpeechBertForCTC.from_text_pretrained(checkpoints("opt")[1], processor=processor, max_positions=64)
    assert model.config.backbone_config.max_position_embeddings == model.speechbert.max_steps == 64
    assert "stretched" not in caplog.text


def test_max_positions_of_a_new_model_are_made_and_the_given_config_left_alone():
    given = text_config("roberta")
    model = SpeechBertModel(SpeechBertConfig(backbone_config=given, max_positions=80))
    assert model.max_steps == 80
    assert (given.max_position_embeddings, model.config.backbone_config.max_position_embeddings) == (66, 82)


# What cannot be a speech model


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (PegasusConfig(), r"is an encoder-decoder \(pegasus\); a text encoder or decoder .* \(t5, mt5, bart, mbart\)"),
        (WhisperConfig(), r"is an encoder-decoder \(whisper\); a text"),
        (
            FNetConfig(),
            "is a FNetModel, which takes .*inputs_embeds.*; a text encoder or decoder .* and attention_mask",
        ),
        (CLIPConfig(), "is a CLIPModel, which takes .*pixel_values.*; a text"),
        (Gemma3Config(), "is a Gemma3Model, which takes .*pixel_values.*; a text"),
    ],
    ids=["pegasus", "whisper", "fnet", "clip", "gemma3"],
)
def test_check_text_model_refuses_what_cannot_work(config, message):
    with pytest.raises(ValueError, match=message):
        check_text_model(config, "it")


def test_untested_family_is_taken_with_a_warning_and_in_its_own_direction_only(caplog):
    with caplog.at_level(logging.WARNING, logger="hf_speechft"):
        check_text_model(XLNetConfig(), "it")
    assert "it is of the family xlnet, which nobody has tested as a speech model; check that" in caplog.text
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    phi = CONFIG_MAPPING["phi"](**small, vocab_size=40)
    assert SpeechBertModel(SpeechBertConfig(backbone_config=phi)).config.attention == "causal"
    with pytest.raises(ValueError, match="phi can only be causal; no other was tested for this family. Leave"):
        SpeechBertModel(SpeechBertConfig(backbone_config=phi, attention="bidirectional"))
