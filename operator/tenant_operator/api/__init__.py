"""The custom resources as frozen models: what clients write and what the operator reports. No I/O."""
