"""Every setting of the server, in one place.

A setting comes, in this order, from a command line flag, an `ATOLL_*` environment variable, the
file `atoll.toml` in the data directory, or its default. `docs/settings.md` lists them; a test keeps
that page complete.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from atoll.errors import ConfigurationError
from atoll.running import DEFAULT_DATA_DIR, locate_data_dir

CONFIG_FILE = "atoll.toml"
LOCAL_DOMAIN = "localhost"
LOCAL_TLS_DOMAIN = "sandbox.localhost"
"""OpenSSL takes no wildcard right below a top-level name: `*.localhost` would match nothing."""

CommaList = Annotated[tuple[str, ...], NoDecode]


class Settings(BaseSettings):
    """What `atoll serve` runs with."""

    model_config = SettingsConfigDict(env_prefix="ATOLL_", extra="forbid", frozen=True)

    data_dir: Path = Field(DEFAULT_DATA_DIR, description="Where all state lives.")
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(3000, ge=1, le=65535, description="The one port of the server.")
    domain: str = Field(
        "",
        description="Base of the host names of sandboxes (`{port}-{id}.{domain}`), with a port "
        "when it is not the scheme's own. Default: `localhost:<port>`, with TLS "
        "`sandbox.localhost:<port>`.",
    )
    tls_cert: Path | None = Field(
        None, description="Certificate chain (PEM) with which the port speaks TLS."
    )
    tls_key: Path | None = Field(
        None, description="Its private key (PEM). Default: it is in the certificate's file."
    )
    template_dir: Path | None = Field(
        None, description="Where built templates are kept. Default: `<data_dir>/templates`."
    )
    database_url: str = Field(
        "", description="SQLAlchemy URL of the database. Default: SQLite in the data directory."
    )
    pool_size: int = Field(
        4, ge=0, le=1000, description="Sandboxes kept ready per template in use; 0 turns it off."
    )
    warm: CommaList = Field(
        ("base",),
        description="Templates whose sandboxes are made ready from the start on (commas); those of "
        "other templates from the first use on.",
    )
    max_sandboxes: int = Field(
        1000, ge=1, description="Live sandboxes at most, over all teams, the pool left out."
    )
    max_team_sandboxes: int = Field(
        0, ge=0, description="Live sandboxes at most of each team; 0 is no limit of its own."
    )
    max_timeout: int = Field(
        86400, ge=1, description="The longest time to live that a client may ask for, in seconds."
    )
    max_concurrent_creates: int = Field(
        4, ge=1, le=64, description="Sandboxes that are booted at the same time, at most."
    )
    max_requests_per_minute: int = Field(
        0, ge=0, description="Requests to the control plane of each key, at most; 0 is no limit."
    )
    max_creates_per_minute: int = Field(
        0, ge=0, description="Sandboxes made with each key, at most; 0 is no limit."
    )
    max_failed_keys_per_minute: int = Field(
        120, ge=0, description="Unknown keys tried from one address, at most; 0 is no limit."
    )
    network: str = Field(
        "", description="IPv4 block of the sandboxes, e.g. `100.64.16.0/20`. Default: a free one."
    )
    dns: CommaList = Field(
        (), description="Resolvers that sandboxes' queries are relayed to. Default: the host's."
    )
    egress_allow: CommaList = Field(
        (),
        description="Networks that sandboxes may reach although private (CIDR, commas).",
    )
    egress_deny: CommaList = Field(
        (), description="Networks that sandboxes may never reach (CIDR, commas)."
    )
    authorities: CommaList = Field(
        (), description="Files with certificate authorities that templates shall trust (PEM)."
    )
    min_free_disk_mb: int = Field(
        1024, ge=0, description="Creates are refused when the data directory has less free, in MiB."
    )
    metrics_interval: int = Field(
        5, ge=1, le=300, description="Seconds between two samples of what a sandbox uses."
    )
    history_hours: int = Field(
        24, ge=1, le=720, description="How long metrics and logs of sandboxes are kept."
    )
    event_days: int = Field(
        7, ge=1, le=365, description="How long the events of sandboxes' lives are kept."
    )
    ended_days: int = Field(
        30, ge=1, le=3650, description="How long it is remembered that a sandbox existed."
    )
    webhook_allow: CommaList = Field(
        (),
        description="Networks that webhooks may lead to although private (CIDR, commas).",
    )
    webhook_retry_seconds: int = Field(
        10, ge=1, le=3600, description="How long after a failure a webhook is tried again."
    )
    volume_size_mb: int = Field(
        10240, ge=32, description="The size of each volume, in MiB; it takes up what is written."
    )
    max_volumes: int = Field(100, ge=0, description="Volumes of each team, at most.")
    ready_seconds: int = Field(
        60,
        ge=1,
        le=3600,
        description="How long what a template starts may take until it is ready, in seconds.",
    )
    max_concurrent_builds: int = Field(
        2, ge=1, le=64, description="Templates that are built at the same time, at most."
    )
    build_memory_mb: int = Field(
        4096, ge=256, description="Memory of the sandboxes in which templates are built, in MiB."
    )
    build_step_seconds: int = Field(
        3600, ge=1, description="How long one step of a build may take, in seconds."
    )
    max_upload_mb: int = Field(
        4096, ge=1, description="The largest archive of files for a build that is taken, in MiB."
    )
    max_image_mb: int = Field(
        16384, ge=1, description="The largest image that templates are built on, in MiB."
    )
    image_names: CommaList = Field(
        (),
        description="Images that are templates of this server (`ubuntu:22.04=base`, commas).",
    )
    registry_auth: Path | None = Field(
        None,
        description="Accounts at registries for all teams: the file that `docker login` writes.",
    )
    registries: CommaList = Field(
        (),
        description="Registries that this host asks itself (`host` or `host:port`, commas); all "
        "others are reached as sandboxes reach them.",
    )
    layer_days: int = Field(
        7,
        ge=1,
        le=3650,
        description="How long layers and files of builds that no template needs are kept.",
    )
    log_format: str = Field(
        "text", pattern="^(text|json)$", description="`text` for people, `json` for machines."
    )

    @field_validator(
        *("warm", "dns", "egress_allow", "egress_deny", "authorities", "webhook_allow"),
        *("image_names", "registries"),
        mode="before",
    )
    @classmethod
    def _split_commas(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("data_dir", "template_dir", "tls_cert", "tls_key", "registry_auth")
    @classmethod
    def _make_absolute(cls, value: Path | None) -> Path | None:
        return value.absolute() if value is not None else None

    @model_validator(mode="before")
    @classmethod
    def _fill_defaults(cls, values: Any) -> Any:
        if isinstance(values, dict) and not values.get("domain"):
            name = LOCAL_TLS_DOMAIN if values.get("tls_cert") else LOCAL_DOMAIN
            values["domain"] = f"{name}:{values.get('port', 3000)}"
        return values

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags first, then the environment, then the file in the data directory."""
        flags = init_settings()
        data_dir = locate_data_dir(flags.get("data_dir"))
        toml = TomlConfigSettingsSource(settings_cls, toml_file=data_dir / CONFIG_FILE)
        return init_settings, env_settings, toml

    @property
    def templates(self) -> Path:
        """The directory of built templates."""
        return self.template_dir or self.data_dir / "templates"

    @property
    def database(self) -> str:
        """The database's SQLAlchemy URL."""
        return self.database_url or f"sqlite:///{self.data_dir / 'atoll.db'}"

    @property
    def url(self) -> str:
        """The address for clients on this machine: with TLS, a name that the certificate has."""
        if self.tls_cert is not None:
            return f"https://api.{self.domain}"
        # An address that means all of them is no place to connect to.
        host = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"


def _check_names(environ: Mapping[str, str]) -> None:
    """Refuse a variable that is nearly a setting: a slip of the pen must not go unnoticed."""
    prefix = "ATOLL_"
    known = [prefix + name.upper() for name in Settings.model_fields]
    for name in environ:
        if name.upper().startswith(prefix) and name.upper() not in known:
            for near in difflib.get_close_matches(name.upper(), known, n=1, cutoff=0.8):
                raise ConfigurationError(f"{name} is not a setting", remedy=f"did you mean {near}?")


def load_settings(**flags: Any) -> Settings:
    """Read the settings; flags that are None count as not given.

    Raises `ConfigurationError` that names the variable and what is wrong with it.
    """
    _check_names(os.environ)
    try:
        return Settings(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else "settings"
        if name not in Settings.model_fields:
            raise ConfigurationError(
                f"unknown setting {name!r}", remedy="docs/settings.md lists the settings"
            ) from None
        raise ConfigurationError(
            f"the setting {name} is wrong: {first['msg']}",
            remedy=f"set ATOLL_{name.upper()} (or {name} in {CONFIG_FILE}) to a valid value: "
            f"{Settings.model_fields[name].description}",
        ) from None
    except ValueError as error:  # a TOML file that can't be parsed
        raise ConfigurationError(str(error), remedy=f"correct {CONFIG_FILE}") from None
