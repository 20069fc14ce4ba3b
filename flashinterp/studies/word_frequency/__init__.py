"""What gives a word a neuron of its own: frequency, capacity or size?"""
