"""Who may talk to a server: hosts, tokens, certificates. Needs neither torch nor the packages of the extra `serve`."""

import ipaddress
import ssl
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from hlrp.errors import UserError

SHORTEST_TOKEN = 16
_MOST_BYTES = 4096
SCHEME = "Api-Key"
"""What openpi's client writes before the token in the header `Authorization`."""


def require_packages(command: str) -> None:
    """Refuse to go on without the packages of the extra `serve`.

    Raises:
        UserError: Naming what is missing.
    """
    missing = [name for name in ("msgpack", "websockets") if find_spec(name) is None]
    if missing:
        raise UserError(
            f"{' and '.join(missing)} must be installed for this",
            where=f"hlrp {command}",
            fix="pip install 'lerobot_policy_felix_bundle[serve]'",
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server on ``host``; of names, `localhost` alone is known to be such."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def read_token(path: Path) -> str:
    """The token in a file, without the white space around it.

    Raises:
        UserError: The file cannot be read, or holds no token that a header can carry and nobody guesses.
    """
    fix = "python -c 'import secrets; print(secrets.token_urlsafe())' > FILE; chmod 600 FILE"
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except OSError as error:
        what = f"the token cannot be read: {error.strerror or error}"
        raise UserError(what, where=f"--token-file {path}", fix=fix) from error
    token = content.strip().decode("latin1")
    if len(content) > _MOST_BYTES or not all("!" <= letter <= "~" for letter in token):
        raise UserError("this is no token: one line of ASCII", where=f"--token-file {path}", fix=fix)
    if len(token) < SHORTEST_TOKEN:
        raise UserError(
            f"a token has at least {SHORTEST_TOKEN} characters, this one has {len(token)}",
            where=f"--token-file {path}",
            fix=fix,
        )
    return token


def readable_by_others(path: Path) -> bool:
    """Whether other users of this machine may read a file."""
    return bool(path.stat().st_mode & 0o077)


def server_tls(certificate: Path, key: Path) -> ssl.SSLContext:
    """TLS of a server.

    Raises:
        UserError: The files cannot be read, are none, do not fit each other, or the key has a passphrase.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # Without a function of ours a key with a passphrase would ask for it on the terminal.
        context.load_cert_chain(certificate, key, password=lambda: "")
    except (OSError, ValueError) as error:
        raise UserError(
            f"the certificate and its key cannot be used: {getattr(error, 'strerror', None) or error}",
            where=f"--certificate {certificate}, --key {key}",
            fix="give a certificate in PEM form, and the key it was made with, without a passphrase",
        ) from error
    return context


def client_tls(certificate: Path | None) -> ssl.SSLContext:
    """TLS of a client that trusts the system's authorities, or ``certificate`` alone.

    Raises:
        UserError: The file is no certificate.
    """
    if certificate is None:
        return ssl.create_default_context()
    try:
        return ssl.create_default_context(cafile=certificate)
    except (OSError, ValueError) as error:
        raise UserError(
            f"the certificate cannot be used: {getattr(error, 'strerror', None) or error}",
            where=f"--certificate {certificate}",
            fix="give the server's certificate, or that of its authority, in PEM form",
        ) from error


def server_url(host: str, port: int, *, tls: bool) -> str:
    """The address of a server as clients write it."""
    return f"{'wss' if tls else 'ws'}://{f'[{host}]' if ':' in host else host}:{port}"


def parse_address(address: str, *, where: str = "ADDRESS") -> tuple[str, str, bool]:
    """URL, host and whether it is TLS, of `HOST:PORT`, `ws://HOST:PORT` or `wss://HOST:PORT`.

    Raises:
        UserError: It is none of these.
    """
    url = address if "://" in address else f"ws://{address}"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or port is None or parts.scheme not in ("ws", "wss") or parts.username is not None:
        raise UserError(
            f"{address!r} is no address of a policy server",
            where=where,
            fix="write 127.0.0.1:8000, ws://HOST:PORT or wss://HOST:PORT",
        )
    return url, host, parts.scheme == "wss"
