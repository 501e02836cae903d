"""`python -m dlrm_adahessian`."""

import sys

from dlrm_adahessian.cli import main

sys.exit(main())
