"""Configurations of text models that are small enough for tests, each with positions for 64 steps."""

from transformers import BertConfig, GPT2Config, RobertaConfig


def bert_config(**fields):
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    return BertConfig(**{**sizes, "max_position_embeddings": 64, "vocab_size": 40, **fields})


def gpt2_config(**fields):
    ids = {"bos_token_id": 0, "eos_token_id": 0}
    return GPT2Config(
        **{"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64, "vocab_size": 40, **ids, **fields}
    )


def roberta_config(**fields):
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    return RobertaConfig(**{**sizes, "max_position_embeddings": 66, "vocab_size": 40, **fields})


def in_own_memory(model):
    """The same weights at aligned addresses; those of a file's map are where they are, and CPU kernels round by it."""
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    return model
