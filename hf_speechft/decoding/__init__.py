"""Step 3, logits become text: beam search with language models, hot words and phrases, times, long recordings."""

from .decoder import CTCDecoder, Hypothesis, Word
from .longform import transcribe, transcribe_batch
from .ngram import NGramLM
from .streaming import StreamingRecognizer
from .transcript import TimedWord, Transcript

__all__ = [
    "CTCDecoder",
    "Hypothesis",
    "NGramLM",
    "StreamingRecognizer",
    "TimedWord",
    "Transcript",
    "Word",
    "transcribe",
    "transcribe_batch",
]
