"""A fleet of scripted providers on real sockets: for the demo, the tests and the benchmark."""
