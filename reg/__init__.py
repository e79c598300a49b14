"""PnP-ReG: a learned regularizing gradient for plug-and-play gradient descent.

The library behind the reproduction of Fermanian, Le Pendu and Guillemot, SIAM Journal on
Imaging Sciences 16(2), 585-613, 2023 (arXiv 2204.13940). Import the modules that you need,
for instance `reg.operators` or `reg.iterations`; this one loads nothing. `reg.restore` and
`reg.degrade`, for photographs as arrays, load `reg.restoration` when they are first used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reg.restoration import degrade as degrade
    from reg.restoration import restore as restore

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in ("restore", "degrade"):
        raise AttributeError(f"module 'reg' has no attribute '{name}'")
    from reg import restoration

    return getattr(restoration, name)
