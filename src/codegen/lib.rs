//! From a placed graph to a plan: regions to kernels, weights packed, steps assembled.
