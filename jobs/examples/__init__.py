"""Examples to copy: a job of a logical date handed to a Ray cluster by an orchestrator."""
