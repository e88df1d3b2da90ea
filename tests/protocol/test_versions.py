from __future__ import annotations

import pytest

from bainmarie_protocol.versions import numbers


@pytest.mark.parametrize(
    ("version", "release"),
    [
        ("4.57.1", (4, 57, 1)),
        ("5.24.0.dev0", (5, 24, 0)),
        ("0.22.0.dev0@c0ffee", (0, 22, 0)),
        ("2.13.0+cpu", (2, 13, 0)),
        ("10", (10,)),
        ("5.0rc3", (5, 0)),
        ("main", ()),
        ("", ()),
    ],
)
def test_the_release_numbers_of_a_version(version, release):
    assert numbers(version) == release
