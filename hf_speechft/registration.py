"""Makes the Auto classes and pipelines of transformers know us, when they are first imported and not before.

Registering takes our classes, and these take torch and most of transformers: five seconds that `import hf_speechft`
should not cost. So each registration waits until transformers imports the module that it is about. Where that has
happened already, it is done at once.
"""

import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

AUTO_MODULES = "transformers.models.auto."


def _register_config() -> None:
    from transformers import AutoConfig

    from .model.configuration_speechbert import SpeechBertConfig

    AutoConfig.register("speechbert", SpeechBertConfig)
    SpeechBertConfig.register_for_auto_class()


def _register_models() -> None:
    from transformers import AutoModel, AutoModelForCTC

    from .model.configuration_speechbert import SpeechBertConfig
    from .model.modeling_speechbert import SpeechBertForCTC, SpeechBertModel

    AutoModel.register(SpeechBertConfig, SpeechBertModel)
    AutoModelForCTC.register(SpeechBertConfig, SpeechBertForCTC)
    SpeechBertModel.register_for_auto_class("AutoModel")
    SpeechBertForCTC.register_for_auto_class("AutoModelForCTC")


def _register_feature_extractor() -> None:
    from transformers import AutoFeatureExtractor

    from .model.configuration_speechbert import SpeechBertConfig
    from .model.feature_extraction_speechbert import SpeechBertFeatureExtractor

    AutoFeatureExtractor.register(SpeechBertConfig, SpeechBertFeatureExtractor)
    SpeechBertFeatureExtractor.register_for_auto_class()


def _register_tokenizer() -> None:
    from transformers import AutoTokenizer

    from .model.configuration_speechbert import SpeechBertConfig
    from .model.tokenization_speechbert import SpeechBertTokenizer

    AutoTokenizer.register(SpeechBertConfig, slow_tokenizer_class=SpeechBertTokenizer)
    SpeechBertTokenizer.register_for_auto_class()


def _register_processor() -> None:
    from transformers import AutoProcessor

    from .model.configuration_speechbert import SpeechBertConfig
    from .model.processing_speechbert import SpeechBertProcessor

    AutoProcessor.register(SpeechBertConfig, SpeechBertProcessor)
    SpeechBertProcessor.register_for_auto_class()


def _register_pipeline() -> None:
    from transformers.pipelines import PIPELINE_REGISTRY

    # What belongs to the task besides the class stays: models, default model, type.
    task = PIPELINE_REGISTRY.supported_tasks["automatic-speech-recognition"]
    if isinstance(task["impl"], str):  # a name that transformers imports when a pipeline is made
        task["impl"] = f"{__package__}.decoding.pipeline.CTCPipeline"
    else:  # older versions of transformers hold the class
        from .decoding.pipeline import CTCPipeline

        task["impl"] = CTCPipeline


REGISTRATIONS: dict[str, Callable[[], None]] = {
    AUTO_MODULES + "configuration_auto": _register_config,
    AUTO_MODULES + "modeling_auto": _register_models,
    AUTO_MODULES + "feature_extraction_auto": _register_feature_extractor,
    AUTO_MODULES + "tokenization_auto": _register_tokenizer,
    AUTO_MODULES + "processing_auto": _register_processor,
    "transformers.pipelines": _register_pipeline,
}


class _RegisterWhenImported(MetaPathFinder):
    """Watches imports of transformers' modules and registers as soon as a module of `REGISTRATIONS` is complete.

    Complete means that no import of transformers is under way: in the middle of one, our classes would find modules
    that are only half there.
    """

    def __init__(self) -> None:
        self.waiting = dict(REGISTRATIONS)
        self.imports_under_way = 0

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path, target) if fullname.startswith("transformers.") else None
        if spec is None or not hasattr(spec.loader, "exec_module"):
            return spec
        execute = spec.loader.exec_module

        def execute_and_register(module: ModuleType) -> None:
            self.imports_under_way += 1
            try:
                execute(module)
            finally:
                self.imports_under_way -= 1
            self.register_what_is_there()

        spec.loader.exec_module = execute_and_register
        return spec

    def register_what_is_there(self) -> None:
        """Run the registrations whose module has been imported, unless an import is under way."""
        while self.imports_under_way == 0 and (ready := [name for name in self.waiting if name in sys.modules]):
            self.imports_under_way += 1  # registering imports more of transformers
            try:
                self.waiting.pop(ready[0])()
            finally:
                self.imports_under_way -= 1
        if not self.waiting and self in sys.meta_path:
            sys.meta_path.remove(self)


def register_auto_classes() -> None:
    """Register with what transformers has imported already, and with the rest when it will be."""
    finder = _RegisterWhenImported()
    sys.meta_path.insert(0, finder)
    finder.register_what_is_there()


__all__ = ["register_auto_classes"]
