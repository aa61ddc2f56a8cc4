"""`kill -9` and SIGSTOP of whatever a fleet consists of, at random, while two tuners measure.

`--faults-seed N` draws other faults in another order; what was drawn is printed when it fails.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from fault_monkey import Monkey, grants_of
from fleet_faults import NAMES, Site, until

FAULTS = 15
"""Each kind at least once."""


def test_random_kills_and_pauses_lose_no_record_and_no_device(
    site: Site, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    seed = int(request.config.getoption("--faults-seed"))
    monkey = Monkey(site, tmp_path, seed)
    try:
        monkey.play(FAULTS)
    finally:
        print(f"--faults-seed {seed}: {', '.join(monkey.done)}")  # noqa: T201  # shown on failure
    one, two = (grants_of(tuner.records()) for tuner in monkey.tuners)
    assert not one & two
    grants = one | two
    assert len({(device, epoch) for device, epoch, _ in grants}) == len(grants)
    until(lambda: not site.live(), "the end of all leases")
    site.ended(sorted(lease for _, _, lease in grants))
    with site.client() as fleet:
        for name in NAMES:
            with fleet.lease(f"board={name}", max_wait=60.0) as lease, lease.session() as session:
                assert session.upload([f"{name} is there".encode()]) > 0
