"""What vLLM says beside texts."""
