"""A ComfyUI without a GPU: its protocol, its queue and its faults, with a test card instead of the model."""
