"""Step 1, sound and text become batches: decoding, corpora, normalisation, augmentation, batching, padding.

Names are imported on first use, because `datasets` takes seconds to import and is not installed where a model is only
used.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOME = {
    "AudioError": "audio",
    "audio_duration_s": "audio",
    "load_audio": "audio",
    "stream_audio": "audio",
    "NORMALIZERS": "text",
    "normalize_text": "text",
    "load_corpus": "corpora",
    "load_recordings": "corpora",
    "stream_corpus": "streaming",
    "SpeechStream": "passes",
    "load_demo": "demo",
    "FilterReport": "filters",
    "filter_corpus": "filters",
    "Units": "audit_checks",
    "audit_corpus": "audit",
    "SecondsBatchSampler": "batching",
    "Augmentation": "augment",
    "add_silence": "augment",
    "expand_speeds": "augment",
    "SoundFolder": "sounds",
    "SpeechCollator": "collate",
    "UnreadableClips": "unreadable",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
