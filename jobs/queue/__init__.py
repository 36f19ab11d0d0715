"""Every change of a job's state, and nothing else changes one; and what a job may ask of a preset."""
