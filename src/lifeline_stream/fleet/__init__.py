"""The simulated city: its physics, its incidents and faults, and the gateways that publish it."""
