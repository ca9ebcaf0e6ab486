"""The job store's database: its tables, the queries that are not plain, and how its file is opened.

Knows: SQLite.
Never knows: what requests and results are.
"""

import os
import sqlite3
from pathlib import Path

from guardhouse.errors import ConfigError

LAYOUT = 1  # of the tables below
BUSY_TIMEOUT_S = 30.0
SUSPECT_ATTEMPTS = 3  # an item that so many processes died with is run alone, in case it is the reason
MAX_ATTEMPTS = 20  # alone or not, then it is given up

TABLES = """
CREATE TABLE IF NOT EXISTS jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    state TEXT NOT NULL,
    details BLOB NOT NULL,
    num_items INTEGER NOT NULL,
    num_done INTEGER NOT NULL DEFAULT 0,
    num_failed INTEGER NOT NULL DEFAULT 0,
    num_bytes INTEGER NOT NULL,
    created_at REAL NOT NULL,
    started_at REAL,
    finished_at REAL,
    deadline REAL
);
CREATE INDEX IF NOT EXISTS unfinished ON jobs (number) WHERE finished_at IS NULL;
CREATE TABLE IF NOT EXISTS items (
    number INTEGER PRIMARY KEY,
    job INTEGER NOT NULL REFERENCES jobs ON DELETE CASCADE,
    position INTEGER NOT NULL,
    reference TEXT,
    request BLOB,
    result BLOB,
    is_success INTEGER,
    is_claimed INTEGER NOT NULL DEFAULT 0,
    num_attempts INTEGER NOT NULL DEFAULT 0,
    UNIQUE (job, position)
);
CREATE INDEX IF NOT EXISTS waiting ON items (job, position) WHERE request IS NOT NULL AND NOT is_claimed;
CREATE INDEX IF NOT EXISTS claimed ON items (number) WHERE is_claimed;
CREATE INDEX IF NOT EXISTS suspect ON items (num_attempts, number)
WHERE request IS NOT NULL AND NOT is_claimed AND num_attempts >= 3;
CREATE TRIGGER IF NOT EXISTS a_result_is_final BEFORE UPDATE OF result ON items WHEN OLD.result IS NOT NULL
BEGIN SELECT RAISE(ABORT, 'a result is recorded once'); END;
"""


_WAITING = "request IS NOT NULL AND NOT is_claimed"
_ITEM = "SELECT items.number, kind, request, job FROM items JOIN jobs ON jobs.number = job WHERE"
SUSPECT = (
    f"{_ITEM} {_WAITING} AND num_attempts >= {SUSPECT_ATTEMPTS} AND num_attempts < {MAX_ATTEMPTS}"
    " ORDER BY num_attempts, items.number LIMIT 1"
)
HOPELESS = (
    f"SELECT items.number, kind, request FROM items JOIN jobs ON jobs.number = job"
    f" WHERE {_WAITING} AND num_attempts >= {MAX_ATTEMPTS}"
)
_NEXT_JOB = (
    "SELECT number FROM jobs WHERE finished_at IS NULL AND number > {after}"
    f" AND EXISTS (SELECT 1 FROM items WHERE job = jobs.number AND {_WAITING} AND num_attempts < {SUSPECT_ATTEMPTS})"
    " ORDER BY number LIMIT 1"
)
NEXT_BY_TURNS = (  # the next job with something to do, or else the first
    f"{_ITEM} {_WAITING} AND num_attempts < {SUSPECT_ATTEMPTS}"
    f" AND job = COALESCE(({_NEXT_JOB.format(after='?')}), ({_NEXT_JOB.format(after='0 * ?')}))"
    " ORDER BY position LIMIT 1"
)


def open_database(path: Path) -> sqlite3.Connection:
    """Open or create, for the owner alone. Raises ConfigError, naming the file, where that cannot be done."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))  # SQLite's own files beside it get the same mode
        db = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    except (OSError, sqlite3.Error) as error:
        raise ConfigError(f"cannot open {path}: {error}") from error
    try:
        _prepare(db)
    except sqlite3.Error as error:
        db.close()
        raise ConfigError(f"{path} is no job store of this version: {error}") from error
    return db


def _prepare(db: sqlite3.Connection) -> None:
    db.executescript(
        "PRAGMA auto_vacuum=INCREMENTAL; PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;"
        "PRAGMA secure_delete=ON; PRAGMA foreign_keys=ON;"
    )
    (layout,) = db.execute("PRAGMA user_version").fetchone()
    if layout not in (0, LAYOUT):
        raise sqlite3.DatabaseError(f"its layout is {layout}, not {LAYOUT}")
    db.executescript(f"BEGIN IMMEDIATE; {TABLES} PRAGMA user_version={LAYOUT}; COMMIT;")
