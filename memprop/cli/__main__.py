"""``python -m memprop.cli``."""

from memprop.cli import main

main()
