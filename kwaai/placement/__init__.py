"""Which layers run where: ranges, chains, whether one machine is enough. Values in, values out."""
