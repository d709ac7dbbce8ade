"""The ports of the domain made real: Kubernetes, PostgreSQL, mail, HTTP, audit sinks, the clock."""
