"""Organizations and Plans: what they say of themselves, and the roles of members."""
