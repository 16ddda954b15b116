"""Step 3, logits become text: recordings of any length, words with times."""

from .longform import Transcript, Word, transcribe

__all__ = ["Transcript", "Word", "transcribe"]
