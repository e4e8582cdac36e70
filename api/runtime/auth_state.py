"""The state of a replica for the authentication of operators."""

from __future__ import annotations

from dataclasses import dataclass, field

from api.runtime.oidc import OidcProvider
from api.runtime.passwords import Argon2Hasher
from api.runtime.tokens import SigningKey
from model.database import Database
from model.repositories import operators


@dataclass(slots=True)
class AuthState:
    """The keys and hashers of a replica, and the OIDC provider at which operators may log in (None: OIDC is off)."""

    signing_key: SigningKey = field(default_factory=SigningKey)
    password_hasher: Argon2Hasher = field(default_factory=Argon2Hasher)
    oidc_provider: OidcProvider | None = None
    _has_operators: bool = False

    async def has_operators(self, database: Database) -> bool:
        """Check if an operator exists. Once one did, the database is not asked again."""
        if not self._has_operators:
            async with database.session() as session:
                self._has_operators = await operators.any_operator(session)
        return self._has_operators
