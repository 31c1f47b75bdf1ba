"""HTTP clients: proxies, endpoints, and which errors are worth a retry."""
