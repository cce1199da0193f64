"""`hlrp policies`: every policy LeRobot knows here, where it comes from, and plugins that failed."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from hlrp.catalog import Catalog


def policies(
    name: Annotated[str | None, typer.Argument(help="Show the fields of this policy.")] = None,
    refresh: Annotated[bool, typer.Option("--refresh", help="Ask LeRobot again instead of the cache.")] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the registered policies and what they still need; exit code 1 when a plugin failed to import."""
    from hlrp.catalog import cached_catalog, policy_catalog
    from hlrp_cli.console import console

    catalog = None if refresh else cached_catalog()
    if catalog is None:
        console().print("asking LeRobot (once per installation, 10 to 20 s)")
        _silence_plugins()
        catalog = policy_catalog(refresh=True)
    if name is not None:
        _show_one(catalog, name, json_output)
        return
    rows = _rows(catalog)
    skipped = {d: _advice(d) for d in catalog.skipped}
    if json_output:
        typer.echo(json.dumps({"policies": rows, "failed": catalog.failed, "skipped": skipped}))
    else:
        _show_all(rows)
        for plugin, reason in catalog.failed.items():
            typer.echo(f"problem  plugin {plugin} failed to import: {reason}")
        for advice in skipped.values():
            typer.echo(f"problem  {advice}")
    if catalog.failed or catalog.skipped:
        raise typer.Exit(1)


def _silence_plugins() -> None:
    """Failures are listed below; libraries' own warnings on import would only bury them."""
    import logging
    import warnings

    logging.basicConfig(level=logging.ERROR)
    warnings.simplefilter("ignore")


def _advice(distribution: str) -> str:
    fixed = distribution.replace("-", "_")
    return (
        f"LeRobot skips the plugin {distribution}: it looks for names that begin with 'lerobot_policy_'. "
        f'In its pyproject.toml write name = "{fixed}" and install it again'
    )


def _rows(catalog: "Catalog") -> list[dict[str, Any]]:
    from hlrp_cli.requirements import extra_for, needs_of

    rows = []
    for info in catalog.policies.values():
        extra = extra_for(info.distribution, info.name)
        needs = needs_of(info.distribution, (extra,)).values() if extra else []
        missing = [f"{n.name} {n.problem}" for n in needs if n.problem]
        rows.append(
            {
                "name": info.name,
                "config_class": info.config_class,
                "module": info.module,
                "distribution": info.distribution,
                "missing": missing,
                "install": f"pip install '{info.distribution}[{extra}]'" if missing else None,
            }
        )
    return rows


def _show_all(rows: list[dict[str, Any]]) -> None:
    header = ("policy", "configuration", "from", "state")
    table = [header, *((r["name"], r["config_class"], r["distribution"], _state(r)) for r in rows)]
    widths = [max(len(row[i]) for row in table) for i in range(3)]
    for row in table:
        typer.echo("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]).rstrip())


def _state(row: dict[str, Any]) -> str:
    return f"{'; '.join(row['missing'])}: {row['install']}" if row["missing"] else "ready"


def _show_one(catalog: "Catalog", name: str, json_output: bool) -> None:
    info = catalog.policy(name)
    if json_output:
        fields = {k: {"type": f.type, "default": f.default} for k, f in info.fields.items()}
        typer.echo(json.dumps({"name": info.name, "module": info.module, "fields": fields}))
        return
    width = max(len(k) for k in info.fields)
    for key, field in info.fields.items():
        typer.echo(f"{key:<{width}}  {field.type}" + (f" = {field.default}" if field.default else ""))
