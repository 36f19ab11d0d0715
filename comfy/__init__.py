"""Everything that knows ComfyUI, and nothing that knows Django."""
