"""The tables. Times are seconds since the epoch, in UTC, as floats."""

from __future__ import annotations

from sqlalchemy import JSON, Column, Float, ForeignKey, Index, MetaData, String, Table

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
    Column("hint", String(16), nullable=False),
    Column("created_at", Float, nullable=False),
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
)
