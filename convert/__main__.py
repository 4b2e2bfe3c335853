"""`python -m mlx_sd.convert` is `mlx-sd convert`."""

import sys

from ..cli import main

main(["convert", *sys.argv[1:]], prog_name="mlx-sd")
