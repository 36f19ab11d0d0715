"""Every change of a job's state. Nothing else changes one."""
