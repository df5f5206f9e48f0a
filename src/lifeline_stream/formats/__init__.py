"""Wire formats: payload bytes to rows, one file per format."""

from __future__ import annotations

from collections.abc import Callable

from lifeline_stream.core.model import Decoded
from lifeline_stream.formats import json_v1

FORMATS: dict[str, Callable[[bytes], Decoded]] = {"json.v1": json_v1.decode}
"""Name in a topology → decoder, which never raises."""
