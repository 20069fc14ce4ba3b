"""From weights to a `NeuronMap`: which tokens each neuron names."""
