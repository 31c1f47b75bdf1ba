"""`python -m components <stage>`: the same program as `llm2clip`."""

from components.cli.main import main

if __name__ == "__main__":  # worker processes import this module by another name
    main()
