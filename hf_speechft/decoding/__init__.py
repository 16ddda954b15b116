"""Step 3, logits become text: beam search with language models, hot words and phrases, times, long recordings."""

from .decoder import CTCDecoder, Hypothesis, Word
from .longform import TimedWord, Transcript, transcribe
from .ngram import NGramLM
from .streaming import StreamingRecognizer

__all__ = [
    "CTCDecoder",
    "Hypothesis",
    "NGramLM",
    "StreamingRecognizer",
    "TimedWord",
    "Transcript",
    "Word",
    "transcribe",
]
