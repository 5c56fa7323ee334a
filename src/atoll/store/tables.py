"""The tables. Times are seconds since the epoch, in UTC, as floats."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData()

teams = Table(
    "teams",
    metadata,
    Column("team_id", String(36), primary_key=True),
    Column("name", String(64), nullable=False, unique=True),
    Column("created_at", Float, nullable=False),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("key_id", String(36), primary_key=True),
    Column("team_id", ForeignKey("teams.team_id"), nullable=False),
    Column("name", String(64), nullable=False),
    # SHA-256 of the key. A key has 160 random bits, so a plain hash cannot be searched for it.
    Column("digest", String(64), nullable=False, unique=True),
    # The first two digits and the last four; of keys made by early versions only the last four.
    Column("hint", String(16), nullable=False),
    Column("created_at", Float, nullable=False),
)

access_tokens = Table(
    "access_tokens",
    metadata,
    Column("token_id", String(36), primary_key=True),
    Column("name", String(64), nullable=False),
    Column("digest", String(64), nullable=False, unique=True),
    Column("hint", String(16), nullable=False),
    Column("created_at", Float, nullable=False),
)

access_token_teams = Table(
    "access_token_teams",
    metadata,
    Column("token_id", ForeignKey("access_tokens.token_id"), primary_key=True),
    Column("team_id", ForeignKey("teams.team_id"), primary_key=True),
    Column("position", Integer, nullable=False),  # the team at 0 is the token's default
)

volumes = Table(
    "volumes",
    metadata,
    Column("volume_id", String(32), primary_key=True),
    Column("team_id", ForeignKey("teams.team_id"), nullable=False),
    Column("name", String(128), nullable=False),
    Column("created_at", Float, nullable=False),
    UniqueConstraint("team_id", "name"),
)

sandboxes = Table(
    "sandboxes",
    metadata,
    Column("sandbox_id", String(32), primary_key=True),
    Column("state", String(16), nullable=False),  # pooled | running | ended
    Column("team_id", String(36)),  # null while pooled
    Column("created_at", Float, nullable=False),
    Column("started_at", Float),
    Column("end_at", Float),
    Column("ended_at", Float),
    Column("end_reason", String(32)),
    Column("record", JSON, nullable=False),
    Index("sandboxes_by_state", "state"),
    Index("sandboxes_by_end", "ended_at"),
)

# A row about every five seconds per live sandbox: without a rowid, as the key is the order they are
# read in. After an hour only the `lasting` ones are left, one a minute.
sandbox_metrics = Table(
    "sandbox_metrics",
    metadata,
    Column("sandbox_id", String(32), primary_key=True),
    Column("at", Integer, primary_key=True),
    Column("lasting", Boolean, nullable=False),
    Column("cpu_count", Integer, nullable=False),
    Column("cpu_percent", Float, nullable=False),
    Column("memory_used", BigInteger, nullable=False),
    Column("memory_total", BigInteger, nullable=False),
    Column("memory_cache", BigInteger, nullable=False),
    Column("disk_used", BigInteger, nullable=False),
    Column("disk_total", BigInteger, nullable=False),
    Index("sandbox_metrics_by_age", "lasting", "at"),
    sqlite_with_rowid=False,
)

team_metrics = Table(
    "team_metrics",
    metadata,
    Column("team_id", String(36), primary_key=True),
    Column("at", Integer, primary_key=True),
    Column("concurrent", Integer, nullable=False),
    Column("start_rate", Float, nullable=False),
    Index("team_metrics_by_age", "at"),
    sqlite_with_rowid=False,
)

_counted = BigInteger().with_variant(Integer, "sqlite")  # what SQLite counts up by itself

sandbox_logs = Table(
    "sandbox_logs",
    metadata,
    Column("number", _counted, primary_key=True, autoincrement=True),
    Column("sandbox_id", String(32), nullable=False),
    Column("at", Float, nullable=False),
    Column("level", Integer, nullable=False),
    Column("message", Text, nullable=False),
    Column("fields", JSON, nullable=False),
    Index("sandbox_logs_by_sandbox", "sandbox_id", "at", "number"),
    Index("sandbox_logs_by_age", "at"),
    sqlite_autoincrement=True,
)

events = Table(
    "events",
    metadata,
    Column("number", _counted, primary_key=True, autoincrement=True),
    Column("event_id", String(36), nullable=False, unique=True),
    Column("team_id", String(36), nullable=False),
    Column("sandbox_id", String(32), nullable=False),
    Column("template_id", String(64), nullable=False),
    Column("build_id", String(64), nullable=False),
    Column("execution_id", String(36), nullable=False),
    Column("type", String(16), nullable=False),
    Column("at", Float, nullable=False),
    Column("data", JSON, nullable=False),
    Index("events_by_team", "team_id", "number"),
    Index("events_by_sandbox", "sandbox_id", "number"),
    Index("events_by_age", "at"),
    sqlite_autoincrement=True,
)

webhooks = Table(
    "webhooks",
    metadata,
    Column("webhook_id", String(36), primary_key=True),
    Column("team_id", String(36), nullable=False),
    Column("name", String(128), nullable=False),
    Column("url", Text, nullable=False),
    Column("enabled", Boolean, nullable=False),
    Column("types", JSON, nullable=False),
    # Signing takes the secret itself; a hash of it would not do.
    Column("secret", Text, nullable=False),
    Column("created_at", Float, nullable=False),
    Index("webhooks_by_team", "team_id"),
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("number", _counted, primary_key=True, autoincrement=True),
    Column("webhook_id", String(36), nullable=False),
    Column("event_id", String(36), nullable=False),
    Column("failures", Integer, nullable=False),
    Column("due_at", Float, nullable=False),
    Index("deliveries_by_webhook", "webhook_id", "due_at"),
    Index("deliveries_by_time", "due_at"),
    sqlite_autoincrement=True,
)

templates = Table(
    "templates",
    metadata,
    Column("template_id", String(32), primary_key=True),
    Column("team_id", ForeignKey("teams.team_id"), nullable=False),
    Column("name", String(128), nullable=False),
    Column("public", Boolean, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
    Column("spawn_count", Integer, nullable=False),
    Column("last_spawned_at", Float),
    UniqueConstraint("team_id", "name"),
)

template_builds = Table(
    "template_builds",
    metadata,
    Column("build_id", String(36), primary_key=True),
    Column("template_id", ForeignKey("templates.template_id"), nullable=False),
    Column("status", String(16), nullable=False),  # waiting | building | ready | error
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
    Column("finished_at", Float),
    Column("tags", JSON, nullable=False),  # what will name it once it is ready
    Column("resources", JSON, nullable=False),
    Column("failure", JSON),  # message and step
    Column("record", JSON),  # the template, once it is ready
    Index("template_builds_by_template", "template_id", "created_at"),
    Index("template_builds_by_status", "status"),
)

template_tags = Table(
    "template_tags",
    metadata,
    Column("template_id", ForeignKey("templates.template_id"), primary_key=True),
    Column("tag", String(128), primary_key=True),
    Column("build_id", ForeignKey("template_builds.build_id"), nullable=False),
    Column("created_at", Float, nullable=False),
    Index("template_tags_by_build", "build_id"),
)

template_build_logs = Table(
    "template_build_logs",
    metadata,
    Column("build_id", String(36), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("at", Float, nullable=False),
    Column("level", Integer, nullable=False),
    Column("step", String(64), nullable=False),
    Column("message", Text, nullable=False),
    sqlite_with_rowid=False,
)
