"""A typed client of the REST API, for programs and for the command line."""

from client.client import Client, collect
from client.errors import ApiRefused, ApiUnreachable
from client.transport import Reply, Tally

__all__ = ["ApiRefused", "ApiUnreachable", "Client", "Reply", "Tally", "collect"]
