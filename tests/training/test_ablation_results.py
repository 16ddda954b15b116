"""What an ablation reports, recomputed with jiwer and numpy from the predictions of made-up runs."""

import json
import re

import jiwer
import numpy as np
import pytest
from matplotlib.image import imread

from hf_speechft.training.ablate import Ablation, Arm, Run
from hf_speechft.training.ablation_results import RESAMPLES, compare, pool, read_run, summarise, write_results

WORDS = ["turn", "on", "off", "the", "light", "stop"]
VERSIONS = {"hf_speechft": "0.1.0", "torch": "2.11.0"}
ERROR_SHARES = {"full": 0.2, "random": 0.6, "lora": 0.25}


def make_run(folder, arm, seed, utterances=40, **training):
    """A finished run whose hypotheses lack a share of the words; the references are the same in all runs."""
    references = np.random.default_rng(0)
    errors = np.random.default_rng([seed, len(arm)])
    rows = []
    for index in range(40):
        words = list(references.choice(WORDS, references.integers(1, 6)))
        heard = [word for word in words if errors.random() > ERROR_SHARES[arm]] + ["stop"] * (errors.random() < 0.1)
        rows.append({"utterance_id": f"u{index}", "reference": " ".join(words), "hypothesis": " ".join(heard)})
    run = Run(arm, seed, folder / arm / f"seed{seed}", [])
    run.folder.mkdir(parents=True)
    order = errors.permutation(utterances)  # which does not change the result
    lines = [json.dumps(rows[index] | {"word_errors": 0}) for index in order]
    (run.folder / "predictions.jsonl").write_text("\n".join(lines) + "\n")
    costs = {
        "minutes": 2.0 * seed, "warmup": None, "peak_memory_gb": 1.0 + seed / 10, "peak_gpu_memory_gb": None,
        "parameters": 12_345, "trainable_parameters": 345, "hardware": "2 CPU cores", "versions": VERSIONS,
    }  # fmt: skip
    data = [{"name": "test", "utterances": utterances, "duration_s": 7_200.0}]
    (run.folder / "metrics.json").write_text(json.dumps({"data": data, "training": costs | training}))
    return run


def make_ablation(folder, runs, control="random"):
    names = list(dict.fromkeys(run.arm for run in runs))
    arms = [Arm(name, name, {"method": name}) for name in names]
    seeds = sorted({run.seed for run in runs})
    return Ablation(folder, arms, seeds, control, "corpus", runs, "hf-speechft ablate recipe.yaml")


def predictions(run):
    """Reference and hypothesis of each utterance."""
    rows = [json.loads(line) for line in (run.folder / "predictions.jsonl").read_text().splitlines()]
    return {row["utterance_id"]: (row["reference"], row["hypothesis"]) for row in rows}


def word_errors(pair):
    out = jiwer.process_words(*pair)
    return out.substitutions + out.deletions + out.insertions


@pytest.fixture
def arms(tmp_path):
    """Three arms; the last seed of `lora` is absent."""
    seeds = {"full": (1, 2, 3), "random": (1, 2, 3), "lora": (1, 2)}
    return {arm: [make_run(tmp_path, arm, seed) for seed in seeds[arm]] for arm in seeds}


def test_summarise_pools_the_errors_of_all_seeds(arms):
    full = [read_run(run) for run in arms["full"]]
    arm = summarise(full, [read_run(run) for run in arms["random"]])
    references, hypotheses = zip(*(pair for run in arms["full"] for pair in predictions(run).values()), strict=True)
    assert arm.words.rate == pytest.approx(jiwer.wer(list(references), list(hypotheses)))
    assert arm.characters.rate == pytest.approx(jiwer.cer(list(references), list(hypotheses)))
    assert arm.seed_wers == {
        run.seed: pytest.approx(jiwer.wer(*(list(side) for side in zip(*predictions(run).values(), strict=True))))
        for run in arms["full"]
    }
    assert (arm.utterances, arm.minutes, arm.peak_memory_gb) == (40, 4.0, 1.3)
    assert (arm.parameters, arm.trainable_parameters) == (12_345, 345)


def bootstrap(errors, lengths, seed=1):
    """Rates of corpora of drawn utterances, `(resamples,)`."""
    drawn = np.random.default_rng(seed).integers(len(lengths), size=(20_000, len(lengths)))
    return errors[drawn].sum(1) / lengths[drawn].sum(1)


def test_summarise_interval_and_comparison_match_a_bootstrap_over_utterances(arms):
    """On the two seeds that both arms have: the third of the control does not count."""
    lora, random = ([predictions(run) for run in arms[name]] for name in ("lora", "random"))
    ids = sorted(lora[0])
    lengths = np.array([2 * len(lora[0][one][0].split()) for one in ids])
    errors, others = (
        np.array([sum(word_errors(seed[one]) for seed in arm[:2]) for one in ids]) for arm in (lora, random)
    )
    arm = summarise([read_run(run) for run in arms["lora"]], [read_run(run) for run in arms["random"]])
    assert arm.wer_interval == pytest.approx(np.quantile(bootstrap(errors, lengths), [0.025, 0.975]), abs=0.01)
    differences = bootstrap(errors, lengths) - bootstrap(others, lengths)
    assert arm.difference.difference == pytest.approx((errors.sum() - others.sum()) / lengths.sum())
    assert arm.difference.interval == pytest.approx(np.quantile(differences, [0.025, 0.975]), abs=0.01)
    assert arm.difference.p_value == pytest.approx(2 / (RESAMPLES + 1))


def test_compare_finds_no_difference_of_equals_and_the_p_value_of_near_equals(arms):
    random = [read_run(run) for run in arms["random"]]
    same = compare(random, list(random))
    assert (same.difference, same.interval, same.p_value) == (0, (0, 0), 1)
    full, lora = ([predictions(run) for run in arms[name]] for name in ("full", "lora"))
    ids = sorted(full[0])
    lengths = np.array([2 * len(full[0][one][0].split()) for one in ids])
    errors = [np.array([sum(word_errors(seed[one]) for seed in arm[:2]) for one in ids]) for arm in (lora, full)]
    differences = bootstrap(errors[0], lengths) - bootstrap(errors[1], lengths)
    expected = 2 * min((differences <= 0).mean(), (differences >= 0).mean())
    found = compare([read_run(run) for run in arms["lora"]], [read_run(run) for run in arms["full"]])
    assert found.p_value == pytest.approx(expected, abs=0.03)


def test_compare_takes_utterances_and_seeds_that_both_arms_have(tmp_path):
    full = [read_run(make_run(tmp_path, "full", seed, utterances=30)) for seed in (1, 2)]
    random = [read_run(make_run(tmp_path, "random", seed)) for seed in (2, 3)]
    ids = set(full[1].words)
    assert len(ids) == 30
    errors, others = (sum(arm.words[one].errors for one in ids) for arm in (full[1], random[0]))
    length = sum(full[1].words[one].reference_length for one in ids)
    assert compare(full, random).difference == pytest.approx((errors - others) / length)
    assert compare(full[:1], random) is None


def test_pool_sums_the_errors_of_an_utterance(arms):
    runs = [read_run(run).words for run in arms["full"]]
    pooled = pool(runs)
    assert pooled["u7"].errors == sum(run["u7"].errors for run in runs)
    assert pooled["u7"].reference_length == 3 * runs[0]["u7"].reference_length


def table_rows(text):
    rows = [line[2:-2].split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {cells[0]: cells for cells in rows}


def test_write_results_writes_table_json_and_picture(arms, tmp_path):
    runs = [run for seed in range(3) for name in arms for run in arms[name][seed : seed + 1]]
    todo = Run("lora", 3, tmp_path / "lora" / "seed3", [])
    table = write_results(make_ablation(tmp_path, [*runs, todo]))
    assert (tmp_path / "ablation.md").read_text() == table
    found = json.loads((tmp_path / "ablation.json").read_text())
    assert [arm["name"] for arm in found["arms"]] == ["full", "random", "lora"]
    assert found["unfinished"] == [{"arm": "lora", "seed": 3}]
    rows = table_rows(table)
    for arm in found["arms"]:
        row = rows[arm["name"]]
        low, high = arm["wer_interval_95"]
        assert row[1] == f"{100 * arm['wer']:.1f} % ({100 * low:.1f} to {100 * high:.1f})"
        rates = arm["seed_wers"].values()
        assert row[2] == f"{len(rates)}: {100 * min(rates):.1f} to {100 * max(rates):.1f}"
        assert arm["words"]["reference_length"] == len(rates) * found["arms"][0]["words"]["reference_length"] / 3
    assert (rows["random"][4:6], found["arms"][1]["wer_difference"]) == (["control", ""], None)
    full = found["arms"][0]
    assert rows["full"][4].startswith(f"{100 * full['wer_difference']:+.1f} (-")
    assert rows["full"][5:] == ["0.0002", "4.0", "1.30", "12,345", "345"]
    assert "bootstrap over utterances, each with its errors summed over seeds (10,000 resamples)" in table
    assert "Not finished: 1 of 9 runs (lora with seed 3)." in table
    for line in (
        r"- Data set: corpus \(test 40 utterances, 2\.00 h, \d+ words\)", "- Hardware: 2 CPU cores",
        r"- Versions: hf_speechft 0\.1\.0, torch 2\.11\.0", "- Command: `hf-speechft ablate recipe.yaml`",
    ):  # fmt: skip
        assert re.search(rf"^{line}$", table, flags=re.MULTILINE), line
    assert np.ptp(imread(tmp_path / "ablation.png")) > 0.9


def test_write_results_counts_the_warm_up_and_the_memory_of_the_gpu(tmp_path):
    warmup = {"minutes": 3.0}
    runs = [make_run(tmp_path, "random", 1, warmup=warmup, peak_gpu_memory_gb=7.5, hardware="1 x H100")]
    table = write_results(make_ablation(tmp_path, runs))
    assert table_rows(table)["random"][6:8] == ["5.0", "7.50"]
    assert "the peak of the GPU" in table


def test_write_results_without_the_control_compares_nothing(tmp_path):
    runs = [make_run(tmp_path, "full", 1), Run("random", 1, tmp_path / "random" / "seed1", [])]
    assert table_rows(write_results(make_ablation(tmp_path, runs)))["full"][4:6] == ["", ""]


def test_write_results_says_where_arms_decoded_different_utterances(tmp_path):
    runs = [make_run(tmp_path, "full", 1, utterances=30), make_run(tmp_path, "random", 1)]
    assert "The runs decoded from 30 to 40 utterances" in write_results(make_ablation(tmp_path, runs))


def test_write_results_without_a_finished_run_writes_nothing(tmp_path):
    ablation = make_ablation(tmp_path, [Run("random", 1, tmp_path / "random" / "seed1", [])])
    assert write_results(ablation) == "no run is finished yet\n"
    assert not list(tmp_path.iterdir())
