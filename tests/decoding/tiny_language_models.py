"""Tiny language models with random weights and trained tokenizers, and their scores computed in the plainest way."""

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    BertConfig,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    OPTConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
    XLNetConfig,
)

SENTENCES = [
    "turn on the kitchen lights",
    "turn off the light",
    "set an alarm for seven",
    "don't play music in the living room",
    "what time is it",
    "go",
]
VOCAB = 300

_SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
# Weights that are large enough for predictions to depend on the history.
_BERT = {**_SIZES, "vocab_size": VOCAB, "max_position_embeddings": 40, "initializer_range": 0.4}
_LLAMA = {**_BERT, "num_key_value_heads": 1, "bos_token_id": 0, "eos_token_id": 1}
CONFIGS = {
    "gpt2": GPT2Config(
        n_embd=16, n_layer=2, n_head=2, n_positions=40, vocab_size=VOCAB, initializer_range=0.4,
        bos_token_id=0, eos_token_id=0,
    ),
    "llama": LlamaConfig(**_LLAMA),
    "mistral": MistralConfig(**_LLAMA, sliding_window=3),
    "opt": OPTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, ffn_dim=32, word_embed_proj_dim=16,
        vocab_size=VOCAB, max_position_embeddings=40, init_std=0.4, bos_token_id=0, eos_token_id=1, pad_token_id=2,
    ),
    "mamba": MambaConfig(hidden_size=16, num_hidden_layers=2, state_size=4, vocab_size=VOCAB, initializer_range=0.4),
    "xlnet": XLNetConfig(d_model=16, n_layer=2, n_head=2, d_inner=32, vocab_size=VOCAB, initializer_range=0.4),
    "bert": BertConfig(**_BERT),
    "roberta": RobertaConfig(**_BERT, pad_token_id=2),
}  # fmt: skip
MASKED = {"bert", "roberta"}


def tiny_tokenizer(kind):
    """A tokenizer of the kind that checkpoints of that name have, trained on `SENTENCES`."""
    if kind == "bert":
        return _word_piece()
    if kind in ("llama", "mistral"):
        return _sentence_piece()
    return _byte_level(kind)


def _byte_level(kind):
    specials = {"gpt2": ["<|endoftext|>"], "roberta": ["<s>", "</s>", "<pad>", "<mask>"]}.get(kind, ["<s>", "</s>"])
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCAB, special_tokens=specials, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(SENTENCES, trainer)
    if kind == "gpt2":
        return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=specials[0])
    if kind == "roberta":
        tokenizer.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 0), add_prefix_space=False)
        names = {"cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>", "mask_token": "<mask>"}
        return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


def _sentence_piece():
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    trainer = trainers.BpeTrainer(vocab_size=VOCAB, special_tokens=["<s>", "</s>", "<unk>"])
    tokenizer.train_from_iterator(SENTENCES, trainer)
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def _word_piece():
    names = {
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
    }
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=80, special_tokens=list(names.values()))
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def word_spanning_tokenizer():
    """A tokenizer that merges across spaces, as some for large models do."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("\n"), "isolated")
    trainer = trainers.BpeTrainer(vocab_size=60, special_tokens=["<s>"])
    tokenizer.train_from_iterator(["a a"] * 5, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>")


def tiny_model(kind, seed=0):
    """A model with its language-model head, in evaluation mode."""
    torch.manual_seed(seed)
    auto_class = AutoModelForMaskedLM if kind in MASKED else AutoModelForCausalLM
    return auto_class.from_config(CONFIGS[kind]).eval()


def save_tiny(kind, folder):
    """Write a model and its tokenizer into `folder`."""
    tiny_model(kind).save_pretrained(folder)
    tiny_tokenizer(kind).save_pretrained(folder)
    return folder


@torch.no_grad()
def plain_causal_score(model, ids):
    """log P of `ids` from the second on, one token after another, each in a forward pass of its own."""
    return sum(
        model(torch.tensor([ids[:end]])).logits[0, -1].log_softmax(-1)[ids[end]].item() for end in range(1, len(ids))
    )


def plain_sentence_score(folder, text):
    """What a saved model gives to one sentence, without batches and padding."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if tokenizer.mask_token_id is None:
        model = AutoModelForCausalLM.from_pretrained(folder)
        begin = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        ids = tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text))
        return plain_causal_score(model, [begin, *ids, tokenizer.eos_token_id])
    model = AutoModelForMaskedLM.from_pretrained(folder)
    total = 0.0
    for position in range(1, len(tokenizer(text)["input_ids"]) - 1):
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        token = ids[0, position].item()
        ids[0, position] = tokenizer.mask_token_id
        with torch.no_grad():
            total += model(ids).logits[0, position].log_softmax(-1)[token].item()
    return total


class ReadTokens:
    """Counts the forward passes of a model and the tokens that it is given."""

    def __init__(self, model):
        self.passes = self.tokens = 0
        model.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, module, arguments, options):
        self.passes += 1
        self.tokens += options["input_ids"].numel()
