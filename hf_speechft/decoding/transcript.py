"""What was said in a recording: text, and words with their times."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class TimedWord:
    """A word, when it was spoken, in seconds from the recording's start, and how sure it is, if that is known."""

    text: str
    start_s: float
    end_s: float
    confidence: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold, times to the millisecond; the confidence only where it is known."""
        fields = {"text": self.text, "start_s": round(self.start_s, 3), "end_s": round(self.end_s, 3)}
        return fields if self.confidence is None else {**fields, "confidence": round(self.confidence, 4)}


@dataclass(frozen=True)
class Transcript:
    """What was said in a recording.

    Attributes:
        text: The words, joined as the vocabulary joins them.
        words: When each was spoken.
        duration_s: How long the recording lasts.
        rejection_score: See `hf_speechft.decoding.Hypothesis`; `None` unless the decoder has phrases.
    """

    text: str
    words: list[TimedWord]
    duration_s: float
    rejection_score: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold; an infinite rejection score, of what is too short for any phrase, is None."""
        words = [word.to_dict() for word in self.words]
        fields = {"text": self.text, "words": words, "duration_s": round(self.duration_s, 3)}
        if self.rejection_score is None:
            return fields
        is_finite = self.rejection_score < float("inf")
        return {**fields, "rejection_score": round(self.rejection_score, 3) if is_finite else None}
