"""`hlrp parity`: does Lightning train a policy to the numbers of LeRobot's own loop, and how fast?"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hlrp.errors import UserError

if TYPE_CHECKING:
    from trainers.parity import Parity


def parity(
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Any key of the schema: model.chunk_size=20")
    ] = None,
    policy: Annotated[str | None, typer.Option(help="Policy to train; `hlrp policies` lists them.")] = None,
    config: Annotated[str | None, typer.Option("-c", "--config", help="YAML file, or a shipped name.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Hub name of the dataset.")] = None,
    dataset_root: Annotated[Path | None, typer.Option(help="Folder of the dataset.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps of both runs.")] = 20,
    batch_size: Annotated[int | None, typer.Option(help="Samples per step.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:N or mps; only cpu gives equal digits.")] = "cpu",
    seed: Annotated[int | None, typer.Option(help="Seed of weights and sample order.")] = None,
    init_from: Annotated[str | None, typer.Option(help="Weights to start from: run, checkpoint, folder.")] = None,
    latents: Annotated[Path | None, typer.Option(help="Latent table with the labels.")] = None,
    online_laq: Annotated[Path | None, typer.Option(help="Run of a quantizer that labels while training.")] = None,
    cache: Annotated[
        str | None, typer.Option(help="Frame store of the Lightning run: off, ram or disk; LeRobot has none.")
    ] = None,
    tolerance: Annotated[float, typer.Option(min=0, help="Largest relative difference that passes.")] = 1e-5,
    output_dir: Annotated[Path | None, typer.Option(help="Keep both runs here; else they are deleted.")] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train with LeRobot and with Lightning from one seed and compare; exit code 1 beyond the tolerance."""
    import tempfile

    from trainers.parity import measure_parity, parity_runs
    from trainers.policy_checks import prepare_process

    if policy is None and config is None:
        raise UserError("nothing says what to train", where="--policy", fix="give --policy NAME or --config FILE")
    given = {
        "model.policy_type": (policy, "--policy"),
        "data.repo_id": (dataset, "--dataset"),
        "data.root": (dataset_root, "--dataset-root"),
        "trainer.batch_size": (batch_size, "--batch-size"),
        "trainer.device": (device, "--device"),
        "trainer.seed": (seed, "--seed"),
        "model.init_from": (init_from, "--init-from"),
        "latents.table": (latents, "--latents"),
        "latents.laq": (online_laq, "--online-laq"),
        "data.cache": (cache, "--cache"),
    }
    flags = {key: value for key, value in given.items() if value[0] is not None}
    with tempfile.TemporaryDirectory() as scratch:
        kept = output_dir.absolute() if output_dir is not None else Path(scratch)
        native, lightning = parity_runs(flags, overrides or [], config, steps=steps, output=kept)
        prepare_process(lightning)
        result = measure_parity(native, lightning)
    if json_output:
        typer.echo(json.dumps({**result.to_json(), "tolerance": tolerance}))
    else:
        _show(result, tolerance)
    if not result.worst <= tolerance:
        raise typer.Exit(1)


def _show(result: "Parity", tolerance: float) -> None:
    typer.echo(f"{result.policy}, {result.steps} steps; relative differences between LeRobot and Lightning")
    for step, (loss, norm) in enumerate(zip(result.loss, result.grad_norm, strict=True), start=1):
        weights = f"  weights {result.weights[step]:.1e}" if step in result.weights else ""
        typer.echo(f"step {step:4d}  loss {loss:.1e}  gradient {norm:.1e}{weights}")
    typer.echo(f"furthest tensor  {result.worst_tensor}")
    typer.echo(
        f"speed            {result.speed_ratio:.2f} x LeRobot's "
        f"({result.lightning_s * 1e3:.1f} ms a step, LeRobot {result.native_s * 1e3:.1f} ms)"
    )
    verdict = "equal" if result.worst <= tolerance else "NOT equal"
    typer.echo(f"{verdict}: largest difference {result.worst:.1e}, tolerance {tolerance:.0e}")
