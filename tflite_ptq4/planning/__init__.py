"""From graph, statistics and config to a plan: bits, scale and clip of every tensor."""
