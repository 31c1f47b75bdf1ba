"""The only code that knows Prefect."""

import warnings

# importing Prefect warns of a home that it cannot make; `flows.connection` says it, and what to do
warnings.filterwarnings("ignore", message="Failed to create the Prefect home directory")
