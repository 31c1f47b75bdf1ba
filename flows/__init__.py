"""Prefect flow, deployment and server; the only code that imports Prefect."""

import warnings

# importing Prefect warns of a home that it cannot make; `flows.connection` reports it with a remedy
warnings.filterwarnings("ignore", message="Failed to create the Prefect home directory")
