"""SpeechBertModel and SpeechBertForCTC: padding, attention, loss, masks, checkpoints and bad input."""

import math

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModel,
)
from transformers.loss.loss_ctc import ForCTCLoss
from transformers.utils.generic import find_labels

from hf_speechft import SpeechBertConfig, SpeechBertForCTC, SpeechBertModel
from hf_speechft.model.ctc_speechbert import ctc_loss, inconsistency
from hf_speechft.model.frontend_speechbert import FRONTENDS, output_lengths
from tests.model.tiny_text_models import bert_config, gpt2_config, in_own_memory, roberta_config

MELS = 8
VOCAB = 12


BACKBONES = {"bert": bert_config, "gpt2": gpt2_config}


def make_model(backbone="bert", implementation="sdpa", model_class=SpeechBertForCTC, **fields):
    """A tiny model with weights large enough for every path through it to show."""
    config = SpeechBertConfig(
        **{"backbone_config": BACKBONES[backbone](), "vocab_size": VOCAB, "num_mel_bins": MELS, **fields}
    )
    torch.manual_seed(0)
    model = model_class._from_config(config, attn_implementation=implementation).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3)
    return model


def make_batch(*frame_counts, seed=0):
    """Features `(batch, frames, mels)` with noise behind each end, and their mask."""
    torch.manual_seed(seed)
    features = torch.randn(len(frame_counts), max(frame_counts), MELS)
    mask = torch.arange(max(frame_counts))[None, :] < torch.tensor(frame_counts)[:, None]
    return features, mask.long()


every_frontend = pytest.mark.parametrize("frontend", sorted(FRONTENDS))
every_backbone = pytest.mark.parametrize("backbone", sorted(BACKBONES))
every_attention = pytest.mark.parametrize("attention", ["bidirectional", "causal"])
every_implementation = pytest.mark.parametrize("implementation", ["sdpa", "eager"])


# Padding and lengths


@every_implementation
@every_attention
@every_backbone
@pytest.mark.parametrize("subsampling", [2, 4, 8])
@every_frontend
def test_logits_are_invariant_to_padding(frontend, subsampling, backbone, attention, implementation):
    model = make_model(backbone, implementation, frontend=frontend, subsampling=subsampling, attention=attention)
    counts = (61, 40, 17, 1)
    features, mask = make_batch(*counts)
    with torch.no_grad():
        together = model(features, mask).logits
        for row, frames in enumerate(counts):
            alone = model(features[row : row + 1, :frames]).logits[0]
            assert len(alone) == math.ceil(frames / subsampling)
            torch.testing.assert_close(together[row, : len(alone)], alone, atol=1e-4, rtol=0)
            assert not together[row, len(alone) :].argmax(-1).any()  # blanks, for decoders that know no lengths


def test_logits_behind_the_end_are_blank_also_with_labels_and_not_while_learning():
    model = make_model()
    features, mask = make_batch(30, 13)
    labels = torch.tensor([[3, 4], [5, -100]])
    with torch.no_grad():
        model.head.bias[1] = 10.0
        assert model(features, mask, labels=labels).logits.argmax(-1)[1].tolist() == [1] * 4 + [0] * 4
        model.train()
        assert model(features, mask, labels=labels).logits.argmax(-1)[1].tolist() == [1] * 8
        assert model.generate(features, mask)[1].tolist() == [1] * 4 + [0] * 4


def test_logits_without_mask_equal_those_with_a_full_mask():
    model = make_model()
    features, mask = make_batch(30, 30)
    torch.testing.assert_close(model(features).logits, model(features, mask).logits, atol=1e-6, rtol=0)


@pytest.mark.parametrize("mask_type", [torch.bool, torch.int32, torch.int64, torch.float32])
def test_logits_do_not_depend_on_the_masks_type(mask_type):
    model = make_model()
    features, mask = make_batch(30, 13)
    labels = torch.tensor([[3, 4], [5, -100]])
    expected, given = model(features, mask, labels=labels), model(features, mask.to(mask_type), labels=labels)
    assert torch.equal(given.logits, expected.logits)
    assert torch.equal(given.loss, expected.loss)


@pytest.mark.parametrize("subsampling", [2, 4, 8])
@every_frontend
def test_output_lengths_agree_in_frontend_mask_loss_and_generate(frontend, subsampling):
    model = make_model(frontend=frontend, subsampling=subsampling)
    counts = (37, 24, 9)
    features, mask = make_batch(*counts)
    expected = [output_lengths(frames, subsampling) for frames in counts]
    assert model.step_lengths(features, mask).tolist() == expected
    assert model._get_feat_extract_output_lengths(mask.sum(dim=-1)).tolist() == expected
    seen = {}
    model.speechbert.backbone.register_forward_pre_hook(
        lambda module, args, kwargs: seen.update(kwargs), with_kwargs=True
    )
    with torch.no_grad():
        model.head.bias[0] = -1e4  # the blank is never best, so blanks in the ids are what lies behind the end
        ids = model.generate(features, mask)
        outputs = model(features, mask, labels=torch.tensor([[3], [4], [5]]))
    assert seen["attention_mask"].sum(dim=-1).tolist() == expected
    assert ids.shape == outputs.logits.shape[:2] == (3, expected[0])
    assert (ids != 0).sum(dim=-1).tolist() == expected
    log_probs = outputs.logits.log_softmax(dim=-1)
    rows = [reference_loss(log_probs[row, :steps], [3 + row]) for row, steps in enumerate(expected)]
    torch.testing.assert_close(outputs.loss, torch.stack(rows).mean(), rtol=1e-4, atol=1e-4)


# Attention


@pytest.mark.parametrize("is_padded", [False, True])
@every_implementation
@every_frontend
@every_backbone
def test_bidirectional_hears_the_end_at_the_first_step(backbone, frontend, implementation, is_padded):
    model = make_model(backbone, implementation, frontend=frontend, subsampling=2, attention="bidirectional")
    features, mask = make_batch(30, 38)
    if not is_padded:
        features, mask = features[:1, :30], None
    changed = features.clone()
    changed[0, 29] += 1.0
    with torch.no_grad():
        difference = (model(features, mask).logits - model(changed, mask).logits)[0, :15].abs().amax(dim=-1)
    assert (difference > 1e-5).all()


@pytest.mark.parametrize("subsampling", [2, 4])
@pytest.mark.parametrize("is_padded", [False, True])
@every_implementation
@every_frontend
@every_backbone
def test_causal_hears_no_further_than_the_frontend(backbone, frontend, implementation, is_padded, subsampling):
    model = make_model(backbone, implementation, frontend=frontend, subsampling=subsampling, attention="causal")
    features, mask = make_batch(32, 40)
    if not is_padded:
        features, mask = features[:1, :32], None
    changed = features.clone()
    changed[0, 16:] += 1.0  # the first frame of a step, which both front-ends hear in that step and not before
    with torch.no_grad():
        difference = (model(features, mask).logits - model(changed, mask).logits)[0].abs().amax(dim=-1)
    first = 16 // subsampling
    assert (difference[:first] == 0).all()
    assert (difference[first : 32 // subsampling] > 1e-5).all()


@every_backbone
@every_attention
def test_sdpa_equals_eager(backbone, attention):
    features, mask = make_batch(50, 21)
    models = [make_model(backbone, name, attention=attention) for name in ("sdpa", "eager")]
    assert [model.speechbert.backbone.config._attn_implementation for model in models] == ["sdpa", "eager"]
    sdpa, eager = (model(features, mask).logits for model in models)
    torch.testing.assert_close(sdpa[0], eager[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(sdpa[1, :6], eager[1, :6], atol=1e-5, rtol=0)


@every_backbone
@every_attention
def test_attention_survives_saving(tmp_path, backbone, attention):
    model = make_model(backbone, attention=attention)
    model.save_pretrained(tmp_path)
    loaded = in_own_memory(SpeechBertForCTC.from_pretrained(tmp_path))
    assert loaded.config.attention == attention
    features, mask = make_batch(40, 23)
    for given in (mask, None):
        assert torch.equal(loaded(features, given).logits, model(features, given).logits)


def test_eager_attentions_and_hidden_states_are_returned():
    features, mask = make_batch(20, 9)
    outputs = make_model(implementation="eager")(features, mask, output_attentions=True, output_hidden_states=True)
    assert [layer.shape for layer in outputs.attentions] == [(2, 2, 5, 5)] * 2
    assert [layer.shape for layer in outputs.hidden_states] == [(2, 5, 16)] * 3
    assert (outputs.attentions[0][1, :, :, 3:] == 0).all()


def test_what_the_configuration_asks_for_is_returned():
    for model_class, names in [(SpeechBertForCTC, ["logits"]), (SpeechBertModel, ["last_hidden_state"])]:
        model = make_model(implementation="eager", model_class=model_class)
        features, mask = make_batch(30, 13)
        assert list(model(features, mask)) == names
        model.config.output_hidden_states = model.config.output_attentions = True
        assert list(model(features, mask)) == [*names, "hidden_states", "attentions"]
        model.config.return_dict = False
        assert [type(part) for part in model(features, mask)] == [torch.Tensor, tuple, tuple]
    model = make_model(return_dict=False)
    assert model.generate(features, mask).shape == (2, 8)
    assert len(model(features, mask, labels=torch.tensor([[3], [4]]))) == 2


def test_stock_trainer_finds_labels_and_nothing_else():
    assert find_labels(SpeechBertForCTC) == ["labels"]


def test_forward_mask_of_another_shape_raises():
    features, mask = make_batch(30, 13)
    for wrong in (mask[:, :-1], mask[:1], mask[..., None]):
        with pytest.raises(
            ValueError, match=r"attention_mask has the shape .*; features of \(2, 30, 8\) need \(2, 30\)"
        ):
            make_model()(features, wrong)


def test_body_has_the_type_of_front_end_and_head_whatever_the_checkpoint_was_saved_in():
    backbone = gpt2_config()
    backbone.dtype = torch.bfloat16  # as the configurations of Llama and Qwen have it
    model = SpeechBertForCTC(SpeechBertConfig(backbone_config=backbone, vocab_size=VOCAB, num_mel_bins=MELS))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model(*make_batch(30, 13)).logits.dtype == torch.float32


@pytest.mark.filterwarnings("ignore:.*quantiz.*")
@every_frontend
def test_dynamically_quantised_linear_layers_still_hear(frontend):
    model = make_model(frontend=frontend)
    batch = make_batch(30, 13)
    quantised = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
    correlation = torch.corrcoef(
        torch.stack([model(*batch).logits[0].flatten(), quantised(*batch).logits[0].flatten()])
    )
    assert correlation[0, 1] > 0.95


def test_resize_token_embeddings_adds_unlikely_units_and_takes_none_away():
    model = make_model()
    features, mask = make_batch(30, 13)
    with torch.no_grad():
        model.head.bias.normal_()
    before = model(features).logits
    assert model.resize_token_embeddings(VOCAB + 2) is model.head
    after = model(features).logits
    assert model.config.vocab_size == VOCAB + 2
    torch.testing.assert_close(after[..., :VOCAB], before)
    assert torch.equal(model.head.bias[VOCAB:], model.head.bias[:VOCAB].min().expand(2))
    assert model.resize_token_embeddings() is model.head
    with pytest.raises(ValueError, match=f"3 units are fewer than the model's {VOCAB + 2}; none can be taken away"):
        model.resize_token_embeddings(3)


def test_forward_return_dict_false_gives_a_tuple():
    features, mask = make_batch(20, 9)
    model = make_model()
    loss, logits = model(features, mask, labels=torch.tensor([[3], [4]]), return_dict=False)[:2]
    assert loss.ndim == 0
    assert torch.equal(logits, model(features, mask).logits)


# Loss


def reference_loss(log_probs, labels):
    """torch's loss of one utterance, over its number of tokens."""
    lengths = torch.tensor([len(log_probs)]), torch.tensor([len(labels)])
    loss = torch.nn.functional.ctc_loss(log_probs[:, None], torch.tensor([labels]), *lengths, reduction="sum")
    return loss / max(len(labels), 1)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_loss_matches_transformers(reduction):
    model = make_model(subsampling=2, ctc_loss_reduction=reduction)
    features, mask = make_batch(60, 41, 22)
    labels = torch.tensor([[3, 4, 4, 5, 11], [1, 2, -100, -100, -100], [9, 9, 9, -100, -100]])
    outputs = model(features, mask, labels=labels)
    expected = ForCTCLoss(outputs.logits, labels, torch.tensor([30, 21, 11]), 0, reduction)
    torch.testing.assert_close(outputs.loss, expected)
    outputs.loss.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters() if parameter.grad is not None)


def test_loss_ignores_what_follows_the_labels():
    model = make_model()
    features, mask = make_batch(60, 30)
    labels = torch.tensor([[3, 4], [5, -100]])
    wider = torch.nn.functional.pad(labels, (0, 7), value=-100)
    assert torch.equal(model(features, mask, labels=labels).loss, model(features, mask, labels=wider).loss)


def test_loss_of_an_empty_transcript_is_that_of_blanks():
    model = make_model(ctc_loss_reduction="sum")
    features, mask = make_batch(20)
    outputs = model(features, mask, labels=torch.tensor([[-100]]))
    torch.testing.assert_close(outputs.loss, -outputs.logits[0].log_softmax(dim=-1)[:, 0].sum())


def test_loss_is_computed_in_float32_in_bfloat16():
    model = make_model().to(torch.bfloat16)
    features, mask = make_batch(60, 30)
    outputs = model(features, mask, labels=torch.tensor([[3, 4], [5, -100]]))
    assert outputs.logits.dtype == torch.bfloat16
    assert outputs.loss.dtype == torch.float32
    expected = make_model()(features, mask).logits
    assert torch.isfinite(outputs.logits).all()
    assert (outputs.logits.float() - expected).abs().mean() < 0.05 * expected.std()


def test_autocast_to_bfloat16_gives_a_loss_with_gradients():
    model = make_model()
    features, mask = make_batch(60, 30)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(features, mask, labels=torch.tensor([[3, 4], [5, -100]])).loss
    loss.backward()
    assert loss.dtype == torch.float32
    assert model.head.weight.grad.abs().sum() > 0


def test_loss_labels_longer_than_steps_raises():
    model = make_model()
    features, mask = make_batch(40, 8, 9)
    labels = torch.tensor([[3, 3, 4], [3, 3, -100], [3, 3, -100]])  # 4, 3 and 3 steps needed; 10, 2 and 3 there
    with pytest.raises(ValueError, match=r"1 of 3 utterances are too short.*row 1: 2 steps for 3, .*Drop them"):
        model(features, mask, labels=labels)


def test_loss_labels_that_just_fit_is_finite():
    features, mask = make_batch(12)
    assert torch.isfinite(make_model()(features, mask, labels=torch.tensor([[3, 3]])).loss)


@pytest.mark.parametrize(
    ("labels", "named"), [([[3, VOCAB]], r"\[12\]"), ([[0, 3]], r"\[0\]"), ([[3, 0, 99, 50]], r"\[0, 50, 99\]")]
)
def test_loss_labels_outside_the_vocabulary_raises(labels, named):
    features, mask = make_batch(40)
    with pytest.raises(ValueError, match=f"labels hold {named}; they need to be unit ids below 12 other than the bla"):
        make_model()(features, mask, labels=torch.tensor(labels))


def make_learner(**fields):
    """A model in training without dropout; masks only if asked for."""
    text_config = bert_config(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, num_hidden_layers=4)
    undisturbed = {"frontend_dropout": 0.0, "head_dropout": 0.0, "apply_spec_augment": False}
    return make_model(**{"backbone_config": text_config, **undisturbed, **fields}).train()


LABELS = torch.tensor([[3, 4, 4], [5, 6, -100]])


def test_intermediate_ctc_is_a_share_of_the_loss_in_training():
    model = make_learner(intermediate_ctc_weight=0.3)
    features, mask = make_batch(60, 40)
    outputs = model(features, mask, labels=LABELS)
    assert outputs.hidden_states is None
    hidden_states = model.speechbert(features, mask, output_hidden_states=True).hidden_states
    middle = hidden_states[2]  # of the embeddings and four layers
    middle = (middle - middle.mean(-1, keepdim=True)) / (middle.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    lengths = model.step_lengths(features, mask)
    last, inner = (
        ctc_loss(model.head(hidden), lengths, LABELS, model.config) for hidden in (hidden_states[-1], middle)
    )
    torch.testing.assert_close(outputs.loss, 0.7 * last + 0.3 * inner)
    torch.testing.assert_close(model.eval()(features, mask, labels=LABELS).loss, last)


def test_intermediate_ctc_learns_other_labels_from_utterances_with_steps_enough_for_them():
    model = make_learner(intermediate_ctc_weight=0.3)
    features, mask = make_batch(60, 40)
    one = model(features[:1], mask[:1], labels=LABELS[:1], middle_targets=torch.tensor([[7, 7, 8]])).loss
    last = make_learner()(features[:1], mask[:1], labels=LABELS[:1]).loss
    assert not torch.equal(one, model(features[:1], mask[:1], labels=LABELS[:1]).loss)
    too_long = torch.tensor([[7, 7, 8] + [-100] * 8, [3, 4] * 5 + [5]])  # 15 steps for 4 and 10 for 11
    both = model(features, mask, labels=LABELS, middle_targets=too_long).loss
    last_of_both = make_learner()(features, mask, labels=LABELS).loss
    torch.testing.assert_close(both - 0.7 * last_of_both, one - 0.7 * last)
    none = model(features[1:], mask[1:], labels=LABELS[1:], middle_targets=too_long[1:]).loss
    torch.testing.assert_close(none, 0.7 * make_learner()(features[1:], mask[1:], labels=LABELS[1:]).loss)


def test_intermediate_ctc_keeps_hidden_states_that_were_asked_for():
    model = make_learner(intermediate_ctc_weight=0.3)
    outputs = model(*make_batch(60, 40), labels=LABELS, output_hidden_states=True)
    assert len(outputs.hidden_states) == 5


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_consistency_of_equal_views_is_the_plain_loss(reduction):
    features, mask = make_batch(60, 40)
    expected = make_learner(ctc_loss_reduction=reduction)(features, mask, labels=LABELS)
    model = make_learner(ctc_loss_reduction=reduction, consistency_weight=0.2)
    outputs = model(features, mask, labels=LABELS, output_hidden_states=True)
    torch.testing.assert_close(outputs.loss, expected.loss)
    torch.testing.assert_close(outputs.logits, expected.logits)
    assert {layer.shape[0] for layer in outputs.hidden_states} == {2}


def test_consistency_compares_two_masked_views_in_training_only():
    model = make_learner(consistency_weight=0.2, apply_spec_augment=True, mask_time_prob=0.5, mask_time_length=4)
    features, mask = make_batch(60, 40)
    torch.manual_seed(5)
    loss = model(features, mask, labels=LABELS).loss
    torch.manual_seed(5)
    one, other = model(torch.cat([features, features]), torch.cat([mask, mask])).logits.chunk(2)
    lengths = model.step_lengths(features, mask)
    assert not torch.equal(one, other)
    plain = sum(ctc_loss(logits, lengths, LABELS, model.config) for logits in (one, other)) / 2
    torch.testing.assert_close(loss, plain + 0.2 * inconsistency(one, other, lengths, LABELS, model.config))
    logits = model.eval()(features, mask).logits
    loss = model(features, mask, labels=LABELS).loss
    torch.testing.assert_close(loss, ctc_loss(logits, lengths, LABELS, model.config))


# SpecAugment


def features_that_reach_the_frontend(model, features, mask):
    seen = []
    handle = model.speechbert.frontend.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    model(features, mask)
    handle.remove()
    return seen[0]


def test_spec_augment_masks_in_training_only():
    model = make_model(mask_time_prob=0.3, mask_time_length=4, mask_feature_prob=0.3, mask_feature_length=2)
    features, mask = make_batch(60, 60)
    assert torch.equal(features_that_reach_the_frontend(model, features, mask), features)
    masked = features_that_reach_the_frontend(model.train(), features, mask)
    is_zero = masked == 0
    assert torch.equal(masked[~is_zero], features[~is_zero])
    for row in is_zero:  # whole frames and whole bins
        frames, bins = row.all(dim=1), row.all(dim=0)
        assert torch.equal(row, frames[:, None] | bins[None, :])
        assert frames.any()
        assert bins.any()
    assert not torch.equal(is_zero[0], is_zero[1])


def test_frequency_warp_is_another_one_for_each_utterance_in_training_only():
    model = make_model(frequency_warp=0.2, mask_time_prob=0.0, mask_feature_prob=0.0)
    features = make_batch(60)[0].repeat(2, 1, 1)
    assert torch.equal(features_that_reach_the_frontend(model, features, None), features)
    warped = features_that_reach_the_frontend(model.train(), features, None)
    assert not torch.equal(warped[0], features[0])
    assert not torch.equal(warped[0], warped[1])


def positions_that_reach_the_body(model, frames):
    """Position ids of 50 utterances, `None` where the body counts by itself."""
    taken = {}
    hook = model.speechbert.backbone.register_forward_pre_hook(
        lambda module, args, kwargs: taken.update(kwargs), with_kwargs=True
    )
    model(torch.randn(50, frames, MELS))
    hook.remove()
    return taken.get("position_ids")


def test_position_shift_begins_anywhere_that_leaves_room_in_training_only():
    model = make_model(position_shift=6, apply_spec_augment=False)
    limit, ratio = model.speechbert.max_steps, model.config.subsampling
    assert positions_that_reach_the_body(model, 20) is None
    model.train()
    for steps, largest in [(5, 6), (limit - 2, 2), (limit, 0)]:
        positions = positions_that_reach_the_body(model, steps * ratio)
        assert positions.shape == (50, steps)
        assert set(positions[:, 0].tolist()) == set(range(largest + 1))
        assert torch.equal(positions - positions[:, :1], torch.arange(steps).expand(50, -1))


def test_spec_augment_switched_off_masks_and_warps_nothing():
    model = make_model(apply_spec_augment=False, mask_time_prob=0.5, frequency_warp=0.1).train()
    features, mask = make_batch(60, 60)
    assert torch.equal(features_that_reach_the_frontend(model, features, mask), features)


# Training and placing


def gradients(model, features, mask):
    model.zero_grad()
    torch.manual_seed(5)
    model(features, mask, labels=torch.tensor([[3, 4], [5, -100]])).loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


@every_backbone
def test_gradient_checkpointing_gives_the_same_gradients(backbone):
    model = make_model(backbone).train()
    features, mask = make_batch(60, 30)
    expected = gradients(model, features, mask)
    model.gradient_checkpointing_enable()
    assert any(getattr(module, "gradient_checkpointing", False) for module in model.speechbert.backbone.modules())
    given = gradients(model, features, mask)
    assert given.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(given[name], gradient, atol=1e-6, rtol=1e-4, msg=name)


@every_frontend
@every_backbone
def test_every_weight_gets_a_gradient(backbone, frontend):
    model = make_model(backbone, frontend=frontend, apply_spec_augment=False)
    given = gradients(model, *make_batch(60, 30))
    without = {name for name, _ in model.named_parameters()} - given.keys()
    assert not without


@every_implementation
@every_frontend
@every_backbone
def test_save_pretrained_round_trips_exactly(tmp_path, backbone, frontend, implementation):
    model = make_model(backbone, implementation, frontend=frontend)
    model.save_pretrained(tmp_path)
    assert load_file(tmp_path / "model.safetensors").keys() == model.state_dict().keys()
    loaded, report = SpeechBertForCTC.from_pretrained(
        tmp_path, attn_implementation=implementation, output_loading_info=True
    )
    assert not any(report.values()), report
    assert not loaded.training
    features, mask = make_batch(60, 30)
    logits = loaded(features, mask).logits
    torch.testing.assert_close(logits, model(features, mask).logits, atol=1e-5, rtol=0)
    again = SpeechBertForCTC.from_pretrained(tmp_path, attn_implementation=implementation)
    assert torch.equal(logits, again(features, mask).logits)
    assert torch.equal(in_own_memory(loaded)(features, mask).logits, model(features, mask).logits)


def test_save_pretrained_in_shards_round_trips(tmp_path):
    model = make_model()
    model.save_pretrained(tmp_path, max_shard_size="10KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    features, mask = make_batch(60, 30)
    loaded = in_own_memory(SpeechBertForCTC.from_pretrained(tmp_path))
    assert torch.equal(loaded(features, mask).logits, model(features, mask).logits)


@pytest.mark.parametrize("device_map", ["cpu", "auto", {"": "cpu"}], ids=str)
@every_frontend
def test_device_map_keeps_logits(tmp_path, device_map, frontend):
    model = make_model(frontend=frontend)
    model.save_pretrained(tmp_path)
    loaded = SpeechBertForCTC.from_pretrained(tmp_path, device_map=device_map)
    features, mask = make_batch(60, 30)
    logits = loaded(features.to(loaded.device), mask.to(loaded.device)).logits.cpu()
    torch.testing.assert_close(logits, model(features, mask).logits, atol=1e-4, rtol=0)


@pytest.mark.gpu
@every_frontend
def test_gpu_logits_and_loss_match_cpu(frontend):
    features, mask = make_batch(60, 30)
    labels = torch.tensor([[3, 4], [5, -100]])
    expected = make_model(frontend=frontend)(features, mask, labels=labels)
    model = make_model(frontend=frontend).cuda()
    given = model(features.cuda(), mask.cuda(), labels=labels.cuda())
    torch.testing.assert_close(given.logits[0].cpu(), expected.logits[0], atol=1e-2, rtol=0)
    torch.testing.assert_close(given.loss.cpu(), expected.loss, rtol=1e-2, atol=1e-2)


def test_save_pretrained_bfloat16_loads_as_bfloat16(tmp_path):
    make_model().to(torch.bfloat16).save_pretrained(tmp_path)
    loaded = SpeechBertForCTC.from_pretrained(tmp_path, dtype="auto")
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16}


def test_model_without_head_loads_from_recogniser(tmp_path):
    model = make_model()
    model.save_pretrained(tmp_path)
    loaded = in_own_memory(AutoModel.from_pretrained(tmp_path))
    assert type(loaded) is SpeechBertModel
    features, mask = make_batch(60, 30)
    expected = model.speechbert(features, mask).last_hidden_state
    assert torch.equal(loaded(features, mask).last_hidden_state, expected)


def test_recogniser_loads_from_model_without_head(tmp_path):
    base = make_model(model_class=SpeechBertModel)
    base.save_pretrained(tmp_path)
    loaded, report = SpeechBertForCTC.from_pretrained(tmp_path, output_loading_info=True)
    assert set(report["missing_keys"]) == {"head.weight", "head.bias"}
    for name, weight in base.state_dict().items():
        assert torch.equal(loaded.speechbert.state_dict()[name], weight)


# Positions and widths


@pytest.mark.parametrize("config", [bert_config(), gpt2_config(), roberta_config()], ids=["bert", "gpt2", "roberta"])
def test_forward_as_many_steps_as_positions_is_computed_and_one_more_raises(config):
    model = make_model(backbone_config=config)
    assert model(torch.randn(1, 4 * 64, MELS)).logits.shape == (1, 64, VOCAB)
    message = (
        r"the longest utterance makes 65 steps \(2\.6 s\); the text checkpoint has positions for 64 \(2\.6 s\)\. "
        r"Cut it into chunks \(pipeline\(\.\.\., chunk_length_s=20\).*--max_duration_s, or train with a larger subsam"
    )
    with pytest.raises(ValueError, match=message):
        model(torch.randn(1, 4 * 64 + 1, MELS))


def test_forward_wrong_width_raises():
    with pytest.raises(ValueError, match="input_features have 9 values a frame; this model takes 8. Use the proc"):
        make_model()(torch.randn(1, 20, 9))


def test_config_of_saved_recogniser_is_found_by_auto_config(tmp_path):
    make_model().save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is SpeechBertConfig
