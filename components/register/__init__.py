"""register: a trained arm that passed its gates becomes a release, and the release goes to the registry."""
