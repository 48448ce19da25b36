"""Strict, frozen configuration: one pydantic model per stage, loaded from one section of `params.yaml`."""
