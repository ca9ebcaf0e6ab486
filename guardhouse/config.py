"""Settings: declared once, read once, refused if unknown. The only reader of the environment.

Knows: names, types, defaults and where a value came from (flag > environment > file > default).
Never knows: what a setting does.

Every field of `Settings` is a flag (`--max-queue`), a variable (`GUARDHOUSE_MAX_QUEUE`), a TOML key (`max_queue`) and its
own documentation (the `help` text below).
"""
