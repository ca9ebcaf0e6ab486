"""Every error that Guardhouse raises on purpose.

Knows: what went wrong, in words that hold no user text.
Never knows: HTTP statuses, codes or envelopes (server/errors.py has that table).

GuardhouseError
├── ConfigError            a setting is unknown, malformed or contradicts another
├── CheckpointError        a checkpoint folder is missing something, broken or unsupported; names the file or tensor
├── AdapterError           a LoRA adapter is missing something, broken or unsupported; names the file, field or tensor
├── BackendError           the asked-for device cannot be used on this machine
├── PolicyError            a policy file, category list or code is malformed
├── InputError             the caller's text or conversation cannot be judged as it stands
│   ├── ContextOverflow    more tokens than the model's window
│   └── SchemaError        a JSON Schema or grammar that no text can be held to, or that is too costly
├── UnknownModel           no model of that name is served here
├── QueueFull              too many requests wait; try again after `retry_after_s`
├── DeadlineExceeded       the request's time was up before its answer was ready
├── EngineClosed           the engine was shut down or failed while the request was in it
├── SchemaUnmet            the model's text ended before it met the schema it was held to
└── VerdictError           the model's answer is no verdict (NaN, low mass, unknown code); never read as safe
"""


class GuardhouseError(Exception):
    """Base of every error below."""


class ConfigError(GuardhouseError):
    """A setting is unknown, malformed or contradicts another."""


class CheckpointError(GuardhouseError):
    """A checkpoint folder lacks something, is broken or unsupported."""


class AdapterError(GuardhouseError):
    """A LoRA adapter lacks something, is broken, unsupported, or was made for a model of another shape."""


class BackendError(GuardhouseError):
    """The asked-for device cannot be used on this machine."""


class PolicyError(GuardhouseError):
    """A policy file, category list or category code is malformed."""


class InputError(GuardhouseError):
    """The caller's text or conversation cannot be judged as it stands."""


class ContextOverflow(InputError):
    """More tokens than the model's window holds."""

    def __init__(self, num_tokens: int, window: int) -> None:
        super().__init__(f"{num_tokens} tokens do not fit the window of {window}")
        self.num_tokens = num_tokens
        self.window = window


class SchemaError(InputError):
    """A JSON Schema or grammar that no text can be held to, or that costs too much."""


class SchemaUnmet(GuardhouseError):
    """The model's text ended, or its grammar grew too costly, before the schema was met."""


class UnknownModel(GuardhouseError):
    """No model of that name is served here."""

    def __init__(self, name: str) -> None:
        super().__init__(f"no such model: {name}")
        self.name = name


class QueueFull(GuardhouseError):
    """Too many requests wait already."""

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(f"queue is full; retry in {retry_after_s} s")
        self.retry_after_s = retry_after_s


class DeadlineExceeded(GuardhouseError):
    """The request's time was up before its answer was ready."""


class EngineClosed(GuardhouseError):
    """The engine was shut down, or failed, while the request was in it."""


class VerdictError(GuardhouseError):
    """The model's answer is no verdict. Never to be read as safe."""
