"""The physics of the six domains: what each sensor type shows on a quiet day, and what incidents add to it.

One file per domain. Quiet signals stay clear of every limit of the packs at any hour, in any season and in any storm;
an incident of size 1 passes a limit soon after it began.
"""

from __future__ import annotations

from lifeline_stream.fleet.physics import bridge, drainage, gas, heating, tunnel, water
from lifeline_stream.fleet.signals import Hazard, Signal

_DOMAINS = (gas, drainage, bridge, heating, water, tunnel)

SIGNALS: dict[str, Signal] = {name: signal for domain in _DOMAINS for name, signal in domain.SIGNALS.items()}
"""`domain.sensor` → what it shows."""

HAZARDS: dict[str, Hazard] = {kind: hazard for domain in _DOMAINS for kind, hazard in domain.HAZARDS.items()}
"""Kind of incident → what it adds."""
