"""The command `hf-speechft`. Each sub-command is a function in the module of its name."""

from typing import Annotated

import typer

from hf_speechft import __version__
from hf_speechft.apps import lm
from hf_speechft.apps.ablate import ablate
from hf_speechft.apps.align import align
from hf_speechft.apps.audit import audit
from hf_speechft.apps.augment_preview import augment_preview
from hf_speechft.apps.stream import stream
from hf_speechft.apps.transcribe import transcribe
from hf_speechft.apps.transcribe_dataset import transcribe_dataset
from hf_speechft.apps.tune import tune

# Options that run_finetune.py has too can be written as there, --noise_dir, or as here, --noise-dir.
EITHER_DASH = {"token_normalize_func": lambda name: name.replace("_", "-")}

app = typer.Typer(
    name="hf-speechft",
    help="Speech recognition with fine-tuned text checkpoints.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",  # which wraps paragraphs
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(transcribe)
app.command()(stream)
app.command(context_settings=EITHER_DASH)(transcribe_dataset)
app.command()(align)
app.command(context_settings=EITHER_DASH)(audit)
app.command()(tune)
app.command()(ablate)
app.command(context_settings=EITHER_DASH)(augment_preview)
app.add_typer(lm.app, name="lm")


def _show_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"hf-speechft {__version__}")
        raise typer.Exit


@app.callback()
def command(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Speech recognition with fine-tuned text checkpoints."""


def main() -> None:
    """Run the command line: what the installed `hf-speechft` calls."""
    app(prog_name="hf-speechft")


if __name__ == "__main__":
    main()
