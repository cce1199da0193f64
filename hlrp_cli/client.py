"""`hlrp client`: try a policy server with recorded observations."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hlrp_cli.flags import episodes_of

if TYPE_CHECKING:
    from hlrp.deploy.client import Replay


def client(
    address: Annotated[str, typer.Argument(help="HOST:PORT, ws://HOST:PORT or wss://HOST:PORT.")],
    dataset_root: Annotated[Path, typer.Option(help="Folder of the dataset that is shown to the policy.")],
    episodes: Annotated[
        str | None, typer.Option(help="Episodes: 0-9,12 [default: the first three that are here].")
    ] = None,
    token_file: Annotated[Path | None, typer.Option(help="File with the token that the server asks for.")] = None,
    certificate: Annotated[
        Path | None, typer.Option(help="Certificate to trust with wss, a PEM file; the system's if not given.")
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Replay recorded observations against `hlrp serve`: latency, and the error of its actions to the recorded ones."""
    from hlrp.deploy import access
    from hlrp.errors import UserError

    access.require_packages("client")
    chosen = episodes_of(episodes)
    _, host, tls = access.parse_address(address)
    if certificate is not None and not tls:
        raise UserError(
            "--certificate has no effect without TLS", where="--certificate", fix=f"write wss://{host}:PORT"
        )
    token = None if token_file is None else access.read_token(token_file)
    if token is not None and not tls and not access.is_loopback(host):
        typer.echo(
            "warning: the token passes the network unencrypted; a server with TLS has a wss:// address", err=True
        )
    from hlrp.deploy.client import PolicyClient, replay_dataset

    with PolicyClient(address, token=token, certificate=certificate) as policy:
        replay = replay_dataset(policy, dataset_root, chosen, lambda text: typer.echo(text, err=True))
    if json_output:
        typer.echo(json.dumps(replay.to_json()))
    else:
        _show(replay)


def _show(replay: "Replay") -> None:
    found = replay.to_json()
    typer.echo(f"policy      {replay.metadata.get('policy')}; {replay.requests} requests for {replay.frames} frames")
    for name, key in (("round trip", "round_trip"), ("inference", "inference")):
        typer.echo(f"{name:<11} p50 {found[key]['p50_ms']:.1f} ms, p99 {found[key]['p99_ms']:.1f} ms")
    width = max(6, *(len(row["name"]) for row in found["action_error"]))
    typer.echo(f"{'action':<{width}}  {'mean |error|':>12}  {'RMS error':>10}  {'recorded std':>12}")
    for row in found["action_error"]:
        typer.echo(f"{row['name']:<{width}}  {row['mae']:>12.4g}  {row['rmse']:>10.4g}  {row['recorded_std']:>12.4g}")
