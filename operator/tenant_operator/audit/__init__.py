"""The audit feed on its way: from the outboxes to the sink."""
