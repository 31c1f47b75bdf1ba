"""The only code that knows Prefect."""
