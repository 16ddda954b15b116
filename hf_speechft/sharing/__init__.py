"""A finished run to the Hub: saving that survives failures, the model card, the upload."""

from .card import CardFacts, ResultFacts, SampleFacts, SplitFacts, render_card
from .push import HubError, check_token, push_folder, upload_command
from .save import SaveError, save_atomically

__all__ = [
    "CardFacts",
    "HubError",
    "ResultFacts",
    "SampleFacts",
    "SaveError",
    "SplitFacts",
    "check_token",
    "push_folder",
    "render_card",
    "save_atomically",
    "upload_command",
]
