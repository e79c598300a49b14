"""PnP-ReG: a learned regularizing gradient for plug-and-play gradient descent.

The library behind the reproduction of Fermanian, Le Pendu and Guillemot, SIAM Journal on
Imaging Sciences 16(2), 585-613, 2023 (arXiv 2204.13940). Import the modules that you need,
for instance `reg.operators` or `reg.iterations`; this one loads nothing.
"""

__version__ = "0.1.0"
