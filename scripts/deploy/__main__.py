"""The folder as a program, `python scripts/deploy -i ... -o ...`, as the container starts it."""

from app import main

main()
