"""What a provisioning costs, measured against a floor: the same objects, database and emails by a script that keeps no
journal and cannot roll back. `make bench` runs both in turn on a development cluster of its own."""
