"""Train DLRM: `python train.py --dataset criteo`. Same as `python -m dlrm_adahessian train`."""

import sys

from dlrm_adahessian.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
