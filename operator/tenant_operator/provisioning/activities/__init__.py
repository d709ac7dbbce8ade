"""The activities of the plan, one file each."""
