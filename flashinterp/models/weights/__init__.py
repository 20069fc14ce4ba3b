"""Where tensors come from: safetensors folders, live models, quantised formats."""
