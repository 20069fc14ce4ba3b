"""How hard hypothesis tries: its profiles, and a test's own number of examples in each of them."""

from __future__ import annotations

import os

from hypothesis import settings

USUAL = settings.get_profile("default").max_examples

# No deadline in any: on a busy machine an example may take ten times as long as on a quiet one.
settings.register_profile("ci", max_examples=USUAL, derandomize=True, deadline=None)
# What `tox -e tests` takes: too few to trust alone, and the next tier has them all.
settings.register_profile("fast", max_examples=USUAL * 2 // 5, derandomize=True, deadline=None)
settings.register_profile("dev", max_examples=USUAL, deadline=None)
# Other examples each night, and more of them; a failure prints what repeats it.
settings.register_profile("nightly", max_examples=5 * USUAL, derandomize=False, deadline=None, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "dev")  # --hypothesis-profile comes later, and counts


def examples(count: int) -> settings:
    """A number of examples for a test that cannot afford the usual 100; each profile scales it as it scales those."""
    return settings(max_examples=max(1, count * settings().max_examples // USUAL))
