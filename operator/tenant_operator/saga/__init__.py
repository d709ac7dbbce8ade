"""A durable saga engine: ordered activities, journalled intent, compensation in reverse. Standard library only."""
