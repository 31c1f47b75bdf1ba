"""The stage base_models: the models that everything starts from."""
