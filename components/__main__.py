"""`python -m components <stage>`: the same program as `llm2clip`."""

from components.cli import main

main()
