"""The broker's key in the system's keyring: one entry per account and name.

Composition code beside `settings`. The library is imported late: most processes never need it,
and a kill waits for imports.
"""

from __future__ import annotations

from domain.errors import BadInput

KEYRING_KEYS = ("broker_key_id", "broker_secret")
OTHER_WAYS = (
    "HOLDFAST_BROKER_KEY_ID and HOLDFAST_BROKER_SECRET in the environment, or a key_file of mode"
    " 0600"
)


def service_name(account: str) -> str:
    """Under which name the system's keyring shows the entries."""
    return f"holdfast/{account}"


def read_keyring(account: str, key: str) -> str:
    """The stored value.

    Raises:
        BadInput: CONFIG_KEYRING where no keyring answers, CONFIG_MISSING where it has no entry.
    """
    import keyring
    from keyring.errors import KeyringError

    try:
        value = keyring.get_password(service_name(account), key)
    except KeyringError:
        raise _no_keyring() from None
    if not value:
        allowed = (
            f"an entry in the keyring: starter.py init, or keyring set {service_name(account)}"
        )
        raise BadInput("CONFIG_MISSING", key, "", f"{allowed} {key}")
    return value


def write_keyring(account: str, key: str, value: str) -> None:
    """Stores or replaces the value.

    Raises:
        BadInput: CONFIG_KEYRING.
    """
    import keyring
    from keyring.errors import KeyringError

    try:
        keyring.set_password(service_name(account), key, value)
    except KeyringError:
        raise _no_keyring() from None


def _no_keyring() -> BadInput:
    return BadInput("CONFIG_KEYRING", "broker.secrets", "keyring", OTHER_WAYS)
