"""`python -m mlx_sd` is the command `mlx-sd`."""

from .cli import main

main()
