"""Every setting of the server, in one place.

A setting comes, in this order, from a command line flag, an `ATOLL_*` environment variable, the
file `atoll.toml` in the data directory, or its default. `docs/settings.md` lists them; a test keeps
that page complete.
"""

from __future__ import annotations

import os
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

DEFAULT_DATA_DIR = Path("/var/lib/atoll")
CONFIG_FILE = "atoll.toml"

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
        "when it is not the scheme's own. Default: `localhost:<port>`.",
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
    max_timeout: int = Field(
        86400, ge=1, description="The longest time to live that a client may ask for, in seconds."
    )
    max_concurrent_creates: int = Field(
        4, ge=1, le=64, description="Sandboxes that are booted at the same time, at most."
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
    log_format: str = Field(
        "text", pattern="^(text|json)$", description="`text` for people, `json` for machines."
    )

    @field_validator("warm", "dns", "egress_allow", "egress_deny", "authorities", mode="before")
    @classmethod
    def _split_commas(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("data_dir", "template_dir")
    @classmethod
    def _make_absolute(cls, value: Path | None) -> Path | None:
        return value.absolute() if value is not None else None

    @model_validator(mode="before")
    @classmethod
    def _fill_defaults(cls, values: Any) -> Any:
        if isinstance(values, dict) and not values.get("domain"):
            values["domain"] = f"localhost:{values.get('port', 3000)}"
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
        data_dir = Path(
            flags.get("data_dir") or os.environ.get("ATOLL_DATA_DIR") or DEFAULT_DATA_DIR
        )
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
        """The address for clients on this machine."""
        # An address that means all of them is no place to connect to.
        host = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"


def load_settings(**flags: Any) -> Settings:
    """Read the settings; flags that are None count as not given.

    Raises `ConfigurationError` that names the variable and what is wrong with it.
    """
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
