"""What the authentication of operators works with; one replica has one."""

from __future__ import annotations

from dataclasses import dataclass, field

from api.runtime.oidc import OidcProvider
from api.runtime.passwords import Argon2Hasher
from api.runtime.tokens import SigningKey
from model.database import Database
from model.repositories import operators


@dataclass(slots=True)
class AuthState:
    """`provider` is where operators may log in by OIDC; None: nowhere."""

    signing_key: SigningKey = field(default_factory=SigningKey)
    passwords: Argon2Hasher = field(default_factory=Argon2Hasher)
    provider: OidcProvider | None = None
    _has_operators: bool = False

    async def has_operators(self, database: Database) -> bool:
        """Whether there is an operator; once there was one, it is not asked again."""
        if not self._has_operators:
            async with database.session() as session:
                self._has_operators = await operators.any_operator(session)
        return self._has_operators
