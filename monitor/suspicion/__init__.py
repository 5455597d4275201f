"""Self-suspicion: whether a failure to reach a provider is the provider's, or our own network's."""
