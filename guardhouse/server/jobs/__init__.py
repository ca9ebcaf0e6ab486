"""Work that is accepted now and answered later: kept in SQLite, run beside the rest, wiped when done."""
