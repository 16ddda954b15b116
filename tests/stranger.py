"""What someone without hf_speechft has: the files of a saved model, and a process that cannot import the package."""

# Of a model and its processor, saved with the code that travels.
MODEL_FILES = {
    "backbone_speechbert.py",
    "config.json",
    "configuration_speechbert.py",
    "conformer_speechbert.py",
    "ctc_speechbert.py",
    "feature_extraction_speechbert.py",
    "frontend_speechbert.py",
    "mel_filters_speechbert.py",
    "model.safetensors",
    "modeling_speechbert.py",
    "normalization_speechbert.py",
    "padding_speechbert.py",
    "pretrained_speechbert.py",
    "processing_speechbert.py",
    "processor_config.json",
    "spec_augment_speechbert.py",
    "tokenization_speechbert.py",
    "tokenizer_config.json",
    "vocab.json",
    "waveforms_speechbert.py",
}

# Begins a program that runs where hf_speechft cannot be imported, wherever it may be installed.
WITHOUT_HF_SPEECHFT = '''
import sys

class Absent:
    """Stands for an environment without hf_speechft."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname.split(".")[0] == "hf_speechft":
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)

sys.meta_path.insert(0, Absent())
'''
