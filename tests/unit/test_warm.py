"""What `lifeline warm` leaves nothing to compile of."""

from __future__ import annotations

import subprocess
import sys

ENTRIES = """
from lifeline_stream.core import kernels
from lifeline_stream.core.kernels import absence, arrival, convert, flat, gate, ladder, rate
from lifeline_stream.core.warm import compile_kernels

compile_kernels()
entries = [family.step for family in (absence, flat, gate, ladder, rate)]
entries += [absence.advance, gate.advance, arrival.classify, arrival.observe, convert.convert, convert.flag_all]
print(*(f"{e.py_func.__module__}.{e.py_func.__name__}" for e in entries if not e.signatures))
"""


def test_after_warming_every_kernel_that_python_calls_is_compiled() -> None:
    done = subprocess.run([sys.executable, "-c", ENTRIES], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
