"""Plain NumPy twins of every kernel: same name, same arguments, no tricks.

They are written to be read, and to be believed; the tests hold the kernels to
them. tests/test_registry.py fails when a public function has no test, or when a
kernel has no twin here.
"""

from __future__ import annotations

import numpy as np
