"""Countries as gluetun's providers call them: by full names."""

from __future__ import annotations

from model.errors import ExitplaneError


class UnknownCountry(ExitplaneError):
    code = "unknown_country"


def full_name(country: str) -> str:
    """The everyday English name of a country given by two letters (ISO 3166-1). What is longer is a name already.

    Providers differ in a few (Czech Republic, Czechia): whoever knows better gives the provider's own. Raises UnknownCountry.
    """
    if len(country) != 2:
        return country
    import pycountry  # noqa: PLC0415 - some megabytes that only a rotation needs

    found = pycountry.countries.get(alpha_2="GB" if country.lower() == "uk" else country.upper())
    if found is None:
        raise UnknownCountry(
            f"{country!r} is no country of ISO 3166-1", hint="send two letters, or the provider's name"
        )
    return str(getattr(found, "common_name", found.name))
