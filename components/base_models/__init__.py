"""The stage base_models: fetch or train the models that later stages start from."""
