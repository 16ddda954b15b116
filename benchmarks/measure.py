"""What all benchmarks share: a record of the machine, timing in interleaved rounds, and tables.

Rounds are interleaved because a machine's speed drifts: every candidate runs once per round, each round starts with
another candidate, and a ratio is the median of the ratios within rounds, so that slow minutes hit both sides of it.
"""

import importlib.metadata
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import threadpoolctl
import torch

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "torchaudio", "transformers", "tokenizers", "numpy", "librosa")


def machine() -> dict[str, Any]:
    """Return what a timing depends on: processor, cores, memory, threads, accelerator, versions and the date."""
    return {
        "cpu": _first_value("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(int((_first_value("/proc/meminfo", "MemTotal") or "0").split()[0]) / 1e6, 1),
        "torch_threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


@contextmanager
def limit_threads(threads: int) -> Iterator[None]:
    """Let torch and every BLAS and OpenMP pool use this many threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with threadpoolctl.threadpool_limits(limits=threads):
            yield
    finally:
        torch.set_num_threads(before)


def interleave(callables: dict[str, Callable[[], Any]], rounds: int, warmups: int = 1) -> dict[str, list[float]]:
    """Time every callable once per round.

    Args:
        callables: What to time, by name.
        rounds: Timed rounds.
        warmups: Rounds before those, not timed.

    Returns:
        Seconds of each round, by name.
    """
    names = list(callables)
    seconds = {name: [] for name in names}
    for number in range(-warmups, rounds):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            start = time.perf_counter()
            callables[name]()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if number >= 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def times_slower(seconds: list[float], reference: list[float]) -> float:
    """Return the median over rounds of `seconds / reference`."""
    return statistics.median(ours / theirs for ours, theirs in zip(seconds, reference, strict=True))


def resident_gb(peak: bool = False) -> float:
    """Return the memory in GB that this process has resident, or has had at most; NaN on other systems than Linux.

    Unlike `ru_maxrss` the peak does not begin at what the process that started this one held.
    """
    used = _first_value("/proc/self/status", "VmHWM" if peak else "VmRSS")
    return float("nan") if used is None else int(used.split()[0]) * 1024 / 1e9


def markdown_table(rows: list[dict[str, Any]]) -> str:
    """Return rows as a Markdown table that is aligned in plain text too; the first row names the columns."""
    header = list(rows[0])
    cells = [header] + [[_format(row[name]) for name in header] for row in rows]
    widths = [max(len(line[column]) for line in cells) for column in range(len(header))]
    numeric = [isinstance(rows[0][name], (int, float)) for name in header]
    lines = [
        " | ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        )
        for line in cells
    ]
    rule = " | ".join(
        "-" * (width - 1) + ":" if right else "-" * width for width, right in zip(widths, numeric, strict=True)
    )
    return "\n".join(f"| {line} |" for line in (lines[0], rule, *lines[1:]))


def write_results(
    name: str, rows: list[dict[str, Any]], notes: list[str], details: Any = None, folder: Path = RESULTS
) -> None:
    """Print the table and write `<folder>/<name>.json` and `<name>.md` with the machine and the notes.

    Args:
        name: The benchmark's name.
        rows: The table's rows, all with the same keys.
        notes: Sentences that a reader needs to judge the numbers.
        details: Anything else for the JSON file, such as the seconds of each round.
        folder: Where to write.
    """
    record = machine()
    versions = ", ".join(f"{package} {version}" for package, version in record["versions"].items() if version)
    hardware = record["accelerator"] or record["cpu"]
    text = "\n".join(
        [
            f"# {name}",
            "",
            markdown_table(rows),
            "",
            f"{hardware}, {record['cores']} cores, {record['torch_threads']} threads; Python {record['python']}, "
            f"{versions}; {record['date']}.",
            "",
            *(f"- {note}" for note in notes),
            "",
        ]
    )
    print(text)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.md").write_text(text, encoding="utf-8")
    content = {"machine": record, "notes": notes, "rows": rows, "details": details}
    (folder / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _format(value: Any) -> str:
    """Return a number with three significant digits."""
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _first_value(path: str, key: str) -> str | None:
    """Return the value of the first `key: value` line of a file in /proc, where there is one."""
    if not Path(path).exists():
        return None
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key)), None)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
