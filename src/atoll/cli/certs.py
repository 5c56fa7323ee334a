"""`atoll certs`: certificates for TLS on this machine."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from atoll.cli.options import DataDir, Json


def make_certificates(
    domain: Annotated[
        str | None,
        typer.Option(
            help="Base of the sandboxes' host names, without a port.",
            show_default="that of ATOLL_DOMAIN, or sandbox.localhost",
        ),
    ] = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Make a certificate for sandboxes' host names, from an authority of this machine's own."""
    from atoll.certificates import LocalAuthority
    from atoll.settings import LOCAL_DOMAIN, LOCAL_TLS_DOMAIN, load_settings

    settings = load_settings(data_dir=data_dir)
    served = settings.domain.partition(":")[0]
    if served == LOCAL_DOMAIN:
        served = LOCAL_TLS_DOMAIN
    name = domain or served
    authority = LocalAuthority(settings.data_dir)
    authority.issue(name)
    if as_json:
        paths = {
            "tls_cert": str(authority.server_cert),
            "tls_key": str(authority.server_key),
            "authority": str(authority.cert),
            "trust": str(authority.trust),
            "domain": name,
        }
        typer.echo(json.dumps(paths))
        return
    variable = ""
    if name != served:
        variable = f"ATOLL_DOMAIN={name}{'' if settings.port == 443 else f':{settings.port}'} "
    typer.echo(
        f"A certificate for {name} and *.{name}, and the authority behind it:\n"
        f"  certificate  {authority.server_cert}\n"
        f"  its key      {authority.server_key}\n"
        f"  authority    {authority.cert}\n"
        f"Serve with it:\n"
        f"  {variable}atoll serve --data-dir {settings.data_dir} "
        f"--tls-cert {authority.server_cert} --tls-key {authority.server_key}\n"
        f"Have clients trust it (`atoll env` prints these lines as well):\n"
        f"  export SSL_CERT_FILE={authority.trust}\n"
        f"  export NODE_EXTRA_CA_CERTS={authority.trust}"
    )
