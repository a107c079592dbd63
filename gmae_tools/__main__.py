"""`python -m gmae_tools`: the command line, for launchers that start modules (`torchrun -m gmae_tools ...`)."""

from gmae_tools.cli import main

main()
