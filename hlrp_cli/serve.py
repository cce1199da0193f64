"""`hlrp serve`: a policy for robots and simulators elsewhere, over openpi's websocket protocol."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hlrp.errors import UserError
from hlrp.runs import resolve_pretrained
from hlrp.runs.published import folder_of
from hlrp_cli.console import quiet_libraries
from hlrp_cli.flags import rename_pairs

if TYPE_CHECKING:
    import ssl


def serve(
    policy: Annotated[
        Path, typer.Argument(metavar="RUN_OR_CHECKPOINT", help="Run, checkpoint, pretrained_model folder or Hub name.")
    ],
    host: Annotated[str, typer.Option(help="Address to listen on; one that others reach needs --token-file.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    token_file: Annotated[Path | None, typer.Option(help="File with the token that clients have to show.")] = None,
    certificate: Annotated[Path | None, typer.Option(help="Certificate for TLS, a PEM file.")] = None,
    key: Annotated[Path | None, typer.Option(help="The certificate's key, a PEM file.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:N or mps.")] = None,
    rename_map: Annotated[list[str] | None, typer.Option(help="Observation key CLIENT=POLICY; repeatable.")] = None,
    action_space: Annotated[
        str | None, typer.Option(help="Action space to act in, of a policy that was trained on several.")
    ] = None,
    task: Annotated[str | None, typer.Option(help="Instruction where an observation has no prompt.")] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Random numbers of every episode start from it, for each client.")
    ] = None,
    max_clients: Annotated[int, typer.Option(min=1, help="Connections at a time.")] = 16,
    max_message_mb: Annotated[int, typer.Option(min=1, max=1024, help="Largest message that is read, in MiB.")] = 32,
    log_every: Annotated[int, typer.Option(min=1, help="Requests between two lines of latencies.")] = 1000,
    allow_download: Annotated[bool, typer.Option("--allow-download", help="Fetch what is missing here.")] = False,
) -> None:
    """Serve a policy over a websocket; openpi's client and `hlrp client` talk to it. Ctrl-C ends it.

    Observations come as msgpack maps of NumPy arrays, and chunks of actions go back. GET /healthz answers OK.
    """
    from hlrp.deploy import access

    access.require_packages("serve")
    pairs = rename_pairs(rename_map or [])
    found = folder_of(policy, "RUN_OR_CHECKPOINT", allow_download=allow_download)
    pretrained = resolve_pretrained(found.absolute())
    token, tls = _protection(host, token_file, certificate, key)
    quiet_libraries(allow_download)
    from hlrp.evaluation.policy import without_packages_unused_by

    without_packages_unused_by(found)
    from hlrp.deploy.served import load_served
    from hlrp.deploy.server import ServerSettings, serve_policy

    served = load_served(pretrained, device=device, rename=pairs, task=task, action_space=action_space)
    for text in served.loaded.warnings:
        _log(f"warning: {text}")
    said = served.metadata
    acting = f", acts as {said['action_space']}" if "action_space" in said else ""
    _log(f"policy   {said['policy']} on {said['device']}, {said['action']['shape'][0]} numbers an action{acting}")
    for name, wanted in said["observation"].items():
        _log(f"reads    {name} {wanted['dtype']} {wanted['shape']}{', if it is there' if 'optional' in wanted else ''}")
    settings = ServerSettings(
        host=host,
        port=port,
        token=token,
        tls=tls,
        max_clients=max_clients,
        max_message_bytes=max_message_mb << 20,
        log_every=log_every,
        seed=seed,
    )
    serve_policy(served, settings, log=_log, ready=lambda address: typer.echo(f"ready    {address}"))


def _protection(
    host: str, token_file: Path | None, certificate: Path | None, key: Path | None
) -> "tuple[str | None, ssl.SSLContext | None]":
    """Token and TLS of the server; warns of what others could read."""
    from hlrp.deploy import access

    open_to_others = not access.is_loopback(host)
    if open_to_others and token_file is None:
        raise UserError(
            f"others than this machine can reach a server on {host or 'all addresses'}, so it needs a token",
            where=f"--host {host}",
            fix="give --token-file FILE, or leave --host out and reach it through an SSH tunnel",
        )
    token = None if token_file is None else access.read_token(token_file)
    tls = None if certificate is None or key is None else access.server_tls(certificate, key)
    for path in filter(None, (token_file, key)):
        if access.readable_by_others(path):
            _log(f"warning: others may read {path}: chmod 600 {path}")
    if open_to_others and tls is None:
        _log("warning: without --certificate and --key, token and pictures pass the network unencrypted")
    return token, tls


def _log(text: str) -> None:
    typer.echo(text, err=True)
