"""`hf-speechft ablate`: train a recipe in several ways on the same data and seeds, and compare what comes out."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from hf_speechft.training.ablate import Ablation


def ablate(
    recipe: Annotated[str, typer.Argument(help="YAML or JSON file with the arguments of all runs.")],
    arm: Annotated[
        list[str],
        typer.Option(
            metavar="NAME[:ARGUMENT=VALUE,…]",
            help="One way to train, such as `lora` or `conv2d:frontend=conv2d,adapter_layers=2`; once for each. The "
            "name of a training method stands for that method. Blanks part the values of a list.",
        ),
    ],
    output_dir: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the runs and the results.")],
    seeds: Annotated[
        list[int] | None, typer.Option(min=0, max=2**32 - 1, help="Seed; once for each. Default: 42.")
    ] = None,
    control: Annotated[str, typer.Option(metavar="NAME", help="Arm that the others are compared with.")] = "random",
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="ARGUMENT=VALUE",
            help="Argument of all arms in place of the recipe's, such as `num_train_epochs=5`; once for each.",
        ),
    ] = None,
) -> None:
    """Train the named arms on the same data, seeds and budget; write a table, JSON and a picture, and print the table.

    Each arm with each seed is a run of its own in `DIR/ARM/seedSEED`. What is finished is not trained again: the same
    command goes on where it was stopped, and takes more arms and seeds. Decoding is greedy unless beam_width is set.
    """
    from hf_speechft.training.ablate import SEED, plan_ablation

    try:
        plan = plan_ablation(
            recipe, arm, folder=output_dir, seeds=seeds or [SEED], control=control, settings=settings or []
        )
    except (ValueError, OSError, ImportError) as error:
        typer.echo(f"hf-speechft: {error}", err=True)
        raise typer.Exit(1) from None
    _train(plan)


def _train(plan: "Ablation") -> None:
    """Train what is not finished, write the results after each run, and print them at the end."""
    from hf_speechft.training.ablate import check_start, train
    from hf_speechft.training.ablation_results import write_results

    todo = plan.unfinished
    if code := check_start(plan):
        typer.echo("hf-speechft: nothing was trained; see the error above", err=True)
        raise typer.Exit(code)
    table = write_results(plan)
    for number, run in enumerate(todo, 1):
        typer.echo(f"hf-speechft: arm {run.arm}, seed {run.seed} (run {number} of {len(todo)})", err=True)
        if code := train(run):
            typer.echo(
                f"hf-speechft: arm {run.arm}, seed {run.seed} ended with exit code {code}, see above; when the cause "
                "is gone, the same command goes on from there",
                err=True,
            )
            raise typer.Exit(code)
        table = write_results(plan)
    typer.echo(table)
