"""Batches to logits: the files of this folder travel to the Hub with a checkpoint, so they import only each other.

The Auto classes come first: importing them registers the classes below (see `hf_speechft.registration`), which must
not happen while one of the files here is only half imported.
"""

from transformers.models.auto import modeling_auto, processing_auto  # noqa: F401
