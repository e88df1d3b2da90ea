"""current_time(place): the time in a city, an IANA time zone, or "local"."""

from __future__ import annotations

import os
import re
from datetime import datetime
from functools import cache
from pathlib import Path
from zoneinfo import ZoneInfo, available_timezones

from bainmarie.agent.tools.tool import Arguments, Tool, ToolFailed

TOOL = Tool(
    name="current_time",
    description="Tell the current time and date in a place.",
    parameters={
        "type": "object",
        "properties": {"place": {"type": "string", "description": 'A city, an IANA time zone, or "local".'}},
        "required": ["place"],
        "additionalProperties": False,
    },
    idempotent=True,
    annotations={"readOnlyHint": True},
)

_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

_ZONES = {
    "Africa/Abidjan": "yamoussoukro",
    "Africa/Addis_Ababa": "ethiopia",
    "Africa/Cairo": "alexandria egypt",
    "Africa/Casablanca": "marrakesh morocco rabat",
    "Africa/Johannesburg": "cape_town durban pretoria south_africa",
    "Africa/Lagos": "abuja nigeria",
    "Africa/Nairobi": "kenya",
    "America/Argentina/Buenos_Aires": "argentina",
    "America/Bogota": "colombia",
    "America/Chicago": "austin dallas houston minneapolis new_orleans san_antonio",
    "America/Denver": "albuquerque salt_lake_city",
    "America/Lima": "peru",
    "America/Los_Angeles": "la las_vegas portland san_diego san_francisco seattle",
    "America/Mexico_City": "mexico",
    "America/New_York": "atlanta boston miami nyc orlando philadelphia washington washington_dc",
    "America/Phoenix": "arizona",
    "America/Sao_Paulo": "brasilia brazil rio rio_de_janeiro",
    "America/Santiago": "chile",
    "America/Toronto": "ottawa quebec",
    "Asia/Almaty": "astana kazakhstan",
    "Asia/Bangkok": "thailand",
    "Asia/Dhaka": "bangladesh",
    "Asia/Dubai": "abu_dhabi",
    "Asia/Ho_Chi_Minh": "hanoi saigon vietnam",
    "Asia/Jakarta": "indonesia",
    "Asia/Jerusalem": "haifa israel",
    "Asia/Karachi": "islamabad lahore pakistan",
    "Asia/Kathmandu": "nepal",
    "Asia/Kolkata": "bangalore bengaluru chennai delhi hyderabad india mumbai new_delhi pune",
    "Asia/Kuala_Lumpur": "malaysia",
    "Asia/Manila": "philippines",
    "Asia/Riyadh": "jeddah mecca saudi_arabia",
    "Asia/Seoul": "busan korea south_korea",
    "Asia/Shanghai": "beijing china guangzhou shenzhen wuhan",
    "Asia/Taipei": "taiwan",
    "Asia/Tashkent": "uzbekistan",
    "Asia/Tehran": "iran",
    "Asia/Tokyo": "kyoto japan nagoya osaka sapporo",
    "Asia/Yangon": "naypyidaw",
    "Atlantic/Reykjavik": "iceland",
    "Australia/Sydney": "canberra",
    "Europe/Amsterdam": "netherlands rotterdam the_hague",
    "Europe/Athens": "greece thessaloniki",
    "Europe/Belgrade": "serbia",
    "Europe/Berlin": "cologne frankfurt germany hamburg leipzig munich stuttgart",
    "Europe/Brussels": "antwerp belgium",
    "Europe/Bucharest": "romania",
    "Europe/Budapest": "hungary",
    "Europe/Copenhagen": "denmark",
    "Europe/Dublin": "ireland",
    "Europe/Helsinki": "finland",
    "Europe/Istanbul": "ankara izmir turkey",
    "Europe/Kyiv": "kharkiv kiev lviv odesa ukraine",
    "Europe/Lisbon": "porto portugal",
    "Europe/London": "birmingham cardiff edinburgh england glasgow leeds liverpool manchester uk united_kingdom",
    "Europe/Madrid": "barcelona seville spain valencia",
    "Europe/Moscow": "russia saint_petersburg st_petersburg",
    "Europe/Oslo": "bergen norway",
    "Europe/Paris": "bordeaux france lille lyon marseille nantes nice strasbourg toulouse",
    "Europe/Prague": "brno czech_republic czechia",
    "Europe/Rome": "florence genoa italy milan naples turin venice",
    "Europe/Sofia": "bulgaria",
    "Europe/Stockholm": "gothenburg malmo sweden",
    "Europe/Vienna": "austria graz salzburg",
    "Europe/Warsaw": "krakow poland wroclaw",
    "Europe/Zagreb": "croatia",
    "Europe/Zurich": "basel bern geneva lausanne switzerland",
    "Pacific/Auckland": "christchurch new_zealand wellington",
    "Pacific/Honolulu": "hawaii",
}
"""Cities and countries that are no time zone's own name, in the zone they keep."""


async def call(arguments: Arguments) -> str:
    return time_in(str(arguments["place"]))


def time_in(place: str, now: datetime | None = None) -> str:
    """`14:05 on Monday 2026-11-23 (Europe/Paris)`. ToolFailed for a place that is not known."""
    name = local_zone() if place.strip().lower() in ("local", "here") else zone_of(place)
    moment = now.astimezone(ZoneInfo(name)) if now else datetime.now(ZoneInfo(name))
    return f"{moment:%H:%M} on {_DAYS[moment.weekday()]} {moment:%Y-%m-%d} ({name})"


def zone_of(place: str) -> str:
    """The IANA name of a city, a country of one zone, or a zone. What stands behind a comma is a second try."""
    whole = _key(place)
    for key in (whole, _key(place.split(",")[0]), whole.rpartition("/")[2]):
        if key in _names():
            return _names()[key]
    raise ToolFailed(f"I do not know the place {place}.")


def local_zone() -> str:
    """This machine's zone by name, UTC where it cannot be told."""
    told = os.environ.get("TZ", "").lstrip(":") or _linked_zone()
    return told if told in available_timezones() and not told.startswith("Etc/") else "UTC"


def _linked_zone() -> str:
    target = Path("/etc/localtime").resolve().as_posix()
    return target.partition("zoneinfo/")[2]


def _key(place: str) -> str:
    return re.sub(r"[\s_-]+", "_", place.strip().rstrip(".?!").lower())


@cache
def _names() -> dict[str, str]:
    """Lower-case names to zones: aliases, last parts of zone names (Continent/City), whole zone names."""
    zones = sorted(available_timezones())
    names = {_key(zone): zone for zone in zones}
    # Cities in the order of the alphabet of continents; old one-word zones (Singapore, Cuba) only where no city is.
    names |= {_key(zone.rpartition("/")[2]): zone for zone in reversed(zones) if "/" in zone and "Etc/" not in zone}
    names |= {_key(zone.rpartition("/")[2]): zone for zone in _ZONES}
    names |= {alias: zone for zone, aliases in _ZONES.items() for alias in aliases.split()}
    return names
