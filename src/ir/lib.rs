//! What a graph is: types, symbolic dimensions, tensors, the graph, its text form and its reference interpreter.
