"""The whole service on one machine, without Docker and without root: for the demo, for development, for the
tests. Real Postgres, a real S3 server, the simulator in the GPU's place."""
