"""`python -m magnet`, and `accelerate launch -m magnet`."""

from magnet.cli import main

main()
