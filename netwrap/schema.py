"""The tables of the state file, version by version, and the migration of a file of an older version."""

from __future__ import annotations

import sqlite3

_VERSIONS = (
    """
CREATE TABLE operation (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at REAL NOT NULL,                 -- seconds since the epoch
    title TEXT NOT NULL,
    kind TEXT NOT NULL,               -- build | teardown | repair
    state TEXT NOT NULL,              -- running | done | rolled back | undone | failed
    command TEXT NOT NULL,            -- the line that the user typed
    removes TEXT NOT NULL             -- a teardown's objects, as JSON
);
CREATE TABLE step (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    op INTEGER NOT NULL REFERENCES operation,
    undone_by INTEGER REFERENCES operation,
    owner TEXT NOT NULL,              -- the object that it belongs to
    state TEXT NOT NULL,              -- begun | done | undoing | undone
    data TEXT NOT NULL                -- do, undo, probe and why, as JSON
);
CREATE INDEX step_owner ON step (owner, state);
CREATE INDEX step_op ON step (op);
CREATE TABLE object (
    owner TEXT PRIMARY KEY,           -- network:NAME, container:NAME, endpoint:NAME/NETWORK, port:NAME/NETWORK/SPEC
    seq INTEGER NOT NULL,             -- the order of their making
    op INTEGER NOT NULL REFERENCES operation,
    kind TEXT NOT NULL,
    data TEXT NOT NULL
);
CREATE TABLE ipam (network TEXT PRIMARY KEY, last TEXT NOT NULL);
CREATE TABLE machine (boot_id TEXT NOT NULL, netns INTEGER NOT NULL);
""",
    """
ALTER TABLE operation ADD COLUMN boot_id TEXT NOT NULL DEFAULT '';
UPDATE operation SET boot_id = coalesce((SELECT boot_id FROM machine), '');
ALTER TABLE step ADD COLUMN mended_by INTEGER REFERENCES operation;  -- the repair that ran it, for the operation in op
ALTER TABLE step ADD COLUMN place INTEGER;  -- in the order of steps: the id of the step that it mends
""",
    """
ALTER TABLE operation ADD COLUMN undoes INTEGER REFERENCES operation;
ALTER TABLE operation ADD COLUMN rules TEXT NOT NULL DEFAULT '{}';  -- the chains that it took rules from, as they were
CREATE TABLE object_3 (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    owner TEXT NOT NULL,              -- network:NAME, container:NAME, endpoint:NAME/NETWORK, port:NAME/NETWORK/SPEC
    seq INTEGER NOT NULL,             -- the order of their making
    op INTEGER NOT NULL REFERENCES operation,
    rebuilt_by INTEGER REFERENCES operation,  -- the undo that built it up again, for the operation in op
    undone_by INTEGER REFERENCES operation,   -- the operation that took it down
    kind TEXT NOT NULL,
    data TEXT NOT NULL
);
INSERT INTO object_3 (owner, seq, op, kind, data) SELECT owner, seq, op, kind, data FROM object;
DROP TABLE object;
ALTER TABLE object_3 RENAME TO object;
CREATE UNIQUE INDEX object_standing ON object (owner) WHERE undone_by IS NULL;
CREATE TABLE ipam_3 (network TEXT NOT NULL, last TEXT NOT NULL, undone_by INTEGER REFERENCES operation);
INSERT INTO ipam_3 SELECT network, last, NULL FROM ipam;
DROP TABLE ipam;
ALTER TABLE ipam_3 RENAME TO ipam;
CREATE UNIQUE INDEX ipam_standing ON ipam (network) WHERE undone_by IS NULL;
""",
    """
ALTER TABLE machine ADD COLUMN cookie INTEGER NOT NULL DEFAULT 0;  -- of the network namespace; 0, NULL: not known
ALTER TABLE machine ADD COLUMN pidns INTEGER NOT NULL DEFAULT 0;
ALTER TABLE machine ADD COLUMN began INTEGER;                      -- start time of the pid namespace's first process
ALTER TABLE machine ADD COLUMN boottime INTEGER;                   -- offset of the time namespace, in nanoseconds
ALTER TABLE operation ADD COLUMN pid INTEGER;                      -- of the netwrap that is at work on it
ALTER TABLE operation ADD COLUMN starttime INTEGER;
""",
)
"""The scripts that migrate a file from each version to the next; the first one makes version 1."""
VERSION = len(_VERSIONS)


def bring_up(db: sqlite3.Connection, version: int) -> None:
    """Migrates a database from a version to the current one, in one transaction."""
    changes = "".join(_VERSIONS[version:])
    db.executescript(f"BEGIN IMMEDIATE; {changes} PRAGMA user_version = {VERSION}; COMMIT;")
