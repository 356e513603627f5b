"""``python -m ferstore.cli``."""

from ferstore.cli.entry import main

main()
