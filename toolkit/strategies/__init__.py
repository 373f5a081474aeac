"""Strategies: adapters, the systems they give, and the adapters that ship."""
