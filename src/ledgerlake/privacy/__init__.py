"""Personal data: kept under a key for each person, and gone from everywhere once that key is destroyed.

What is declared personal becomes a token before it is part of an event, so no copy in clear is ever made
downstream. `fields` says what is personal, `token` how a token looks, `cipher` how it is made, `keys` keeps
the keys, `protection` puts it all together, and `forget` destroys a key.
"""

from __future__ import annotations

from ledgerlake.privacy.fields import FREE_DETAILS, PersonalFields
from ledgerlake.privacy.forget import Forgotten, forget
from ledgerlake.privacy.keys import KeyRing, KeysUnavailable, MasterKeyError
from ledgerlake.privacy.protection import FORGOTTEN, NO_KEY, PersonalDataError, Protection

__all__ = [
    "FORGOTTEN",
    "FREE_DETAILS",
    "NO_KEY",
    "Forgotten",
    "KeyRing",
    "KeysUnavailable",
    "MasterKeyError",
    "PersonalDataError",
    "PersonalFields",
    "Protection",
    "forget",
]
