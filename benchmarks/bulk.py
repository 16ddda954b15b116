"""Bulk transcription of many files that is killed again and again: what is lost, and how fast it is.

Claims: every file has one row, none is transcribed twice, and between start-up and kill the command takes in as many
seconds of sound a second as a plain loop over the same batches, to within 10 %. The command runs as users start it and
is killed with all its processes at random moments; after each kill the plain loop goes over the batches that it had
finished, so that slow minutes of a machine hit both. Files are short commands by the demo speaker. Run from the
project's root, on a machine that does nothing else:

    python -m benchmarks.bulk --model runs/demo
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from benchmarks.measure import limit_threads, write_results
from hf_speechft import SpeechBertForCTC, SpeechBertProcessor
from hf_speechft.apps.models import load_model
from hf_speechft.data.audio import load_audio
from hf_speechft.data.corpora import load_recordings
from hf_speechft.data.demo import plan_corpus
from hf_speechft.data.spoken import load_spoken
from hf_speechft.decoding.bulk import BulkTranscriber, plan_batches

POLL_S = 0.01
SEED = 0


class Watched:
    """The command in a process of its own, and when it finished which batch."""

    def __init__(self, source: Path, out: Path, options: argparse.Namespace) -> None:
        command = [sys.executable, "-m", "accelerate.commands.launch", "-m", "hf_speechft.apps.transcribe_dataset"]
        command += [str(source), "--output-dir", str(out), "--model", options.model, "--beams", "1"]
        environment = os.environ | {"OMP_NUM_THREADS": str(options.threads)}
        self.out, self.parts = out, set(out.glob("parts/*.jsonl"))
        self.started_s = time.perf_counter()
        self.process = subprocess.Popen(
            [*command, "--batch-seconds", str(options.batch_seconds)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.growth_s: list[float] = []  # when rows appeared
        self.growth_cpu_s: list[float] = []  # processor time that the command had used by then
        self.lines = b""

    def watch(self, until_rows: int | None, then_s: float) -> None:
        """Wait for so many rows and some seconds more, then kill; None waits for the end."""
        deadline_s = None
        while self.process.poll() is None and (deadline_s is None or time.perf_counter() < deadline_s):
            has_enough = self.has_grown() and until_rows is not None and self.lines.count(b"\n") >= until_rows
            if has_enough and deadline_s is None:
                deadline_s = time.perf_counter() + then_s
            time.sleep(POLL_S)
        if until_rows is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
        printed, errors = self.process.communicate()
        wanted = 0 if until_rows is None else -signal.SIGKILL
        if self.process.returncode != wanted:
            raise RuntimeError(f"the command ended with {self.process.returncode}, not {wanted}: {printed}{errors}")

    def has_grown(self) -> bool:
        """Read what the command has added to its part."""
        before = len(self.lines)
        for part in set(self.out.glob("parts/*.jsonl")) - self.parts:
            with part.open("rb") as file:
                file.seek(before)
                self.lines += file.read()
        if len(self.lines) > before:
            self.growth_s.append(time.perf_counter())
            self.growth_cpu_s.append(session_cpu_s(self.process.pid))
        return len(self.lines) > before


def session_cpu_s(session: int) -> float:
    """Return the processor time that the living processes of a session have used; Linux only."""
    ticks = 0
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = file.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):  # it has just ended
            continue
        if int(fields[3]) == session:
            ticks += int(fields[11]) + int(fields[12])  # user and system
    return ticks / os.sysconf("SC_CLK_TCK")


@torch.inference_mode()
def transcribe_plainly(
    recordings: Dataset, batches: list[list[int]], model: SpeechBertForCTC, processor: SpeechBertProcessor
) -> dict[int, str]:
    """Return the text of each recording: what one writes without this project's command."""
    rate_hz = processor.feature_extractor.sampling_rate
    texts = {}
    for batch in batches:
        waveforms = [load_audio(recordings[index]["audio"], rate_hz) for index in batch]
        ids = model.generate(**processor(audio=waveforms, sampling_rate=rate_hz, device=model.device))
        texts |= dict(zip(batch, processor.batch_decode(ids), strict=True))
    return texts


def measure(source: Path, out: Path, options: argparse.Namespace) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    recordings = load_recordings(source)
    durations_s = recordings["duration_s"][:]
    model, processor = load_model(options.model, "cpu")
    random = np.random.default_rng(SEED)
    moments = [*sorted(random.uniform(0.03, 0.95, options.kills)), None]
    finished: set[int] = set()
    rows, plain_texts = [], {}
    longest_s = BulkTranscriber(model, processor).longest_s
    for number, moment in enumerate(moments, 1):
        left = [index for index in range(len(recordings)) if index not in finished]
        batches = plan_batches(durations_s, left, longest_s=longest_s, batch_seconds=options.batch_seconds)
        run = Watched(source, out, options)
        measurable = sum(map(len, batches[:2]))
        until_rows = None if moment is None else max(measurable, round(moment * len(recordings)) - len(finished))
        run.watch(until_rows, random.uniform(0, 1))
        ended_s = time.perf_counter()
        done = {json.loads(line)["index"] for line in run.lines.splitlines(keepends=True) if line.endswith(b"\n")}
        finished |= done
        timed = [batch for batch in batches if done.issuperset(batch)][1:]  # the first is part of starting
        audio_s = sum(durations_s[index] for batch in timed for index in batch)
        transcribe_plainly(recordings, batches[:1], model, processor)  # warm up
        plain_s, plain_cpu_s = time.perf_counter(), time.process_time()
        plain_texts |= transcribe_plainly(recordings, timed, model, processor)
        plain_s, plain_cpu_s = time.perf_counter() - plain_s, time.process_time() - plain_cpu_s
        bulk_s, bulk_cpu_s = (times[-1] - times[0] for times in (run.growth_s, run.growth_cpu_s))
        rows.append(
            {
                "start": str(number),
                "files": len(done),
                "start-up and first batch (s)": run.growth_s[0] - run.started_s,
                "audio seconds per second": audio_s / bulk_s,
                "plain loop": audio_s / plain_s,
                "share of the plain loop (%)": 100 * plain_s / bulk_s,
                "share by processor time (%)": 100 * plain_cpu_s / bulk_cpu_s,
                "audio_s": audio_s,
                "bulk_s": bulk_s,
                "plain_s": plain_s,
                "bulk_cpu_s": bulk_cpu_s,
                "plain_cpu_s": plain_cpu_s,
                "after the last batch (s)": ended_s - run.growth_s[-1],
            }
        )
        print(rows[-1], flush=True)
    return rows, check(out, recordings, plain_texts)


def check(out: Path, recordings: Dataset, plain_texts: dict[int, str]) -> dict[str, Any]:
    """Count rows that are missing, repeated or different."""
    merged = [json.loads(line) for line in (out / "transcripts.jsonl").open("rb")]
    lines = [line for part in out.glob("parts/*.jsonl") for line in part.open("rb")]
    written = Counter(json.loads(line)["index"] for line in lines if line.endswith(b"\n"))
    names = recordings["utterance_id"][:]
    return {
        "files": len(recordings),
        "rows": len(merged),
        "in order": [row["utterance_id"] for row in merged] == names,
        "lost": len(set(range(len(recordings))) - {row["index"] for row in merged}),
        "transcribed twice": sum(count > 1 for count in written.values()),
        "errors": sum(row["error"] is not None for row in merged),
        "other text than the plain loop": sum(merged[i]["text"].split() != t.split() for i, t in plain_texts.items()),
        "compared with the plain loop": len(plain_texts),
    }


def summarise(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add a row for all starts, and leave out what is for the JSON file."""
    names = ("audio_s", "bulk_s", "plain_s", "bulk_cpu_s", "plain_cpu_s")
    audio_s, bulk_s, plain_s, bulk_cpu_s, plain_cpu_s = (sum(row[name] for row in rows) for name in names)
    total = {
        "start": "all",
        "files": sum(row["files"] for row in rows),
        "start-up and first batch (s)": sum(row["start-up and first batch (s)"] for row in rows),
        "audio seconds per second": audio_s / bulk_s,
        "plain loop": audio_s / plain_s,
        "share of the plain loop (%)": 100 * plain_s / bulk_s,
        "share by processor time (%)": 100 * plain_cpu_s / bulk_cpu_s,
    }
    return [{name: row[name] for name in total} for row in rows] + [total]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="runs/demo", help="folder of a SpeechBERT model (default: %(default)s)")
    parser.add_argument("--files", type=int, default=10_000, help="to transcribe (default: %(default)s)")
    parser.add_argument("--kills", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--batch-seconds", type=float, default=120.0, help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: %(default)s)")
    parser.add_argument("--speech", type=Path, help="folder that keeps the files for another time")
    parser.add_argument("--output", type=Path, help="folder of the results (default: benchmarks/results)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, limit_threads(options.threads):
        plan = plan_corpus(SEED, options.files, 0, 0)
        spoken = load_spoken(plan, name="bulk", seed=SEED, cache_dir=options.speech or folder)["train"]
        rows, found = measure(Path(spoken[0]["audio"]["path"]).parent, Path(folder) / "out", options)
        hours = sum(spoken["duration_s"]) / 3600
        notes = [
            f"{options.files:,} files by the demo speaker, {hours:.2f} h, killed {options.kills} times at random "
            "moments (SIGKILL to all of its processes). "
            f"{'; '.join(f'{name}: {value}' for name, value in found.items())}.",
            f"`accelerate launch -m hf_speechft.apps.transcribe_dataset`, one process, {options.threads} thread(s), "
            f"the demo's model, greedy, batches of {options.batch_seconds:g} s. Its throughput is counted from the "
            "first batch that reached the disk to the last one before the kill.",
            "The plain loop loads the files of a batch one by one, calls processor, model.generate and batch_decode, "
            "and keeps texts only, without times of words or files; it goes over the same batches after each kill.",
            "Where a machine does other work as well, processor time is the fairer of the two shares. Load average at "
            f"the end: {os.getloadavg()[0]:.1f}.",
            f"After its last batch the command took {rows[-1]['after the last batch (s)']:.1f} s to write the rows in "
            "order, to compare them with the references, and to end.",
        ]
        out = {} if options.output is None else {"folder": options.output}
        write_results("bulk", summarise(rows), notes, {"starts": rows, "found": found}, **out)


if __name__ == "__main__":
    main()
