"""A typed client of the REST API, for programs and for the command line."""

from cli.client.client import Client, collect
from cli.client.errors import ApiRefused, ApiUnreachable
from cli.client.transport import Reply, Tally

__all__ = ["ApiRefused", "ApiUnreachable", "Client", "Reply", "Tally", "collect"]
