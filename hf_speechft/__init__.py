"""hf_speechft: teach a text checkpoint from the Hugging Face Hub to recognise speech.

Importing the package makes `AutoConfig`, `AutoModel`, `AutoModelForCTC`, `AutoFeatureExtractor`, `AutoTokenizer` and
`AutoProcessor` know SpeechBERT. It imports neither torch nor the rest of transformers before they are needed.
"""

import importlib
from typing import TYPE_CHECKING

from .registration import register_auto_classes

if TYPE_CHECKING:
    from .model.configuration_speechbert import SpeechBertConfig
    from .model.feature_extraction_speechbert import SpeechBertFeatureExtractor
    from .model.modeling_speechbert import SpeechBertForCTC, SpeechBertModel
    from .model.processing_speechbert import SpeechBertProcessor
    from .model.tokenization_speechbert import SpeechBertTokenizer

__version__ = "0.1.0"

_MODULES = {
    "SpeechBertConfig": "configuration_speechbert",
    "SpeechBertFeatureExtractor": "feature_extraction_speechbert",
    "SpeechBertForCTC": "modeling_speechbert",
    "SpeechBertModel": "modeling_speechbert",
    "SpeechBertProcessor": "processing_speechbert",
    "SpeechBertTokenizer": "tokenization_speechbert",
}

__all__ = [
    "SpeechBertConfig",
    "SpeechBertFeatureExtractor",
    "SpeechBertForCTC",
    "SpeechBertModel",
    "SpeechBertProcessor",
    "SpeechBertTokenizer",
]


def __getattr__(name: str) -> type:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".model.{_MODULES[name]}", __name__), name)


register_auto_classes()
