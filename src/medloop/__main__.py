"""``python -m medloop``."""

from medloop.cli import main

main()
