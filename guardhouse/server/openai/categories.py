"""How the built-in policies' categories appear under OpenAI's names.

Knows: OpenAI's 13 moderation categories, the category names of the Llama Guard family.
Never knows: codes (they differ from policy to policy), scores, HTTP.

The families cut the world differently, so the mapping is a choice, made once and here: a category of ours counts for every
category of OpenAI's whose published definition it overlaps in its main part. Categories of ours that OpenAI has none for
(specialised advice, privacy, elections, intellectual property) map to nothing: such a text is `flagged` while all of
OpenAI's categories are false. Categories of a caller's own policy map only if they have a name from this table.
"""

from collections.abc import Mapping

OPENAI_CATEGORIES = (
    "harassment",
    "harassment/threatening",
    "hate",
    "hate/threatening",
    "illicit",
    "illicit/violent",
    "self-harm",
    "self-harm/instructions",
    "self-harm/intent",
    "sexual",
    "sexual/minors",
    "violence",
    "violence/graphic",
)

COUNTERPARTS: Mapping[str, tuple[str, ...]] = {
    # Llama Guard 7B, and the embedded guard
    "violence and hate": ("violence", "hate"),
    "sexual content": ("sexual",),
    "criminal planning": ("illicit",),
    "guns and illegal weapons": ("illicit/violent",),
    "regulated or controlled substances": ("illicit",),
    "self-harm": ("self-harm",),
    # Llama Guard 2 and 3
    "violent crimes": ("violence", "illicit/violent"),
    "non-violent crimes": ("illicit",),
    "sex-related crimes": ("sexual", "illicit"),
    "sex crimes": ("sexual", "illicit"),
    "child sexual exploitation": ("sexual/minors",),
    "child exploitation": ("sexual/minors",),
    "defamation": ("harassment",),
    "indiscriminate weapons": ("illicit/violent",),
    "hate": ("hate",),
    "suicide & self-harm": ("self-harm",),
    "code interpreter abuse": ("illicit",),
}


def counterparts(name: str) -> tuple[str, ...]:
    """OpenAI's categories for one of ours.

    >>> counterparts("Violence and Hate.")
    ('violence', 'hate')
    """
    return COUNTERPARTS.get(name.strip().rstrip(".").lower(), ())
