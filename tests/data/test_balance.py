"""Balancing of classes: how often each is drawn, which of its clips, and that epoch and seed alone decide."""

from collections import Counter

import numpy as np
import pytest

from hf_speechft.data.balance import ClassBalance
from hf_speechft.data.batching import SecondsBatchSampler

CLASSES = ["a"] * 70 + ["b"] * 20 + ["c"] * 7 + ["d"] * 3
EPOCHS = 200


def drawn(balance, epochs=EPOCHS):
    return np.stack([balance.draw(epoch) for epoch in range(epochs)])


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_draw_hears_each_class_as_often_as_its_weight_says(power):
    clips = drawn(ClassBalance(CLASSES, power=power))
    assert clips.shape == (EPOCHS, len(CLASSES))
    weights = {name: CLASSES.count(name) ** (1 - power) for name in "abcd"}
    heard = Counter(np.array(CLASSES)[clips].ravel())
    for name, weight in weights.items():
        share = weight / sum(weights.values())
        assert heard[name] / clips.size == pytest.approx(share, abs=1 / len(CLASSES) / EPOCHS**0.5)


def test_draw_with_power_0_is_every_clip_once():
    assert sorted(ClassBalance(CLASSES, power=0.0).draw(3)) == list(range(len(CLASSES)))


def test_draw_deals_the_clips_of_a_class_in_turn():
    balance = ClassBalance(CLASSES)
    often = Counter(drawn(balance).ravel())
    for start, count in ((0, 70), (70, 20), (90, 7), (97, 3)):  # 25 draws each an epoch
        numbers = [Counter(balance.draw(epoch))[clip] for epoch in range(5) for clip in range(start, start + count)]
        assert set(numbers) <= {25 // count, 25 // count + 1}
        heard = [often[clip] / EPOCHS for clip in range(start, start + count)]
        assert heard == pytest.approx([25 / count] * count, rel=0.35)


def test_draw_depends_on_seed_and_epoch_only():
    balance = ClassBalance(CLASSES, seed=1)
    first = balance.draw(0).tolist()
    assert balance.draw(1).tolist() != first
    assert ClassBalance(CLASSES, seed=1).draw(0).tolist() == first
    assert ClassBalance(CLASSES, seed=2).draw(0).tolist() != first


def test_draw_takes_clips_without_a_class_as_they_come():
    balance = ClassBalance([*CLASSES, *[""] * 30])
    for epoch in range(5):
        names = Counter(np.array([*CLASSES, *[""] * 30])[balance.draw(epoch)])
        assert names == {"a": 25, "b": 25, "c": 25, "d": 25, "": 30}


def test_balance_says_what_it_does():
    text = str(ClassBalance(CLASSES))
    assert text == "4 classes of 3 to 70 clips; an epoch hears a clip 0.36 to 8.3 times, by its class"


@pytest.mark.parametrize(
    ("classes", "power", "message"),
    [
        (CLASSES, 1.5, "the power of balancing is 1.5; it needs to be from 0 to 1"),
        (["a", "", "a"], 1.0, "the clips have 1 classes, so there is nothing to balance"),
    ],
)
def test_balance_of_wrong_input_raises(classes, power, message):
    with pytest.raises(ValueError, match=message):
        ClassBalance(classes, power=power)


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_batches_by_seconds_of_drawn_clips_keep_budget_number_and_shares(processes):
    random = np.random.default_rng(0)
    long = {"a": 2.0, "b": 4.0, "c": 9.0, "d": 15.0}  # rare classes last longer, so draws differ in seconds
    durations_s = np.array([long[name] * random.uniform(0.7, 1.3) for name in CLASSES])
    balance = ClassBalance(CLASSES)
    sampler = SecondsBatchSampler(durations_s, 40.0, find_epoch=lambda: 0, num_processes=processes, draw=balance.draw)
    heard = Counter()
    for epoch in range(EPOCHS):
        batches = sampler.make_batches(epoch)
        assert batches == sampler.make_batches(epoch)
        assert len(batches) == len(sampler)
        assert len(batches) % processes == 0
        assert all(len(batch) * durations_s[batch].max() <= 40 + 1e-9 for batch in batches)
        allowed = Counter(balance.draw(epoch).tolist())
        got = Counter(clip for batch in batches for clip in batch)
        assert got <= allowed
        heard.update(CLASSES[clip] for clip in got.elements())
    assert sampler.make_batches(0) != sampler.make_batches(1)
    for name in "abcd":
        assert heard[name] / heard.total() == pytest.approx(0.25, rel=0.05)
