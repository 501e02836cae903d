import subprocess
import sys

import pytest

PROGRAM = """
import ctypes, sys
import torch
from dlrm_adahessian.runtime.allocator import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()


class Mallinfo2(ctypes.Structure):
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]


mallinfo2 = ctypes.CDLL(None).mallinfo2
mallinfo2.restype = Mallinfo2
before = mallinfo2().hblks
tensor = torch.ones(2_000_000)
print(mallinfo2().hblks - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_a_tensor_of_megabytes_is_mapped_anew_unless_freed_memory_is_kept():
    mapped = [
        int(subprocess.check_output([sys.executable, "-c", PROGRAM, how], text=True))
        for how in ("keep", "give back")
    ]
    assert mapped == [0, 1]
