import json, tempfile, unittest
from pathlib import Path
from transformers_tests.test_tokenization_common import TokenizerTesterMixin
from hf_speechft import SpeechBertTokenizer
UNITS = ["<pad>", "<unk>", "▁", *"abcdefghijklmnopqrstuvwxyz"]
class SpeechBertTokenizerTest(TokenizerTesterMixin, unittest.TestCase):
    tokenizer_class = SpeechBertTokenizer
    rust_tokenizer_class = None
    test_rust_tokenizer = False
    from_pretrained_id = None
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        v=Path(cls.tmpdirname)/"vocab.json"
        v.write_text(json.dumps({u:i for i,u in enumerate(UNITS)}))
        SpeechBertTokenizer(str(v)).save_pretrained(cls.tmpdirname)
