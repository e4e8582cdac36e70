"""Names of countries, as the providers of gluetun use them."""

from __future__ import annotations

from model.errors import ExitplaneError


class UnknownCountry(ExitplaneError):
    """Two letters that are no country of ISO 3166-1."""

    code = "unknown_country"


def full_name(country: str) -> str:
    """Return the common English name of a country given by two letters (ISO 3166-1); longer text is returned as it is.

    Providers differ in a few names (Czech Republic, Czechia): send the provider's own name then. Raises UnknownCountry.
    """
    if len(country) != 2:
        return country
    import pycountry  # noqa: PLC0415  # some megabytes that only a rotation needs

    found = pycountry.countries.get(alpha_2="GB" if country.lower() == "uk" else country.upper())
    if found is None:
        raise UnknownCountry(
            f"{country!r} is no country of ISO 3166-1", hint="send two letters, or the provider's name"
        )
    return str(getattr(found, "common_name", found.name))
